//! The arithmetic of admission: slots, and a line of waiters first in, first out. No clock, no
//! lock, no waker of its own; [`super::Breaker`] drives it.

use slab::Slab;

/// Names one waiter in line, until it is [taken](Slots::take) or [cancelled](Slots::cancel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(usize);

/// What became of an arrival.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// Executes at once.
    Active,
    /// Waits in line.
    Queued(Ticket),
    /// Every slot is taken.
    Overflow,
}

/// `W` is whatever wakes a waiter.
#[derive(Debug)]
pub(super) struct Slots<W> {
    capacity: u32,
    /// Active, queued and reserved together never exceed this.
    limit: u64,
    active: u64,
    reserved: u64,
    queued: u64,
    waiters: Slab<Waiter<W>>,
    /// Ends of the line, as keys of `waiters`.
    first: Option<usize>,
    last: Option<usize>,
}

#[derive(Debug)]
struct Waiter<W> {
    before: Option<usize>,
    behind: Option<usize>,
    granted: bool,
    wake: Option<W>,
}

// === impl Slots ===

impl<W> Slots<W> {
    pub(super) fn new(capacity: u32, limit: u64) -> Self {
        Self {
            capacity,
            limit,
            active: 0,
            reserved: 0,
            queued: 0,
            waiters: Slab::new(),
            first: None,
            last: None,
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) fn active(&self) -> u64 {
        self.active
    }

    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    pub(super) fn queued(&self) -> u64 {
        self.queued
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.active + self.queued + self.reserved
    }

    fn has_room(&self) -> bool {
        self.active + self.reserved < u64::from(self.capacity)
    }

    /// An arrival. Nobody overtakes: whoever waits is granted a slot before it is free again.
    pub(super) fn enter(&mut self) -> Entered {
        if self.in_flight() >= self.limit {
            return Entered::Overflow;
        }
        if self.has_room() {
            debug_assert!(self.first.is_none(), "a free slot while somebody waits");
            self.active += 1;
            return Entered::Active;
        }
        let key = self.waiters.insert(Waiter {
            before: self.last,
            behind: None,
            granted: false,
            wake: None,
        });
        match self.last {
            Some(last) => self.waiters[last].behind = Some(key),
            None => self.first = Some(key),
        }
        self.last = Some(key);
        self.queued += 1;
        Entered::Queued(Ticket(key))
    }

    /// An execution slot, if one is free.
    pub(super) fn reserve(&mut self) -> bool {
        let granted = self.in_flight() < self.limit && self.has_room();
        self.reserved += u64::from(granted);
        granted
    }

    /// An active one ends. Wake what is returned.
    pub(super) fn leave(&mut self) -> Option<W> {
        debug_assert!(self.active > 0, "left more often than entered");
        self.active -= 1;
        self.grant()
    }

    /// A reservation ends. Wake what is returned.
    pub(super) fn release(&mut self) -> Option<W> {
        debug_assert!(self.reserved > 0, "released more often than reserved");
        self.reserved -= 1;
        self.grant()
    }

    /// Sets the capacity and grants what it allows. Call [`Self::grant`] until it changes nothing.
    pub(super) fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity;
    }

    /// Whether [`Self::grant`] would grant another slot.
    pub(super) fn can_grant(&self) -> bool {
        self.first.is_some() && self.has_room()
    }

    /// Gives a free slot to the first in line. Wake what is returned.
    pub(super) fn grant(&mut self) -> Option<W> {
        if !self.has_room() {
            return None;
        }
        let key = self.first?;
        self.unlink(key);
        self.queued -= 1;
        self.active += 1;
        let waiter = &mut self.waiters[key];
        waiter.granted = true;
        waiter.wake.take()
    }

    /// Whether the waiter's turn has come; then the ticket is void and the caller active.
    /// Otherwise `wake` makes or keeps what wakes it.
    pub(super) fn take(&mut self, ticket: Ticket, wake: impl FnOnce(&mut Option<W>)) -> bool {
        let waiter = &mut self.waiters[ticket.0];
        if waiter.granted {
            self.waiters.remove(ticket.0);
            return true;
        }
        wake(&mut waiter.wake);
        false
    }

    /// A waiter gives up; a slot that it was just granted goes to the next in line. Wake what is
    /// returned.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> Option<W> {
        if self.waiters[ticket.0].granted {
            self.waiters.remove(ticket.0);
            return self.leave();
        }
        self.unlink(ticket.0);
        self.waiters.remove(ticket.0);
        self.queued -= 1;
        None
    }

    /// Whether no waiter is remembered.
    #[cfg(test)]
    pub(super) fn is_clean(&self) -> bool {
        self.waiters.is_empty() && self.first.is_none() && self.last.is_none()
    }

    fn unlink(&mut self, key: usize) {
        let Waiter { before, behind, .. } = self.waiters[key];
        match before {
            Some(before) => self.waiters[before].behind = behind,
            None => self.first = behind,
        }
        match behind {
            Some(behind) => self.waiters[behind].before = before,
            None => self.last = before,
        }
    }
}
