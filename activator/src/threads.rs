//! An activator that serves on several threads.
//!
//! The driver stays on its thread, with the probes and the connection to the autoscaler. Every other
//! thread has an [`Activator`] of its own on a `LocalRuntime` of its own: a sibling. All decide by the
//! same revisions, queues, slots, limits and metrics, so a request waits for the same slots wherever
//! it came in; connections to pods and tunnels are each thread's own. No request takes a lock that is
//! shared by revisions. One thread is the cheapest per request; more serve what one core cannot.

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use serving::upgrade::Tunnels;
use tokio::sync::watch;

use crate::activator::{Activator, Common, Shared};
use crate::upstreams::{Listing, Upstreams};

/// An [`Activator`] on its way to another thread.
pub struct Sibling {
    common: Arc<Common>,
    listed: watch::Receiver<Listing>,
}

impl Activator {
    /// One for another thread that shares everything with this one but connections.
    pub fn sibling(&self) -> Sibling {
        let shared = self.shared();
        let listed = shared.listed.subscribe();
        // Nobody may have been there to keep it up to date for.
        if let Some(listing) = shared.upstreams.changed() {
            shared.listed.send_replace(listing);
        }
        Sibling {
            common: Arc::clone(&shared.common),
            listed,
        }
    }
}

impl Sibling {
    /// The activator of this thread. Must be called on a `LocalRuntime` or in a `LocalSet`, where a
    /// task of it closes connections to pods that are gone.
    pub fn activator(self) -> Activator {
        let Self { common, listed } = self;
        let upstreams = Rc::new(Upstreams::new(&common.options, Some(listed.clone())));
        tokio::task::spawn_local(Rc::clone(&upstreams).follow(listed));
        Activator::new(Rc::new(Shared {
            common,
            upstreams,
            tunnels: Tunnels::new(),
            tracing: OnceCell::new(),
        }))
    }
}

impl fmt::Debug for Sibling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sibling").finish_non_exhaustive()
    }
}
