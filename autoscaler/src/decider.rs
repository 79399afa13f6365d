//! How many pods a revision should have, given what its pods report.
//!
//! A [`Decider`] is the small state that outlives a tick (panic mode, scale-down delay); everything
//! else is passed to [`Decider::decide`], which touches no clock, no pods and no annotations. It
//! does not know the bounds of the scale: those are applied by [`crate::scale`]. Behaviour of
//! `pkg/autoscaler/scaling/{autoscaler,multiscaler}.go`.

use serving::UnixTime;

use crate::burst::{Burst, Flow, Need};
use crate::delay_window::DelayWindow;
use crate::pods::Supply;
use crate::scale::UNKNOWN_SCALE;
use crate::spec::DeciderSpec;

/// How often a decider is evaluated; also the slot width of the scale-down delay.
pub const TICK_SECONDS: u32 = 2;

/// The decider of one revision.
#[derive(Clone, Debug)]
pub struct Decider {
    /// When need last reached the panic threshold; `None` outside panic mode.
    panic_since: Option<UnixTime>,
    /// The largest wish of the current panic; below it nothing is decided until the panic ends.
    panic_peak: i32,
    /// Fixed at creation: a later change of the delay has no effect on a running decider.
    delay: Option<Box<DelayWindow>>,
    /// What has been learned, where the spec asks for it.
    burst: Option<Box<Burst>>,
}

/// Averages over the two windows, of the metric that is scaled on.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Observation {
    pub stable: f64,
    pub panic: f64,
    /// Only where the decider learns from it.
    pub flow: Option<Flow>,
}

/// The outcome of one evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Pods wanted, before minimum, maximum and initial scale. Never negative.
    pub desired_scale: i32,
    /// Negative: not enough capacity to take a burst without activators.
    pub excess_burst_capacity: i32,
}

/// What a decider last decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeciderStatus {
    /// [`UNKNOWN_SCALE`] before the first valid decision.
    pub desired_scale: i32,
    /// Negative: not enough capacity to take a burst without activators.
    pub excess_burst_capacity: i32,
}

// === impl Decider ===

impl Decider {
    /// A decider that knows no history. With more than one pod ready it starts in panic mode, so
    /// that a restart never takes pods away before a stable window has been seen.
    pub fn new(spec: &DeciderSpec, ready_pods: u32, now: UnixTime) -> Self {
        let delay = (spec.scale_down_delay_ns > 0)
            .then(|| Box::new(DelayWindow::new(spec.scale_down_delay_ns, TICK_SECONDS)));
        Self {
            panic_since: (ready_pods > 1).then_some(now),
            panic_peak: i32::try_from(ready_pods).unwrap_or(i32::MAX),
            delay,
            burst: None,
        }
    }

    /// Whether panic mode is on: the decision never falls.
    pub fn is_panicking(&self) -> bool {
        self.panic_since.is_some()
    }

    /// Evaluates once. `None` when there is no observation: whatever was decided before stays.
    pub fn decide(
        &mut self,
        spec: &DeciderSpec,
        observed: Option<Observation>,
        supply: impl Into<Supply>,
        now: UnixTime,
    ) -> Option<Decision> {
        let observed = observed?;
        let supply = supply.into();
        let ready = f64::from(supply.ready.max(1));
        let counted = spec.counted(supply);
        let learned = self.learn(spec, &observed, supply, now);
        let stable = learned.map_or(observed.stable, |need| observed.stable.min(need.calm_limit));
        let stable_need = (stable / spec.target_value).ceil();
        let panic_need = learned.map_or_else(
            || (observed.panic / spec.target_value).ceil(),
            |need| need.pods(),
        );

        let limits = Limits::new(spec, ready, counted);
        let stable_wish = limits.wish(stable_need);
        let panic_wish = limits.wish(panic_need);

        let pressure = learned.map_or(panic_need, |need| need.pressure());
        self.update_panic(
            spec,
            pressure / spec.burdened(supply) >= spec.panic_threshold,
            now,
        );
        let mut desired_scale = stable_wish;
        if self.is_panicking() {
            // What waits is served soon, so pods for it are not held as those for arrivals are.
            let held = learned.map_or(panic_wish, |need| limits.wish(need.arrivals.ceil()));
            self.panic_peak = self.panic_peak.max(stable_wish).max(held);
            desired_scale = self.panic_peak.max(panic_wish);
        }
        if let Some(delay) = self.delay.as_mut().filter(|_| spec.reachable) {
            delay.record(now, desired_scale);
            desired_scale = delay.current();
        }
        Some(Decision {
            desired_scale: desired_scale.max(0),
            excess_burst_capacity: excess_burst_capacity(spec, supply.ready, observed.panic),
        })
    }

    /// Takes in the pods there are, between evaluations too: how long they take to start is then
    /// known better than to a tick.
    pub fn observe_supply(&mut self, spec: &DeciderSpec, supply: impl Into<Supply>, now: UnixTime) {
        if spec.extensions.learn_start_time {
            self.burst
                .get_or_insert_default()
                .observe(supply.into(), now);
        }
    }

    /// Whether a burst has come that more pods than `desired_scale` should be ordered for now
    /// rather than at the next tick. Never without the extension.
    pub fn is_urgent(
        &self,
        spec: &DeciderSpec,
        observed: Option<Observation>,
        supply: Supply,
        desired_scale: i32,
        now: UnixTime,
    ) -> bool {
        let need = || {
            let flow = observed?.flow?;
            self.burst.as_ref()?.need(spec, &flow, supply, now)
        };
        spec.extensions.learn_start_time
            && need().is_some_and(|need| {
                need.pressure() > f64::from(desired_scale)
                    && need.pressure() / spec.burdened(supply) >= spec.panic_threshold
            })
    }

