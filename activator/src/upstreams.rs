//! Connections to destinations, one pool each, shared by probes and requests: a probe that passed
//! leaves a warm connection for the first request.
//!
//! A pool lives as long as its destination is listed; pod addresses are used again for other pods.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use serving::pool::{Upstream, UpstreamOptions};

/// See the module. One per thread.
#[derive(Debug)]
pub(crate) struct Upstreams {
    options: UpstreamOptions,
    known: RefCell<HashMap<SocketAddr, Known>>,
}

#[derive(Debug)]
struct Known {
    upstream: Rc<Upstream>,
    /// Lists that name the destination: a moment's overlap of two is possible.
    listed: usize,
}

// === impl Upstreams ===

impl Upstreams {
    pub(crate) fn new(options: UpstreamOptions) -> Self {
        Self {
            options,
            known: RefCell::new(HashMap::new()),
        }
    }

    /// The pool of a destination; one that is not listed (any more) gets a pool that is not kept.
    pub(crate) fn get(&self, dest: SocketAddr) -> Rc<Upstream> {
        match self.known.borrow().get(&dest) {
            Some(known) => Rc::clone(&known.upstream),
            None => Upstream::new(dest, self.options.clone()),
        }
    }

    /// The destination appeared in a list.
    pub(crate) fn list(&self, dest: SocketAddr) {
        let mut known = self.known.borrow_mut();
        let entry = known.entry(dest).or_insert_with(|| Known {
            upstream: Upstream::new(dest, self.options.clone()),
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
            entry.upstream.close();
            known.remove(&dest);
        }
    }
}
