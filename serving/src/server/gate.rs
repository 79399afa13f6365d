//! Refuses plain requests before they are parsed for the handler, for a process that gets so little
//! CPU that refusing must be far cheaper than serving.
//!
//! A request is taken away from hyper only where it is certain that nothing else is: on a
//! connection in the clear, when all that was read so far has become requests without a body whose
//! answers have ended, and when what was read now is exactly one such request in plain words.
//! Everything else goes the usual way, and the handler decides.
//!
//! While requests are refused, sending is left to the kernel where that is possible, of refusals and
//! of small answers alike: it is the larger part of what they cost, and the kernel does it outside
//! of this process's quota, within 200 ms.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, Method, Request, header};
use hyper::body::Body;

/// The whole answer to a refused request. RFC 9110 section 6.6.1 lets a 5xx go without a `Date`.
pub(super) const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Retry-After: 1\r\n\
    Content-Length: 11\r\n\r\n\
    overloaded\n";

/// Stands for all requests in [`Gate::set_share`].
const WHOLE: u32 = 1 << 16;

/// Header lines of a request that is looked at here; one with more goes the usual way.
const MAX_LINES: usize = 32;

/// Names that make a request more than plain, whatever they say.
const NOT_PLAIN: [&str; 6] = [
    "connection",
    "upgrade",
    "transfer-encoding",
    "content-length",
    "expect",
    "te",
];

/// Prefixes of names and user agents by which Knative's own parts speak; probes are among them.
const OF_KNATIVE: [&str; 4] = ["k-", "knative-", "pilotlight-", "kube-"];

/// Shared by the connections of one server. Atomic only because hyper wants upgradable streams to
/// be `Send`; nothing is ordered by it.
#[derive(Debug, Default)]
pub struct Gate {
    /// Of new requests, in parts of [`WHOLE`].
    share: AtomicU32,
    /// What has accumulated of the next refusal.
    due: AtomicU32,
    refused: AtomicU64,
}

/// What one connection's gate must know: whether the next byte begins a request.
#[derive(Debug, Default)]
pub(super) struct Edge {
    gate: OnceLock<Arc<Gate>>,
    state: AtomicU8,
    /// Bytes are left that the socket did not take.
    unwritten: AtomicBool,
    /// The gate let the last request through.
    weighed: AtomicBool,
    /// The gate refused a request since somebody asked.
    refused: AtomicBool,
}

/// Every byte that was read belongs to a request that has ended.
const FRESH: u8 = 0;
/// One read brought the end of a head and perhaps more.
const READ: u8 = 1;
/// A request without a body came of it.
const BEGUN: u8 = 2;
/// Not known, and not to be found out again.
const LOST: u8 = 3;

// === impl Gate ===

impl Gate {
    /// Refuses `share` of the requests from now on, between 0 and 1.
    pub fn set_share(&self, share: f64) {
        let parts = (share.clamp(0.0, 1.0) * f64::from(WHOLE)) as u32;
        self.share.store(parts, Ordering::Relaxed);
    }

    /// How many requests were refused since this was last asked.
    pub fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        self.share.load(Ordering::Relaxed) == 0
    }

    fn refuses(&self) -> bool {
        let due = self.due.load(Ordering::Relaxed) + self.share.load(Ordering::Relaxed);
        let refuses = due >= WHOLE;
        let left = if refuses { due - WHOLE } else { due };
        self.due.store(left, Ordering::Relaxed);
        refuses
    }
}

// === impl Edge ===

impl Edge {
    /// From now on, and from the connection's start: no byte was read yet.
    pub(super) fn guard_with(&self, gate: &Arc<Gate>) {
        // A second gate would be a second server's.
        let _ = self.gate.set(Arc::clone(gate));
    }