    fn learn(
        &mut self,
        spec: &DeciderSpec,
        observed: &Observation,
        supply: Supply,
        now: UnixTime,
    ) -> Option<Need> {
        self.observe_supply(spec, supply, now);
        let burst = self
            .burst
            .as_mut()
            .filter(|_| spec.extensions.learn_start_time)?;
        let flow = observed.flow?;
        burst.learn(spec, &flow, supply, now);
        burst.need(spec, &flow, supply, now)
    }

    fn update_panic(&mut self, spec: &DeciderSpec, over_threshold: bool, now: UnixTime) {
        if over_threshold {
            self.panic_since = Some(now);
        } else if self
            .panic_since
            .is_some_and(|since| since.0.saturating_add(spec.stable_window_ns) < now.0)
        {
            self.panic_since = None;
            self.panic_peak = 0;
        }
    }
}

/// What one tick may ask for at most and at least, relative to the pods that are ready.
struct Limits {
    highest: f64,
    lowest: f64,
    /// Least wish for any need; 0 without one.
    activation_scale: i32,
    /// Added to any need.
    buffer: f64,
}

impl Limits {
    /// `counted` are the pods that growth is relative to.
    fn new(spec: &DeciderSpec, ready: f64, counted: f64) -> Self {
        Self {
            // Rounded up, so that a small rate still allows one more pod.
            highest: (spec.max_scale_up_rate * counted).ceil(),
            lowest: if spec.reachable {
                (ready / spec.max_scale_down_rate).floor()
            } else {
                0.0
            },
            activation_scale: if spec.activation_scale > 1 {
                spec.activation_scale
            } else {
                0
            },
            buffer: f64::from(spec.extensions.scale_buffer),
        }
    }

    fn wish(&self, need: f64) -> i32 {
        let spare = if need > 0.0 { self.buffer } else { 0.0 };
        // The cast saturates, and the highest wins over the lowest.
        let wish = (need + spare).max(self.lowest).min(self.highest) as i32;
        if need > 0.0 {
            wish.max(self.activation_scale)
        } else {
            wish
        }
    }
}

/// Spare capacity of the pods that are really ready, less the burst to be prepared for.
fn excess_burst_capacity(spec: &DeciderSpec, ready_pods: u32, panic_value: f64) -> i32 {
    let burst = spec.target_burst_capacity;
    if burst == 0.0 {
        0
    } else if burst > 0.0 {
        (f64::from(ready_pods) * spec.total_value - burst - panic_value).floor() as i32
    } else {
        -1
    }
}

// === impl DeciderSpec ===

impl DeciderSpec {
    /// The pods that panic is judged by: spare ones must not hide a burst.
    fn burdened(&self, supply: Supply) -> f64 {
        (self.counted(supply) - f64::from(self.extensions.scale_buffer)).max(1.0)
    }

    /// The pods that growth is relative to.
    fn counted(&self, supply: Supply) -> f64 {
        let starting = if self.extensions.count_starting_pods {
            supply.starting
        } else {
            0
        };
        f64::from(supply.ready.saturating_add(starting).max(1))
    }
}

// === impl DeciderStatus ===

impl DeciderStatus {
    /// The status before the first valid decision. The excess burst capacity is truncated toward
    /// zero here and rounded down by decisions, as in the reference.
    pub fn initial(spec: &DeciderSpec) -> Self {
        let burst = spec.target_burst_capacity;
        let excess = if burst == -1.0 || burst == 0.0 {
            burst
        } else {
            f64::from(spec.initial_scale) * spec.total_value - burst
        };
        Self {
            desired_scale: UNKNOWN_SCALE,
            excess_burst_capacity: excess as i32,
        }
    }

    /// Stores a decision. True when the reconciler must hear of it: another scale, or capacity
    /// for bursts became enough or short. Other changes of the capacity are stored silently.
    pub fn store(&mut self, decision: Decision) -> bool {
        let notable = self.desired_scale != decision.desired_scale
            || (self.excess_burst_capacity >= 0) != (decision.excess_burst_capacity >= 0);
        self.desired_scale = decision.desired_scale;
        self.excess_burst_capacity = decision.excess_burst_capacity;
        notable
    }

    /// What is left of a decision that was made while the pods do not answer: it may raise the
    /// scale, as activators report too, but what has fallen may only have fallen for want of data.
    /// Where nothing was decided before, the pods that are ready stay, as after a restart.
    ///
    /// Upstream lowers the scale all the same: a window of silence ends in one second of zero, and a
    /// weighted average falls throughout (`pkg/autoscaler/aggregation/bucketing.go`).
    pub fn without_lowering(&self, decision: Decision, ready_pods: u32) -> Decision {
        let least = match self.desired_scale {
            UNKNOWN_SCALE => i32::try_from(ready_pods).unwrap_or(i32::MAX),
            known => known,
        };
        Decision {
            desired_scale: decision.desired_scale.max(least),
            ..decision
        }
    }

    /// Whether a stat that reports this concurrency calls for a decision at once instead of at
    /// the next tick: the revision was decided to have no pods. Not while nothing is decided.
    pub fn is_poked_by(&self, average_concurrent_requests: f64) -> bool {
        self.desired_scale == 0 && average_concurrent_requests != 0.0
    }
}

#[cfg(test)]
mod tests;
