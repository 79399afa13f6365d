//! Total, response-start and idle deadlines of one request, without a timer per request.
//! The rules are those of upstream's `pkg/http/handler/timeout.go`, except that a body that has
//! begun is aborted instead of ended with a text.
//!
//! Every task that serves requests owns one `Watch`. It arms a sleep when it needs one and leaves
//! it armed when the request ends early: a later request whose deadline lies behind the armed
//! moment costs nothing but a look at the clock. When the sleep fires, the watch either finds a
//! deadline exceeded or arms the sleep for the next one.
//!
//! The watch is polled by the task's outermost future ([`crate::server`]), so that a client that
//! stopped reading is noticed, although its response body is not polled any more.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::upgrade::Lifetime;

/// Sleeps that no task needs at the moment are kept for the next one, at most this many.
const MAX_SPARE_TIMERS: usize = 256;

/// Stands for "never" where a duration is too long to be added to an instant.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The three clocks of a request; all start when it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Fires whether or not anything was written. Zero expires at once.
    pub total: Duration,
    /// Until the first write.
    pub response_start: Option<Duration>,
    /// Between two writes, and until the first.
    pub idle: Option<Duration>,
}

/// Which clock fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// [`Timeouts::total`]
    Total,
    /// [`Timeouts::response_start`]
    ResponseStart,
    /// [`Timeouts::idle`]
    Idle,
}

/// One request's deadlines, from `Connection::deadline`. Dropping it disarms them.
#[derive(Debug)]
pub struct Deadline {
    watch: Rc<Watch>,
    /// Of all that the watch has begun.
    number: u32,
}

/// Future of [`Deadline::limit`]. Written by hand because an `async fn` would hold its work twice,
/// and hyper moves the whole future of a request.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Limit<'a, F> {
    deadline: &'a Deadline,
    #[pin]
    work: F,
}

/// What a task has to look out for, and the sleep that wakes it.
#[derive(Debug)]
pub(crate) struct Watch {
    timers: Rc<Timers>,
    timer: RefCell<Option<Timer>>,
    clocks: Cell<Option<Clocks>>,
    /// Until when the head of a request must have been read.
    head: Cell<Option<Instant>>,
    /// The earliest of all that is due.
    next: Cell<Option<Instant>>,
    expired: Cell<Option<Expired>>,
    /// Whether the response has begun in such a way that a text can still stand for its body.
    takes_text: Cell<bool>,
    /// The number of the request that the clocks belong to.
    number: Cell<u32>,
    /// Whether an outer future polls this watch; otherwise [`Deadline::limit`] does.
    supervised: bool,
}

/// What a watch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// No complete request head in time.
    Head,
    /// Nothing was written yet, or nothing of the body: poll the request, it will answer by itself.
    Answer,
    /// The body had begun, or did not take its text: end it the hard way.
    Abort,
}

/// Armed sleeps that wait for a task to need them.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    spare: RefCell<Vec<Timer>>,
}

/// A sleep, armed for its deadline.
type Timer = Pin<Box<Sleep>>;

#[derive(Clone, Copy, Debug)]
struct Clocks {
    total: Instant,
    response_start: Option<Instant>,
    idle: Option<Idle>,
    started: bool,
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    period: Duration,
    last_write: Instant,
}

// === impl Clocks ===

impl Clocks {
    fn start(timeouts: &Timeouts, now: Instant) -> Self {
        Self {
            total: after(now, timeouts.total),
            response_start: timeouts.response_start.map(|by| after(now, by)),
            idle: timeouts.idle.map(|period| Idle {
                period,
                last_write: now,
            }),
            started: false,
        }
    }

    fn idle_at(&self) -> Option<Instant> {
        self.idle.map(|idle| after(idle.last_write, idle.period))
    }

    fn start_at(&self) -> Option<Instant> {
        self.response_start.filter(|_| !self.started)
    }

    fn next(&self) -> Instant {
        earliest(Some(self.total), earliest(self.start_at(), self.idle_at())).unwrap_or(self.total)
    }

    fn expired(&self, now: Instant) -> Option<Expired> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.total <= now {
            Some(Expired::Total)
        } else if due(self.start_at()) {
            Some(Expired::ResponseStart)
        } else if due(self.idle_at()) {
            Some(Expired::Idle)
        } else {
            None
        }
    }
}