    /// `chunk` was read: whether to answer it with [`REFUSAL`] and forget it.
    pub(super) fn read(&self, chunk: &[u8]) -> bool {
        let Some(gate) = self.gate.get() else {
            return false;
        };
        self.weighed.store(false, Ordering::Relaxed);
        if self.state.load(Ordering::Relaxed) != FRESH {
            self.state.store(LOST, Ordering::Relaxed);
            return false;
        }
        if !gate.is_open() && !self.unwritten.load(Ordering::Relaxed) && is_plain(chunk) {
            if gate.refuses() {
                return true;
            }
            self.weighed.store(true, Ordering::Relaxed);
        }
        // A head that ends before the chunk's end would leave bytes with hyper: either another
        // request, which begins without a read, or empty lines, which belong to no request.
        let state = if chunk.ends_with(b"\r\n\r\n") {
            READ
        } else {
            LOST
        };
        self.state.store(state, Ordering::Relaxed);
        false
    }

    /// [`REFUSAL`] was written.
    pub(super) fn refused(&self) {
        if let Some(gate) = self.gate.get() {
            gate.refused.fetch_add(1, Ordering::Relaxed);
        }
        self.refused.store(true, Ordering::Relaxed);
    }

    /// `written` of `length` bytes were taken by the socket.
    pub(super) fn wrote(&self, written: usize, length: usize) {
        if self.gate.get().is_some() {
            self.unwritten.store(written < length, Ordering::Relaxed);
        }
    }

    /// A request was parsed.
    pub(super) fn begin<B: Body>(&self, request: &Request<B>) {
        if self.gate.get().is_some() {
            let ends_here = request.body().is_end_stream()
                && request.method() != Method::CONNECT
                && !announces_more(request.headers());
            let state = match self.state.load(Ordering::Relaxed) {
                READ if ends_here => BEGUN,
                _ => LOST,
            };
            self.state.store(state, Ordering::Relaxed);
        }
    }

    /// The last answer under way has ended.
    pub(super) fn end(&self) {
        if self.state.load(Ordering::Relaxed) == BEGUN {
            self.state.store(FRESH, Ordering::Relaxed);
        }
    }

    /// Whether what is written now can wait for the kernel's timer: all of it is the end of an
    /// answer to a plain request, and its client may have to wait while others are refused.
    pub(super) fn may_send_later(&self) -> bool {
        self.is_weighed()
            && self.state.load(Ordering::Relaxed) == FRESH
            && self.gate.get().is_some_and(|gate| !gate.is_open())
    }

    /// Whether the gate has decided about the request being handled already.
    pub(super) fn is_weighed(&self) -> bool {
        self.weighed.load(Ordering::Relaxed)
    }

    /// Whether a request was refused since this was last asked.
    pub(super) fn take_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) && self.refused.swap(false, Ordering::Relaxed)
    }
}

/// Whether bytes may follow that are not a request.
fn announces_more(headers: &HeaderMap) -> bool {
    [
        header::UPGRADE,
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
    ]
    .iter()
    .any(|name| headers.contains_key(name))
}

