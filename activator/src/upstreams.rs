//! Connections to destinations, one pool each, shared by probes and requests: a probe that passed
//! leaves a warm connection for the first request. With system-internal TLS requests have a pool of
//! their own, while probes stay in the clear.
//!
//! A pool lives as long as its destination is listed; pod addresses are used again for other pods.
//! The driver lists on its own thread. Each other thread has pools of its own, made when its requests
//! need them, and follows the driver's [`Listing`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use serving::pool::{Upstream, UpstreamOptions};
use tokio::sync::watch;

use crate::internal_tls::InternalTls;
use crate::options::Options;
use crate::pod_tracker::PodTracker;

/// All destinations that are listed.
pub(crate) type Listing = Arc<HashSet<SocketAddr>>;

/// See the module. One per thread.
#[derive(Debug)]
pub(crate) struct Upstreams {
    options: UpstreamOptions,
    tls: Option<InternalTls>,
    known: RefCell<HashMap<SocketAddr, Known>>,
    /// What the driver's thread has listed, on every other thread.
    listed: Option<watch::Receiver<Listing>>,
    /// Whether something was listed or unlisted since that was last asked.
    has_changed: Cell<bool>,
}

#[derive(Debug)]
struct Known {
    plain: Rc<Upstream>,
    /// By the namespace whose certificates are expected; more than one only for the moment in
    /// which an address changes hands.
    secure: Vec<(Box<str>, Rc<Upstream>)>,
    /// Lists that name the destination: a moment's overlap of two is possible. On other threads
    /// than the driver's it stays at one.
    listed: usize,
}

// === impl Upstreams ===

impl Upstreams {
    /// Those of the driver's thread, or those of another one, which follows what that has `listed`.
    pub(crate) fn new(options: &Options, listed: Option<watch::Receiver<Listing>>) -> Self {
        Self {
            options: UpstreamOptions {
                max_idle: options.max_idle_connections_per_destination,
                max_silence: Some(options.max_silence),
                ..UpstreamOptions::default()
            },
            tls: options.internal_tls.clone(),
            known: RefCell::new(HashMap::new()),
            listed,
            has_changed: Cell::new(false),
        }
    }

    /// The pool of a destination for probes; one that is not listed (any more) gets a pool that is
    /// not kept.
    pub(crate) fn plain(&self, dest: SocketAddr) -> Rc<Upstream> {
        if let Some(known) = self.known.borrow().get(&dest) {
            return Rc::clone(&known.plain);
        }
        let listed = self.listed.as_ref();
        if listed.is_some_and(|listed| listed.borrow().contains(&dest)) {
            self.list(dest);
            return self.plain(dest);
        }
        Upstream::new(dest, self.options.clone())
    }

    /// The pool for requests to a revision of `namespace`.
    pub(crate) fn get(&self, tracker: &PodTracker, namespace: &str) -> Rc<Upstream> {
        match &self.tls {
            None => self.plain(tracker.dest()),
            Some(tls) => {
                if self.listed.is_some() {
                    // So that it is known where others list.
                    self.plain(tracker.dest());
                }
                self.secure(tls, tracker, namespace)
            }
        }
    }

    fn secure(&self, tls: &InternalTls, tracker: &PodTracker, namespace: &str) -> Rc<Upstream> {
        let mut known = self.known.borrow_mut();
        let known = known.get_mut(&tracker.dest());
        let of = |known: &Known| {
            let mut all = known.secure.iter();
            let found = all.find(|(owner, _)| **owner == *namespace)?;
            Some(Rc::clone(&found.1))
        };
        if let Some(upstream) = known.as_deref().and_then(of) {
            return upstream;
        }
        let mut dest = tracker.dest();
        dest.set_port(if tracker.is_cluster_ip() {
            tls.ports().service
        } else {
            tls.ports().pod
        });
        let options = UpstreamOptions {
            tls: Some(tls.upstream(namespace)),
            ..self.options.clone()
        };
        let upstream = Upstream::new(dest, options);
        if let Some(known) = known {
            known.secure.push((namespace.into(), Rc::clone(&upstream)));
        }
        upstream
    }

    /// The destination appeared in a list.
    pub(crate) fn list(&self, dest: SocketAddr) {
        let mut known = self.known.borrow_mut();
        let entry = known.entry(dest).or_insert_with(|| Known {
            plain: Upstream::new(dest, self.options.clone()),
            secure: Vec::new(),
            listed: 0,
        });
        entry.listed += 1;
        self.has_changed.set(true);
    }

    /// It left a list; after the last one its idle connections are closed.
    pub(crate) fn unlist(&self, dest: SocketAddr) {
        let mut known = self.known.borrow_mut();
        let Some(entry) = known.get_mut(&dest) else {
            return;
        };
        entry.listed -= 1;
        if entry.listed == 0 {
            entry.close();
            known.remove(&dest);
            self.has_changed.set(true);
        }
    }

    /// What is listed, if that has changed since the last call; `None` on other threads than the
    /// driver's.
    pub(crate) fn changed(&self) -> Option<Listing> {
        let changed = self.listed.is_none() && self.has_changed.take();
        changed.then(|| Arc::new(self.known.borrow().keys().copied().collect()))
    }

    /// Closes the pools of what is listed no longer, until the driver is gone.
    pub(crate) async fn follow(self: Rc<Self>, mut listed: watch::Receiver<Listing>) {
        while listed.changed().await.is_ok() {
            let listed = Arc::clone(&listed.borrow_and_update());
            self.known.borrow_mut().retain(|dest, known| {
                let stays = listed.contains(dest);
                if !stays {
                    known.close();
                }
                stays
            });
        }
    }
}

// === impl Known ===

impl Known {
    fn close(&self) {
        self.plain.close();
        self.secure.iter().for_each(|(_, it)| it.close());
    }
}
