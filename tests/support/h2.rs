//! HTTP/2 frame by frame (RFC 9113 sections 4 and 6), for connections that no client would make.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long an expected frame may take.
const PATIENCE: Duration = Duration::from_secs(8);

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 0x20;

/// Error codes (RFC 9113 section 7).
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A client that sends what it is told.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame fits its length");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The bytes of a SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

/// The bytes of a WINDOW_UPDATE frame.
pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// The bytes of a RST_STREAM frame.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A header block of literals that are neither compressed nor remembered.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        literal(&mut bytes, 0, name.as_bytes(), value.as_bytes());
    }
    bytes
}

/// One literal with a new name; `kind` 0 forgets it and 0x40 puts it into the table.
pub fn literal(bytes: &mut Vec<u8>, kind: u8, name: &[u8], value: &[u8]) {
    bytes.push(kind);
    for text in [name, value] {
        integer(bytes, 0, 7, text.len());
        bytes.extend_from_slice(text);
    }
}

/// An integer behind a prefix of `bits` (RFC 7541 section 5.1).
pub fn integer(bytes: &mut Vec<u8>, prefix: u8, bits: u8, value: usize) {
    let most = (1 << bits) - 1;
    if let Some(short) = u8::try_from(value).ok().filter(|_| value < most) {
        bytes.push(prefix | short);
        return;
    }
    bytes.push(prefix | u8::try_from(most).expect("a prefix is part of a byte"));
    let mut rest = value - most;
    while rest >= 0x80 {
        bytes.push(0x80 | u8::try_from(rest & 0x7f).expect("seven bits"));
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
}

/// The fields of a request for `/`.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a.example"),
    (":path", "/"),
];

/// The fields of a request with a body.
pub const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "a.example"),
    (":path", "/"),
];

/// A whole GET.
pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

/// The head of a POST.
pub fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&POST))
}

// === impl Frame ===

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY frame.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn parse(bytes: &mut Vec<u8>) -> Option<Self> {
        let length = u32::from_be_bytes([0, *bytes.first()?, *bytes.get(1)?, *bytes.get(2)?]);
        let end = 9 + usize::try_from(length).ok()?;
        if bytes.len() < end {
            return None;
        }
        let rest = bytes.split_off(end);
        let whole = std::mem::replace(bytes, rest);
        Some(Self {
            kind: whole[3],
            flags: whole[4],
            stream: u32::from_be_bytes([whole[5] & 0x7f, whole[6], whole[7], whole[8]]),
            payload: whole[9..].to_vec(),
        })
    }
}

// === impl Client ===

impl Client {
    /// Only connects.
    pub async fn raw(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the sidecar listens");
        stream.set_nodelay(true).expect("an open socket");
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    /// Exchanges prefaces, with settings of the client's.
    pub async fn connect(address: SocketAddr, values: &[(u16, u32)]) -> Self {
        let mut this = Self::raw(address).await;
        this.send(&[PREFACE, &settings(values)].concat()).await;
        let first = this.frame().await.expect("the server's preface");
        assert_eq!((first.kind, first.flags), (SETTINGS, 0), "{first:?}");
        this.send(&frame(SETTINGS, ACK, 0, &[])).await;
        while this.frame().await.expect("an acknowledgement").kind != SETTINGS {}
        this
    }

    /// Sends bytes; whether the other side still took them.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next frame; `None` at the end of the connection. Panics when nothing comes for long.
    pub async fn frame(&mut self) -> Option<Frame> {
        self.frame_by(Instant::now() + PATIENCE)
            .await
            .expect("nothing comes, not even the end")
    }

    /// The next frame until `until`, `None` at the end of the connection.
    ///
    /// # Errors
    /// Nothing came in time.
    pub async fn frame_by(
        &mut self,
        until: Instant,
    ) -> Result<Option<Frame>, tokio::time::error::Elapsed> {
        loop {
            if let Some(frame) = Frame::parse(&mut self.unread) {
                return Ok(Some(frame));
            }
            let read = timeout_at(until, self.stream.read_buf(&mut self.unread)).await?;
            if read.unwrap_or(0) == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads until a frame for which `wanted` holds, which is the last of what is returned; fewer
    /// frames when the connection ends before it.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut seen = Vec::new();
        let by = Instant::now() + PATIENCE;
        loop {
            match self.frame_by(by).await {
                Ok(Some(frame)) => {
                    let found = wanted(&frame);
                    seen.push(frame);
                    if found {
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => panic!("not what is waited for, and not the end: {seen:?}"),
            }
        }
        seen
    }

    /// Reads until the answer on a stream has ended, and everything before.
    pub async fn answer(&mut self, stream: u32) -> Vec<Frame> {
        self.until(|it| {
            let ends = matches!(it.kind, HEADERS | DATA) && it.has(END_STREAM);
            it.kind == GOAWAY || it.stream == stream && (ends || it.kind == RST_STREAM)
        })
        .await
    }

    /// Reads until the connection ends.
    pub async fn rest(&mut self) -> Vec<Frame> {
        self.until(|_| false).await
    }

    /// A PING and everything until its acknowledgement, or until the end.
    pub async fn ping(&mut self) -> Vec<Frame> {
        self.send(&frame(PING, 0, 0, b"hostile!")).await;
        self.until(|it| it.kind == PING && it.has(ACK) && it.payload == b"hostile!")
            .await
    }
}

/// The status of the answer on a stream if it is one of the usual ones, which take one octet;
/// 0 for another.
pub fn status(frames: &[Frame], stream: u32) -> Option<u16> {
    let head = frames
        .iter()
        .find(|it| it.kind == HEADERS && it.stream == stream)?;
    let first = *head.payload.iter().find(|byte| **byte & 0xe0 != 0x20)?;
    match first {
        0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500]
            .get(usize::from(first - 0x88))
            .copied(),
        // Another one comes as text, which may be Huffman-coded: it is not told which.
        _ => Some(0),
    }
}
