//! What a handler may know about the connection of a request, and when the connection is busy.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use http::HeaderValue;
use tokio::time::Instant;

use super::{Activity, WINDOW};
use crate::deadline::{Deadline, Timeouts, Watch};

/// The connection of a request.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    peer_ip: HeaderValue,
    tls: bool,
    /// Of the task that is being polled: the connection's own, or that of an HTTP/2 stream.
    watch: RefCell<Rc<Watch>>,
    /// Requests that were begun and whose response has not ended.
    busy: Cell<u32>,
    /// The request being handled waits; see [`Connection::set_waiting`].
    is_waiting: Cell<bool>,
    /// See [`Connection::count_unread`].
    unread: Cell<u32>,
    activity: Activity,
}

/// One request that keeps its connection busy.
#[derive(Debug)]
pub(crate) struct Busy(Rc<Connection>);

// === impl Connection ===

impl Connection {
    pub(super) fn new(peer: SocketAddr, tls: bool, watch: Rc<Watch>) -> Rc<Self> {
        // A listener on the IPv6 wildcard sees IPv4 peers as mapped addresses; Go does not.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let peer_ip = HeaderValue::try_from(peer.ip().to_string())
            .expect("an address is made of visible characters");
        Rc::new(Self {
            peer,
            peer_ip,
            tls,
            watch: RefCell::new(watch),
            busy: Cell::new(0),
            is_waiting: Cell::new(false),
            unread: Cell::new(0),
            activity: Activity::default(),
        })
    }

    /// A connection that exists only in tests of handlers.
    pub fn detached(peer: SocketAddr) -> Rc<Self> {
        Self::new(peer, false, Watch::supervised(Rc::default()))
    }

    /// The client's address; IPv4 also when it came through an IPv6 socket.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The client's address without port, ready to be put into a header.
    pub fn peer_ip(&self) -> &HeaderValue {
        &self.peer_ip
    }

    /// Whether the client speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Starts the clocks of the request being handled. To be called by the handler's own future,
    /// at most once per request.
    pub fn deadline(&self, timeouts: &Timeouts) -> Deadline {
        self.deadline_at(timeouts, Instant::now())
    }

    /// [`Connection::deadline`] for a caller that has read the clock already.
    pub fn deadline_at(&self, timeouts: &Timeouts, now: Instant) -> Deadline {
        Deadline::start(&self.watch.borrow(), timeouts, now)
    }

    /// Ends when the client has hung up while its request's body is not being read: hyper looks at
    /// the socket only when it reads, so a handler that lets such a request wait has to look itself.
    /// Never ends on HTTP/2, where the handler is dropped in any case. Takes a file descriptor for
    /// as long as it is polled. Cancel-safe.
    pub async fn hung_up(&self) {
        self.activity.hung_up().await;
    }

    /// Says that the request being handled waits, for nothing that its client could send, or does so
    /// no longer. While it waits, its client's leaving is noticed also behind further requests that
    /// are still unread, which takes a file descriptor if there are any. Otherwise they are answered,
    /// as in Go, although their client may have closed its side behind them.
    pub fn set_waiting(&self, waiting: bool) {
        self.is_waiting.set(waiting);
    }

    /// Counts `bytes` of an HTTP/2 stream's body that its client may send before they are read, and
    /// returns how many they are beyond those that are counted already: all streams share the
    /// connection's window. To be given back with [`Connection::forget_unread`].
    pub fn count_unread(&self, bytes: u32) -> u32 {
        let before = self.unread.get();
        let counted = bytes.min(WINDOW - before);
        self.unread.set(before + counted);
        counted
    }

    /// They are read, or their stream has ended.
    pub fn forget_unread(&self, counted: u32) {
        self.unread.set(self.unread.get() - counted);
    }

    /// Whether a [`super::Gate`] has let the request being handled through already.
    pub fn is_weighed(&self) -> bool {
        self.activity.edge().is_weighed()
    }

    pub(super) fn watch(&self) -> Rc<Watch> {
        Rc::clone(&self.watch.borrow())
    }

    /// Exchanges the watch for that of the task that is about to be polled.
    pub(super) fn swap_watch(&self, watch: &mut Rc<Watch>) {
        std::mem::swap(&mut *self.watch.borrow_mut(), watch);
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.get() > 0
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.get()
    }

    /// A request's head has been read.
    pub(super) fn begin(self: &Rc<Self>) -> Busy {
        self.is_waiting.set(false);
        self.busy.set(self.busy.get() + 1);
        self.activity.clear();
        self.watch.borrow().expect_head(None);
        Busy(Rc::clone(self))
    }
}

// === impl Busy ===

impl Busy {
    pub(super) fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        // What was read until now belongs to the request that ends.
        self.0.activity.clear();
        if !self.0.is_busy() {
            self.0.activity.edge().end();
        }
    }
}
