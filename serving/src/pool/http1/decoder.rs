//! Where a response's body ends, and what of it is data: by length, in chunks, or until the
//! connection closes (RFC 9112 sections 6.3 and 7.1). Pure: bytes in, frames out.

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use super::Broken;

/// Bytes of a line that gives a chunk's size, with its extensions.
const MAX_SIZE_LINE: usize = 4 << 10;
/// Bytes that all chunks of a body may spend on anything but data, beyond [`FREE_OVERHEAD`] for
/// each and as much again as the data itself. Go's reader has the same bounds.
const MAX_OVERHEAD: u64 = 16 << 10;
/// What a chunk may always spend.
const FREE_OVERHEAD: u64 = 16;
/// Bytes of all trailers.
const MAX_TRAILER: usize = 16 << 10;
/// Lines of all trailers.
const MAX_TRAILERS: usize = 64;

/// What is left of a body.
#[derive(Debug)]
pub(super) enum Decoder {
    /// So many bytes.
    Length(u64),
    Chunked(Chunked),
    /// All that comes.
    UntilClose,
    Ended,
}

/// A place in a body of chunks.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    /// A line that has not ended: a chunk's size, or all trailers so far.
    line: Vec<u8>,
    overhead: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// So many bytes of data.
    Data(u64),
    /// The line end after the data.
    DataEnd,
    Trailers,
}

// === impl Decoder ===

impl Decoder {
    pub(super) fn length(length: u64) -> Self {
        match length {
            0 => Self::Ended,
            length => Self::Length(length),
        }
    }

    /// Whether all of the body has been handed out.
    pub(super) fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Whether exactly so many bytes are to come.
    pub(super) fn is_length(&self, length: usize) -> bool {
        match self {
            Self::Length(left) => *left == length as u64,
            Self::Ended => length == 0,
            Self::Chunked(_) | Self::UntilClose => false,
        }
    }

    /// The end of the connection: fine where that is the end of the body.
    pub(super) fn close(&mut self) -> Result<(), Broken> {
        match self {
            Self::UntilClose | Self::Ended => {
                *self = Self::Ended;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(Broken::UnexpectedEof),
        }
    }

    /// The next frame in `input`, from which what was understood is taken. `None` when more bytes
    /// are needed, or at the end.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame<Bytes>>, Broken> {
        if input.is_empty() {
            return Ok(None);
        }
        match self {
            Self::Ended => Ok(None),
            Self::UntilClose => Ok(Some(Frame::data(std::mem::take(input)))),
            Self::Length(left) => {
                let data = take(input, left);
                if *left == 0 {
                    *self = Self::Ended;
                }
                Ok(Some(Frame::data(data)))
            }
            Self::Chunked(chunked) => {
                let frame = chunked.decode(input)?;
                if chunked.is_ended(frame.as_ref()) {
                    *self = Self::Ended;
                    return Ok(frame.filter(|frame| !is_empty(frame)));
                }
                Ok(frame)
            }
        }
    }
}

/// Trailers that there are none of.
fn is_empty(frame: &Frame<Bytes>) -> bool {
    frame.trailers_ref().is_some_and(HeaderMap::is_empty)
}

/// At most `left` bytes of `input`, which are taken from both.
fn take(input: &mut Bytes, left: &mut u64) -> Bytes {
    let count = usize::try_from(*left).unwrap_or(usize::MAX);
    let data = input.split_to(count.min(input.len()));
    *left -= data.len() as u64;
    data
}

// === impl Chunked ===

impl Chunked {
    /// The trailers are the last frame, also when there are none.
    fn is_ended(&self, frame: Option<&Frame<Bytes>>) -> bool {
        frame.is_some_and(Frame::is_trailers)
    }

    fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame<Bytes>>, Broken> {
        while !input.is_empty() {
            match &mut self.state {
                State::Size => self.size(input)?,
                State::Data(left) => {
                    let data = take(input, left);
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Some(Frame::data(data)));
                }
                State::DataEnd => self.data_end(input)?,
                State::Trailers => {
                    if let Some(trailers) = self.trailers(input)? {
                        return Ok(Some(Frame::trailers(trailers)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Moves bytes of a line into `self.line`; whether the line is complete. `limit` bounds it.
    fn fill_line(&mut self, input: &mut Bytes, limit: usize) -> Result<bool, Broken> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + count > limit {
            return Err(malformed("header line too long"));
        }
        self.line.extend_from_slice(&input[..count]);
        input.advance(count);
        Ok(end.is_some())
    }

    fn size(&mut self, input: &mut Bytes) -> Result<(), Broken> {
        if !self.fill_line(input, MAX_SIZE_LINE)? {
            return Ok(());
        }
        let size = parse_size(&self.line)?;
        self.charge(self.line.len() as u64, size)?;
        self.line.clear();
        self.state = match size {
            0 => State::Trailers,
            size => State::Data(size),
        };
        Ok(())
    }

    /// Very small chunks with long extensions cost more than they carry.
    fn charge(&mut self, spent: u64, data: u64) -> Result<(), Broken> {
        let earned = FREE_OVERHEAD.saturating_add(data.saturating_mul(2));
        self.overhead = (self.overhead + spent).saturating_sub(earned);
        if self.overhead > MAX_OVERHEAD {
            return Err(malformed("chunked encoding contains too much non-data"));
        }
        Ok(())
    }

    fn data_end(&mut self, input: &mut Bytes) -> Result<(), Broken> {
        if !self.fill_line(input, 2)? {
            return Ok(());
        }
        if self.line != b"\r\n" {
            return Err(malformed("malformed chunked encoding"));
        }
        self.line.clear();
        self.state = State::Size;
        Ok(())
    }

    /// Lines up to an empty one.
    fn trailers(&mut self, input: &mut Bytes) -> Result<Option<HeaderMap>, Broken> {
        if !self.fill_line(input, MAX_TRAILER)? {
            return Ok(None);
        }
        let is_end = matches!(self.line.as_slice(), b"\r\n" | b"\n")
            || self.line.ends_with(b"\n\r\n")
            || self.line.ends_with(b"\n\n");
        if !is_end {
            return Ok(None);
        }
        let lines = std::mem::take(&mut self.line);
        parse_trailers(&lines).map(Some)
    }
}

/// A chunk's size line: hexadecimal digits, perhaps blanks and extensions.
fn parse_size(line: &[u8]) -> Result<u64, Broken> {
    let Some(line) = line.strip_suffix(b"\r\n") else {
        return Err(malformed("chunked line ends with bare LF"));
    };
    let number = line.split(|byte| *byte == b';').next().unwrap_or(line);
    let number = number.trim_ascii_end();
    let digits = std::str::from_utf8(number).unwrap_or_default();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_number || line.contains(&b'\r') {
        return Err(malformed("invalid byte in chunk length"));
    }
    u64::from_str_radix(digits, 16).map_err(|_| malformed("http chunk length too large"))
}

fn parse_trailers(lines: &[u8]) -> Result<HeaderMap, Broken> {
    let mut parsed = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let Ok(httparse::Status::Complete((_, parsed))) = httparse::parse_headers(lines, &mut parsed)
    else {
        return Err(malformed("malformed trailers"));
    };
    let mut trailers = HeaderMap::new();
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

fn malformed(what: &str) -> Broken {
    Broken::Malformed(what.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Data and trailers of `input`, which arrives in pieces of `step` bytes, and what is left.
    fn read(
        mut decoder: Decoder,
        input: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Broken> {
        let mut data = Vec::new();
        let mut trailers = None;
        let mut read = 0;
        for piece in input.chunks(step) {
            let mut piece = Bytes::copy_from_slice(piece);
            let before = piece.len();
            while let Some(frame) = decoder.decode(&mut piece)? {
                match frame.into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            read += before - piece.len();
            if decoder.is_ended() {
                return Ok((data, trailers, input.len() - read));
            }
        }
        decoder.close()?;
        Ok((data, trailers, input.len() - read))
    }

    fn chunked(input: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Broken> {
        read(Decoder::Chunked(Chunked::default()), input, step)
    }

    #[test]
    fn chunks_and_trailers_in_pieces_of_any_size() {
        let input = b"5\r\nhello\r\n7;a=\"b\" \r\n, world\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\nnext";
        for step in 1..=input.len() {
            let (data, trailers, left) = chunked(input, step).unwrap();
            assert_eq!(data, b"hello, world");
            let trailers = trailers.unwrap();
            let sums: Vec<_> = trailers.get_all("x-sum").iter().collect();
            assert_eq!(
                (sums[0].as_bytes(), sums[1].as_bytes()),
                (&b"1"[..], &b"2"[..])
            );
            assert!(left >= 4, "{step}");
        }
        let (data, trailers, left) = chunked(b"0\r\n\r\n", 1).unwrap();
        assert!(data.is_empty() && trailers.is_none() && left == 0);
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for input in [
            &b"x\r\n"[..],
            b"\r\n",
            b"5\nhello",
            b"5\r\nhelloo\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"-1\r\n",
            b"0x5\r\n",
            b"+5\r\n",
            b"5 5\r\n",
            b"10000000000000000\r\n",
            b"5\r;\r\n",
            b"0\r\n broken\r\n\r\n",
        ] {
            for step in [1, input.len()] {
                let error = chunked(input, step).expect_err("malformed");
                assert!(
                    matches!(error, Broken::Malformed(_)),
                    "{input:?}: {error:?}"
                );
            }
        }
        for input in [
            &b"5\r\nhell"[..],
            b"5\r\nhello\r\n",
            b"0\r\n",
            b"0\r\nA: b\r\n",
        ] {
            let error = chunked(input, 1).expect_err("cut short");
            assert!(
                matches!(error, Broken::UnexpectedEof),
                "{input:?}: {error:?}"
            );
        }
    }

    /// The limits hold to the byte.
    #[test]
    fn lines_are_bounded() {
        let line = |length: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(length - 4));
        assert!(chunked(line(MAX_SIZE_LINE).as_bytes(), 512).is_ok());
        assert!(chunked(line(MAX_SIZE_LINE + 1).as_bytes(), 512).is_err());
        // Four bytes of line beyond what a byte of data and the chunk itself earn.
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(FREE_OVERHEAD as usize + 2));
        let allowed = usize::try_from(MAX_OVERHEAD / 4).unwrap();
        let body = |chunks: usize| chunk.repeat(chunks) + "0\r\n\r\n";
        assert!(chunked(body(allowed).as_bytes(), 4096).is_ok());
        assert!(chunked(body(allowed + 1).as_bytes(), 4096).is_err());
        let trailer = |length: usize| format!("0\r\nA: {}\r\n\r\n", "v".repeat(length - 7));
        assert!(chunked(trailer(MAX_TRAILER).as_bytes(), 512).is_ok());
        assert!(chunked(trailer(MAX_TRAILER + 1).as_bytes(), 512).is_err());
    }

    #[test]
    fn length_and_close_end_where_they_say() {
        let (data, _, left) = read(Decoder::length(3), b"abcdef", 2).unwrap();
        assert_eq!((data.as_slice(), left), (&b"abc"[..], 3));
        assert!(matches!(
            read(Decoder::length(9), b"abc", 2),
            Err(Broken::UnexpectedEof)
        ));
        let (data, _, _) = read(Decoder::UntilClose, b"abcdef", 4).unwrap();
        assert_eq!(data, b"abcdef");
        assert!(Decoder::length(0).is_ended());
    }

    proptest! {
        /// Whatever comes, in whatever pieces: the same result, and no panic.
        #[test]
        fn pieces_make_no_difference(
            input in proptest::collection::vec(
                prop_oneof![Just(b'0'), Just(b'5'), Just(b'\r'), Just(b'\n'), Just(b';'), any::<u8>()],
                0..64,
            ),
            step in 1_usize..8,
        ) {
            let whole = chunked(&input, input.len().max(1)).map(|(data, ..)| data).ok();
            let pieces = chunked(&input, step).map(|(data, ..)| data).ok();
            prop_assert_eq!(whole, pieces);
        }
    }
}
