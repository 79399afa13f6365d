//! Counts requests in progress and refuses those beyond the limits.

use std::cell::Cell;
use std::rc::Rc;

use http::Request;
use serving::body::Guard;

use super::refusal::Refusal;
use crate::cluster::replica::Replica;

/// How much may be in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: usize,
    /// Bytes of their heads.
    pub bytes: usize,
}

/// What is in progress now.
#[derive(Debug)]
pub(super) struct Counters {
    limits: Limits,
    requests: Cell<usize>,
    bytes: Cell<usize>,
}

/// One request in the count, until it is dropped. The default counts nothing.
#[derive(Debug, Default)]
pub struct Passing {
    counted: Option<(Rc<Counters>, usize)>,
    replica: Option<Rc<Replica>>,
}

// === impl Counters ===

impl Counters {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            requests: Cell::new(0),
            bytes: Cell::new(0),
        }
    }

    pub(super) fn now(&self) -> (usize, usize) {
        (self.requests.get(), self.bytes.get())
    }

    /// Counts a request in, if there is room for it.
    pub(super) fn enter<B>(self: &Rc<Self>, request: &Request<B>) -> Result<Passing, Refusal> {
        let bytes = head_bytes(request);
        if self.requests.get() >= self.limits.requests {
            return Err(Refusal::busy("too many requests in progress"));
        }
        if self.bytes.get().saturating_add(bytes) > self.limits.bytes {
            return Err(Refusal::busy("too many bytes in progress"));
        }
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        Ok(Passing {
            counted: Some((Rc::clone(self), bytes)),
            replica: None,
        })
    }
}

/// Roughly what the head of a request takes.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let headers: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let target = request.uri().path_and_query();
    headers + target.map_or(0, |target| target.as_str().len())
}

// === impl Passing ===

impl Passing {
    /// Counts the request at a replica, and no longer at the one before.
    pub(super) fn sent_to(&mut self, replica: Rc<Replica>) {
        self.leave_replica();
        replica.direct.set(replica.direct.get() + 1);
        self.replica = Some(replica);
    }

    fn leave_replica(&mut self) {
        if let Some(replica) = self.replica.take() {
            replica.direct.set(replica.direct.get().saturating_sub(1));
        }
    }
}

impl Guard for Passing {}

impl Drop for Passing {
    fn drop(&mut self) {
        self.leave_replica();
        if let Some((counters, bytes)) = self.counted.take() {
            counters.requests.set(counters.requests.get() - 1);
            counters.bytes.set(counters.bytes.get() - bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> Request<()> {
        Request::get(target)
            .header("a", "12345")
            .body(())
            .expect("valid")
    }

    #[test]
    fn requests_and_bytes_are_counted_until_they_are_dropped() {
        let counters = Rc::new(Counters::new(Limits {
            requests: 2,
            bytes: 20,
        }));
        let first = counters.enter(&request("/123")).expect("room");
        assert_eq!(counters.now(), (1, 10));
        let second = counters.enter(&request("/123")).expect("room at the limit");
        assert!(counters.enter(&request("/")).is_err());
        drop(first);
        assert!(counters.enter(&request("/12345")).is_err());
        let third = counters.enter(&request("/123")).expect("room again");
        drop((second, third, Passing::default()));
        assert_eq!(counters.now(), (0, 0));
    }
}
