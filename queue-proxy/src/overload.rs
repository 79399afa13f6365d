//! Refuses requests while this process gets too little CPU to serve them in time.
//!
//! Under a CPU quota the kernel stops the whole process, for most of each 100 ms once the quota is
//! used up. Work then waits in front of the event loop, and without a bound all of it becomes too
//! late at once (knative/serving#10085). What waits there is measured as it happens to everyone: a
//! timer's task queues up behind the requests, and how late it runs is how late they run. Of that
//! counts the share of the time in which this thread was not let run, and a tenth of it where no
//! quota stops the process ([`Throttle`]). The decision is [`Share`]'s, a pure controller; this file
//! only feeds it.
//!
//! Without requests nothing is measured and nothing wakes the process.

mod share;
mod throttle;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serving::server::Gate;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use self::share::Share;
use self::throttle::Throttle;

/// Between two looks while requests arrive. Half a period of the kernel's quota, so that looks fall
/// into its running and its stopped part.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// At most one line per this time says that requests are refused.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// How much longer work may wait where no quota stops the process: a busy machine makes everything
/// slow, and a request that is merely late is better than none.
const PATIENCE: u32 = 10;

/// What the data ports ask before they admit a request, and the task that keeps it informed.
#[derive(Debug)]
pub(crate) struct Overload {
    /// `None` is switched off.
    share: Option<RefCell<Share>>,
    /// A request arrived since the last look.
    arrived: Cell<bool>,
    /// Nobody looks until a request arrives.
    resting: Cell<bool>,
    woken: Notify,
    refused: Cell<u64>,
    gate: Arc<Gate>,
    throttle: RefCell<Throttle>,
}

// === impl Overload ===

impl Overload {
    /// Refuses once work waits for longer than `limit`; never without one.
    pub(crate) fn new(limit: Option<Duration>) -> Rc<Self> {
        Rc::new(Self {
            share: limit.map(|limit| RefCell::new(Share::new(limit))),
            arrived: Cell::new(false),
            resting: Cell::new(true),
            woken: Notify::new(),
            refused: Cell::new(0),
            gate: Arc::default(),
            throttle: RefCell::new(Throttle::new()),
        })
    }

    /// Refuses the plainest requests at a fraction of the cost, with nothing on record of them but
    /// their number. `None` when nothing is ever refused.
    pub(crate) fn gate(&self) -> Option<Arc<Gate>> {
        self.share.as_ref().map(|_| Arc::clone(&self.gate))
    }

    /// A request arrived: whether to refuse it. `weighed` was let through by the gate.
    pub(crate) fn refuses(&self, weighed: bool) -> bool {
        let Some(share) = &self.share else {
            return false;
        };
        self.arrived.set(true);
        if self.resting.replace(false) {
            self.woken.notify_one();
        }
        let refused = !weighed && share.borrow_mut().refuses();
        if refused {
            self.refused.set(self.refused.get() + 1);
        }
        refused
    }

    /// Whether there is too little CPU for what is asked.
    pub(crate) fn is_refusing(&self) -> bool {
        let share = self.share.as_ref();
        share.is_some_and(|share| share.borrow().is_refusing())
    }

    /// Looks at the delay for as long as there are requests; never ends. `count` is told how many
    /// requests the gate has refused.
    pub(crate) async fn watch(&self, count: impl Fn(u64, Instant)) {
        let Some(share) = &self.share else {
            return;
        };
        let mut logged: Option<Instant> = None;
        loop {
            if !self.arrived.replace(false) && !share.borrow().is_refusing() {
                self.rest(share).await;
            }
            let (start, worked) = (Instant::now(), cpu_time());
            let due = start + LOOK_PERIOD;
            sleep_until(due).await;
            let now = Instant::now();
            let worked = cpu_time().saturating_sub(worked);
            let delay = denied(now.saturating_duration_since(due), worked, now - start);
            // Two small files, read only when it matters.
            let matters = share.borrow().is_delayed(delay);
            let delay = match matters && self.throttle.borrow_mut().look(now) {
                true => delay,
                false => delay / PATIENCE,
            };
            let refused = self.gate.take_refused();
            if refused > 0 {
                self.arrived.set(true);
                self.refused.set(self.refused.get() + refused);
                count(refused, now);
            }
            share.borrow_mut().look(delay, now);
            self.gate.set_share(share.borrow().share());
            let is_due = logged.is_none_or(|at| now - at >= LOG_PERIOD);
            if is_due && self.refused.get() > 0 {
                logged = Some(now);
                let refused = self.refused.take();
                tracing::warn!(
                    refused,
                    ?delay,
                    "Requests were refused for want of CPU time"
                );
            }
        }
    }

    async fn rest(&self, share: &RefCell<Share>) {
        share.borrow_mut().rest();
        self.gate.set_share(0.0);
        self.resting.set(true);
        self.woken.notified().await;
    }
}

/// What this thread has got of the CPU so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The part of `delay` for which the kernel is to blame: work that waits because this thread is at
/// work, as with a thousand clients that ask as fast as they can, waits for no want of CPU time.
fn denied(delay: Duration, worked: Duration, elapsed: Duration) -> Duration {
    let stopped = elapsed.saturating_sub(worked);
    delay.mul_f64(stopped.as_secs_f64() / elapsed.as_secs_f64().max(f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    /// Keeps the thread for `busy`, as a process that is not scheduled.
    async fn stop(busy: Duration) {
        tokio::time::advance(busy).await;
    }

    #[test]
    fn only_the_time_without_the_cpu_counts() {
        let ms = Duration::from_millis;
        assert_eq!(denied(ms(300), ms(400), ms(400)), ms(0));
        assert_eq!(denied(ms(300), ms(100), ms(400)), ms(225));
        assert_eq!(denied(ms(300), ms(0), ms(400)), ms(300));
        assert_eq!(denied(ms(300), ms(500), ms(400)), ms(0));
        assert_eq!(denied(ms(0), ms(0), ms(0)), ms(0));
    }

    #[tokio::test(start_paused = true)]
    async fn looks_only_while_requests_arrive() {
        let overload = Overload::new(Some(Duration::from_millis(100)));
        let watch = overload.watch(|_, _| ());
        let mut watch = std::pin::pin!(watch);
        let idle = tokio::time::timeout(Duration::from_secs(3600), watch.as_mut());
        assert!(idle.await.is_err());
        assert!(overload.resting.get());
        assert!(!overload.refuses(false));
        assert!(!overload.resting.get());
        let idle = tokio::time::timeout(3 * LOOK_PERIOD, watch.as_mut());
        assert!(idle.await.is_err());
        assert!(overload.resting.get(), "one look after the last request");
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_while_the_loop_is_late_and_not_after() {
        let overload = Overload::new(Some(Duration::from_millis(100)));
        let tasks = LocalSet::new();
        let watched = Rc::clone(&overload);
        tasks.spawn_local(async move { watched.watch(|_, _| ()).await });
        tasks
            .run_until(async {
                for _ in 0..20 {
                    overload.refuses(false);
                    stop(Duration::from_secs(5)).await;
                }
                assert!((0..10).any(|_| overload.refuses(false)));
                for _ in 0..100 {
                    overload.refuses(false);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                assert!(!(0..10).any(|_| overload.refuses(false)));
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_refused_or_watched() {
        let overload = Overload::new(None);
        overload.watch(|_, _| ()).await;
        assert!(!(0..1000).any(|_| overload.refuses(false)));
    }
}
