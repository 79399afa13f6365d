//! An app that writes down every byte it gets, and answers what it takes for requests.
//!
//! It reads HTTP/1 as strictly as the grammar goes, so that two readings of one stream of bytes
//! show: what is no message makes it give up the connection and note why.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Request line and header lines, without the empty line.
    pub head: String,
    /// Without chunk framing.
    pub body: Vec<u8>,
}

/// A running app. Ends with the test.
#[derive(Clone, Debug)]
pub struct Recorder {
    pub address: SocketAddr,
    seen: Rc<RefCell<Vec<Seen>>>,
    garbage: Rc<RefCell<Vec<String>>>,
}

/// The bytes of a connection that were not used yet.
struct Unread {
    stream: TcpStream,
    bytes: Vec<u8>,
}

// === impl Seen ===

impl Seen {
    /// The values of a header, its name in any case.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.head
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The request line.
    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }
}

// === impl Recorder ===

impl Recorder {
    /// Answers `ok` to every request.
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        let this = Self {
            address: socket.local_addr().expect("bound"),
            seen: Rc::default(),
            garbage: Rc::default(),
        };
        let app = this.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let app = app.clone();
                tokio::task::spawn_local(async move {
                    let bytes = Vec::new();
                    app.serve(Unread { stream, bytes }).await;
                });
            }
        });
        this
    }

    /// Takes what was seen until now.
    pub fn take(&self) -> Vec<Seen> {
        self.seen.take()
    }

    /// Takes what was no HTTP.
    pub fn take_garbage(&self) -> Vec<String> {
        self.garbage.take()
    }

    async fn serve(&self, mut unread: Unread) {
        loop {
            match unread.request().await {
                Ok(Some(seen)) => self.seen.borrow_mut().push(seen),
                Ok(None) => return,
                Err(garbage) => return self.garbage.borrow_mut().push(garbage),
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if unread.stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

// === impl Unread ===

impl Unread {
    /// The next request, unless the connection ends between two or within one.
    async fn request(&mut self) -> Result<Option<Seen>, String> {
        let Some(head) = self.until(b"\r\n\r\n").await else {
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut seen = Seen {
            head,
            body: Vec::new(),
        };
        check_head(&seen)?;
        let lengths = seen.values("content-length");
        let codings = seen.values("transfer-encoding");
        let body = match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Some(Vec::new()),
            ([length], []) => {
                let length = length.parse().map_err(|_| format!("length {length:?}"))?;
                self.exactly(length).await
            }
            ([], ["chunked"]) => self.chunks().await?,
            _ => return Err(format!("ambiguous framing: {}", seen.head)),
        };
        let Some(body) = body else {
            return Ok(None);
        };
        seen.body = body;
        Ok(Some(seen))
    }

    async fn chunks(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut body = Vec::new();
        loop {
            let Some(line) = self.until(b"\r\n").await else {
                return Ok(None);
            };
            let line = String::from_utf8_lossy(&line).into_owned();
            let size = usize::from_str_radix(&line, 16).map_err(|_| format!("chunk {line:?}"))?;
            if size == 0 {
                break;
            }
            let Some(data) = self.exactly(size).await else {
                return Ok(None);
            };
            body.extend(data);
            match self.until(b"\r\n").await {
                Some(rest) if rest.is_empty() => {}
                Some(rest) => return Err(format!("after a chunk: {rest:?}")),
                None => return Ok(None),
            }
        }
        loop {
            match self.until(b"\r\n").await {
                Some(trailer) if trailer.is_empty() => return Ok(Some(body)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The bytes before `end`, which is consumed too.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.bytes.windows(end.len()).position(|it| it == end);
            if let Some(at) = found {
                let rest = self.bytes.split_off(at + end.len());
                let mut before = std::mem::replace(&mut self.bytes, rest);
                before.truncate(at);
                return Some(before);
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.bytes.len() < count {
            self.more().await?;
        }
        let rest = self.bytes.split_off(count);
        Some(std::mem::replace(&mut self.bytes, rest))
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.bytes).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}

/// The grammar of RFC 9112 sections 3 and 5, as far as a second reading could hide in it.
fn check_head(seen: &Seen) -> Result<(), String> {
    let is_token = |text: &str| {
        let is_tchar =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(is_tchar)
    };
    let parts: Vec<&str> = seen.line().split(' ').collect();
    let well_formed = matches!(parts.as_slice(), [method, target, "HTTP/1.1"]
        if is_token(method) && !target.is_empty());
    if !well_formed {
        return Err(format!("request line {:?}", seen.line()));
    }
    for line in seen.head.split("\r\n").skip(1) {
        let name = line.split_once(':').map(|(name, _)| name);
        let bare = line.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        if bare || !name.is_some_and(is_token) {
            return Err(format!("header line {line:?}"));
        }
    }
    if seen.values("host").len() != 1 {
        return Err(format!("hosts in {}", seen.head));
    }
    Ok(())
}