/// Whether `chunk` is one whole request, nobody's probe, and neither has a body nor asks for
/// anything that its answer would have to respect.
fn is_plain(chunk: &[u8]) -> bool {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut request = httparse::Request::new(&mut lines);
    if request.parse(chunk) != Ok(httparse::Status::Complete(chunk.len())) {
        return false;
    }
    let mut hosts = 0;
    for line in &*request.headers {
        let is = |name: &&str| line.name.eq_ignore_ascii_case(name);
        let of_knative = |text: &[u8]| {
            OF_KNATIVE.iter().any(|prefix| {
                text.get(..prefix.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
            })
        };
        let is_agent = is(&"user-agent");
        if NOT_PLAIN.iter().any(is)
            || of_knative(line.name.as_bytes())
            || (is_agent && of_knative(line.value))
        {
            return false;
        }
        hosts += u32::from(is(&"host"));
    }
    request.method == Some("GET")
        && request.version == Some(1)
        && request.path.is_some_and(|path| path.starts_with('/'))
        && hosts == 1
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn edge(share: f64) -> (Edge, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        gate.set_share(share);
        let edge = Edge::default();
        edge.guard_with(&gate);
        (edge, gate)
    }

    fn bodiless() -> Request<Empty<&'static [u8]>> {
        Request::new(Empty::new())
    }

    #[test]
    fn only_whole_and_plain_requests_are_refused() {
        assert!(is_plain(GET));
        assert!(is_plain(
            b"GET /x?y HTTP/1.1\r\nhost: a\r\nUser-Agent: curl\r\nCookie: b=c\r\n\r\n"
        ));
        for (what, request) in [
            ("half", "GET / HTTP/1.1\r\nHost: a\r\n"),
            (
                "two",
                "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ),
            (
                "empty lines behind",
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\n",
            ),
            ("HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("POST", "POST / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
            ("absolute form", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("no host", "GET / HTTP/1.1\r\nHos: a\r\n\r\n"),
            ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n"),
            (
                "a body",
                "GET / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\n",
            ),
            (
                "no body said",
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "chunks",
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (
                "close",
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            ),
            (
                "upgrade",
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            ),
            (
                "expect",
                "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            ),
            (
                "kubelet",
                "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\n\r\n",
            ),
            (
                "activator",
                "GET / HTTP/1.1\r\nHost: a\r\nuser-agent: Knative-Activator-Probe\r\n\r\n",
            ),
            (
                "a probe",
                "GET / HTTP/1.1\r\nHost: a\r\nk-network-probe: queue\r\n\r\n",
            ),
            (
                "kubelet's",
                "GET / HTTP/1.1\r\nHost: a\r\nK-Kubelet-Probe: x\r\n\r\n",
            ),
            (
                "our activator",
                "GET / HTTP/1.1\r\nHost: a\r\nPilotlight-Capability: x\r\n\r\n",
            ),
            ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ] {
            assert!(!is_plain(request.as_bytes()), "{what}");
            let (edge, _) = edge(1.0);
            assert!(!edge.read(request.as_bytes()), "{what}");
        }
    }

    #[test]
    fn nothing_is_refused_that_may_belong_to_something_else() {
        let posted = Request::new(Full::new(&b"body"[..]));
        let upgraded = Request::builder().header("upgrade", "websocket");
        let upgraded = upgraded.body(Empty::<&[u8]>::new()).unwrap();
        type Case<'a> = (&'a str, &'a dyn Fn(&Edge));
        let cases: [Case<'_>; 7] = [
            ("within a head", &|edge| {
                edge.read(b"GET / HTTP/1.1\r\nX: ");
            }),
            ("behind a head that nobody has parsed", &|edge| {
                edge.read(GET);
            }),
            ("before the answer", &|edge| {
                edge.read(GET);
                edge.begin(&bodiless());
            }),
            ("behind another request in the same bytes", &|edge| {
                edge.read(&[GET, GET].concat());
                edge.begin(&bodiless());
                edge.end();
                edge.begin(&bodiless());
                edge.end();
            }),
            ("within a body", &|edge| {
                edge.read(GET);
                edge.begin(&posted);
                edge.end();
            }),
            ("within a tunnel", &|edge| {
                edge.read(GET);
                edge.begin(&upgraded);
                edge.end();
            }),
            ("within an answer that the client does not take", &|edge| {
                edge.wrote(1, 2);
            }),
        ];
        for (what, before) in cases {
            let (edge, gate) = edge(0.0);
            before(&edge);
            gate.set_share(1.0);
            assert!(!edge.read(GET), "{what}");
        }
    }

    #[test]
    fn refuses_between_requests_and_counts() {
        let (edge, gate) = edge(0.0);
        assert!(!edge.read(GET));
        edge.begin(&bodiless());
        edge.end();
        gate.set_share(1.0);
        for _ in 0..3 {
            assert!(edge.read(GET));
            edge.refused();
        }
        assert!(edge.take_refused() && !edge.take_refused());
        assert_eq!((gate.take_refused(), gate.take_refused()), (3, 0));
        gate.set_share(0.0);
        assert!(!edge.read(GET));
        assert!(!edge.is_weighed());
    }

    #[test]
    fn what_the_gate_lets_through_is_not_weighed_again() {
        let (edge, _gate) = edge(0.5);
        assert!(!edge.read(GET));
        assert!(edge.is_weighed());
        edge.begin(&bodiless());
        edge.end();
        assert!(edge.read(GET));
        assert!(!edge.is_weighed());
    }

    #[test]
    fn without_a_gate_nothing_is_refused() {
        let edge = Edge::default();
        assert!(!edge.read(GET) && !edge.read(GET));
    }
}