fn after(start: Instant, by: Duration) -> Instant {
    start.checked_add(by).unwrap_or_else(|| start + FOREVER)
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

// === impl Watch ===

impl Watch {
    /// A watch whose task polls it.
    pub(crate) fn supervised(timers: Rc<Timers>) -> Rc<Self> {
        Rc::new(Self::new(timers, true))
    }

    fn new(timers: Rc<Timers>, supervised: bool) -> Self {
        Self {
            timers,
            timer: RefCell::new(None),
            clocks: Cell::new(None),
            head: Cell::new(None),
            next: Cell::new(None),
            expired: Cell::new(None),
            takes_text: Cell::new(false),
            number: Cell::new(0),
            supervised,
        }
    }

    /// Until when a request head must be complete; `None` once it is.
    pub(crate) fn expect_head(&self, until: Option<Instant>) {
        if self.head.get() != until {
            self.head.set(until);
            self.schedule();
        }
    }

    pub(crate) fn expects_head(&self) -> bool {
        self.head.get().is_some()
    }

    fn schedule(&self) {
        let clocks = self.clocks.get().map(|clocks| clocks.next());
        self.next.set(earliest(self.head.get(), clocks));
    }

    /// Whether something is due. Wakes the task when something becomes due; the task must always
    /// poll with the same waker, as spawned tasks do.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Option<Due> {
        let next = self.next.get()?;
        if self.supervised && self.is_armed_for(next) {
            return None;
        }
        self.arm(next, cx)
    }

    /// The sleep is armed for `next` or an earlier moment that has not come.
    fn is_armed_for(&self, next: Instant) -> bool {
        let timer = self.timer.borrow();
        timer
            .as_ref()
            .is_some_and(|timer| timer.deadline() <= next && !timer.is_elapsed())
    }

    fn arm(&self, next: Instant, cx: &mut Context<'_>) -> Option<Due> {
        if next <= Instant::now() {
            return self.due();
        }
        let mut slot = self.timer.borrow_mut();
        let timer = slot.get_or_insert_with(|| self.timers.take(next));
        if timer.deadline() > next || timer.is_elapsed() {
            timer.as_mut().reset(next);
        }
        match timer.as_mut().poll(cx) {
            Poll::Pending => None,
            Poll::Ready(()) => {
                drop(slot);
                self.due()
            }
        }
    }

    #[cold]
    fn due(&self) -> Option<Due> {
        let now = Instant::now();
        let clocks = self.clocks.get();
        if let Some(expired) = clocks.and_then(|clocks| clocks.expired(now)) {
            self.expired.set(Some(expired));
            if self.takes_text.take() {
                // A client that takes nothing would keep its request from ending itself: with
                // `next` as it is that is due at once, unless the request ends when it is polled.
                return Some(Due::Answer);
            }
            // Nothing further can be due; whoever serves the request ends it now.
            self.next.set(None);
            return Some(if clocks.is_some_and(|clocks| clocks.started) {
                Due::Abort
            } else {
                Due::Answer
            });
        }
        if self.head.get().is_some_and(|head| head <= now) {
            self.next.set(None);
            return Some(Due::Head);
        }
        None
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.timers.put(timer);
        }
    }
}

// === impl Timers ===

impl Timers {
    fn take(&self, at: Instant) -> Timer {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| Box::pin(sleep_until(at)))
    }

    fn put(&self, timer: Timer) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MAX_SPARE_TIMERS {
            spare.push(timer);
        }
    }
}

// === impl Deadline ===

impl Deadline {
    pub(crate) fn start(watch: &Rc<Watch>, timeouts: &Timeouts, now: Instant) -> Self {
        let clocks = Clocks::start(timeouts, now);
        watch.clocks.set(Some(clocks));
        watch.expired.set(clocks.expired(now));
        watch.takes_text.set(false);
        watch.number.set(watch.number.get().wrapping_add(1));
        watch.schedule();
        Self {
            watch: Rc::clone(watch),
            number: watch.number.get(),
        }
    }

    /// Deadlines without a connection, for tests of handlers. Enforced by [`Deadline::limit`] and
    /// by the body only.
    pub fn detached(timeouts: &Timeouts) -> Self {
        let watch = Rc::new(Watch::new(Rc::default(), false));
        Self::start(&watch, timeouts, Instant::now())
    }

    /// Runs `work` until it is done or a deadline fires. Await it in the handler itself, not in a
    /// task or a combinator that polls selectively: the handler is polled when a deadline fires.
    ///
    /// # Errors
    /// The deadline that fired; `work` is dropped with the future.
    pub fn limit<F: Future>(&self, work: F) -> Limit<'_, F> {
        Limit {
            deadline: self,
            work,
        }
    }

    /// How long an upgraded connection may last that this request becomes. What the app sends behind
    /// its 101 meets the response-start deadline.
    pub fn lifetime(&self) -> Lifetime {
        // They are there while this is: no other request begins on a connection that is upgraded.
        let clocks = self.watch.clocks.get();
        Lifetime {
            until: clocks.map(|clocks| clocks.total),
            response_start: clocks.and_then(|clocks| clocks.start_at()),
            idle: clocks
                .and_then(|clocks| clocks.idle)
                .map(|idle| idle.period),
        }
    }

    /// The deadline that fired, if one did.
    pub fn expired(&self) -> Option<Expired> {
        self.watch.expired.get()
    }

    /// The final status is on its way: the response-start deadline is met, and a deadline that
    /// fires from now on aborts the stream, unless it `takes_text`: then its body is polled once
    /// before.
    pub(crate) fn started(&self, takes_text: bool) {
        self.watch.takes_text.set(takes_text);
        self.restart_idle();
    }

    fn restart_idle(&self) {
        if let Some(mut clocks) = self.watch.clocks.get() {
            clocks.started = true;
            if let Some(idle) = &mut clocks.idle {
                idle.last_write = Instant::now();
            }
            self.watch.clocks.set(Some(clocks));
            if self.expired().is_none() {
                self.watch.schedule();
            }
        }
    }

    /// A piece of the body is on its way, and a text can no longer stand for it.
    pub(crate) fn wrote(&self) {
        self.watch.takes_text.set(false);
        if let Some(clocks) = self.watch.clocks.get()
            && clocks.idle.is_some()
        {
            self.restart_idle();
        }
    }

    /// For a body without a supervising task.
    pub(crate) fn poll_detached(&self, cx: &mut Context<'_>) -> Option<Expired> {
        if !self.watch.supervised {
            self.watch.poll(cx);
        }
        self.expired()
    }
}

// === impl Limit ===

impl<F: Future> Future for Limit<'_, F> {
    type Output = Result<F::Output, Expired>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(expired) = this.deadline.expired() {
            return Poll::Ready(Err(expired));
        }
        if let Poll::Ready(output) = this.work.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        match this.deadline.poll_detached(cx) {
            Some(expired) => Poll::Ready(Err(expired)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if self.watch.number.get() == self.number {
            self.watch.clocks.set(None);
            self.watch.expired.set(None);
            self.watch.schedule();
        }
    }
}

#[cfg(test)]
mod tests;
