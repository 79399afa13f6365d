//! Connections to destinations, one pool each, shared by probes and requests: a probe that passed
//! leaves a warm connection for the first request. With system-internal TLS requests have a pool of
//! their own, while probes stay in the clear.
//!
//! A pool lives as long as its destination is listed; pod addresses are used again for other pods.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use serving::pool::{Upstream, UpstreamOptions};

use crate::internal_tls::InternalTls;
use crate::pod_tracker::PodTracker;

/// See the module. One per thread.
#[derive(Debug)]
pub(crate) struct Upstreams {
    options: UpstreamOptions,
    tls: Option<InternalTls>,
    known: RefCell<HashMap<SocketAddr, Known>>,
}

#[derive(Debug)]
struct Known {
    plain: Rc<Upstream>,
    /// By the namespace whose certificates are expected; more than one only for the moment in
    /// which an address changes hands.
    secure: Vec<(Box<str>, Rc<Upstream>)>,
    /// Lists that name the destination: a moment's overlap of two is possible.
    listed: usize,
}

// === impl Upstreams ===

impl Upstreams {
    pub(crate) fn new(options: UpstreamOptions, tls: Option<InternalTls>) -> Self {
        Self {
            options,
            tls,
            known: RefCell::new(HashMap::new()),
        }
    }

    /// The pool of a destination for probes; one that is not listed (any more) gets a pool that is
    /// not kept.
    pub(crate) fn plain(&self, dest: SocketAddr) -> Rc<Upstream> {
        match self.known.borrow().get(&dest) {
            Some(known) => Rc::clone(&known.plain),
            None => Upstream::new(dest, self.options.clone()),
        }
    }

    /// The pool for requests to a revision of `namespace`.
    pub(crate) fn get(&self, tracker: &PodTracker, namespace: &str) -> Rc<Upstream> {
        match &self.tls {
            None => self.plain(tracker.dest()),
            Some(tls) => self.secure(tls, tracker, namespace),
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
    }

    /// It left a list; after the last one its idle connections are closed.
    pub(crate) fn unlist(&self, dest: SocketAddr) {
        let mut known = self.known.borrow_mut();
        let Some(entry) = known.get_mut(&dest) else {
            return;
        };
        entry.listed -= 1;
        if entry.listed == 0 {
            entry.plain.close();
            entry.secure.iter().for_each(|(_, it)| it.close());
            known.remove(&dest);
        }
    }
}
