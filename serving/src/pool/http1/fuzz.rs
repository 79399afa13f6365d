//! Answers of an app that sends arbitrary bytes, in pieces of any size.

use bytes::{Bytes, BytesMut};

use super::head::{self, Head};

/// The first byte says whether a HEAD request is answered and in pieces of how many bytes; the rest
/// is what the app sends before it closes. The pieces make no difference to what is read.
pub fn response(data: &[u8]) {
    let Some((how, answer)) = data.split_first() else {
        return;
    };
    let is_head = how & 1 == 1;
    let step = usize::from(how >> 1).max(1);
    assert_eq!(
        read(answer, is_head, answer.len().max(1)),
        read(answer, is_head, step)
    );
}

/// Status, body, trailers, and whether the connection can be used again; nothing of an answer that
/// cannot be understood to its end.
fn read(answer: &[u8], is_head: bool, step: usize) -> Option<(u16, Vec<u8>, usize, bool)> {
    let mut pieces = answer.chunks(step).map(Bytes::copy_from_slice);
    let mut received = BytesMut::new();
    let (
        Head {
            response,
            mut body,
            keep_alive,
            ..
        },
        mut rest,
    ) = loop {
        let seen = received.len();
        received.extend_from_slice(&pieces.next()?);
        if !head::may_be_whole(&received, seen) {
            continue;
        }
        let whole = received.clone().freeze();
        if let Some(head) = head::parse(&whole, is_head, None).ok()? {
            let rest = whole.slice(head.length..);
            break (head, rest);
        }
    };
    let (mut data, mut trailers) = (Vec::new(), 0);
    while !body.is_ended() {
        while let Some(frame) = body.decode(&mut rest).ok()? {
            match frame.into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => trailers += frame.into_trailers().map_or(0, |it| it.len()),
            }
        }
        match pieces.next() {
            _ if body.is_ended() => {}
            Some(piece) if rest.is_empty() => rest = piece,
            Some(piece) => rest = [rest, piece].concat().into(),
            None => body.close().ok()?,
        }
    }
    assert!(data.len() <= answer.len());
    Some((response.status().as_u16(), data, trailers, keep_alive))
}
