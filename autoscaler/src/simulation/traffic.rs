//! Where a simulation's requests come from: a named shape, or a recorded trace.
//!
//! Pure and seeded: the same description gives the same requests.

use std::time::Duration;

use fastrand::Rng;

mod trace;

pub use trace::{InvalidTrace, MAX_TRACE_LINES, MAX_TRACE_VALUE, TraceKind, parse_trace};

/// Milliseconds of one block of arrivals; rates are constant within it.
pub const BLOCK_MS: usize = 100;

/// A mean above which a Poisson number is drawn from the normal distribution.
const NORMAL_ABOVE: f64 = 30.0;

/// Requests over time.
#[derive(Clone, Debug, PartialEq)]
pub enum Traffic {
    /// Made up.
    Shape(Shape),
    /// Requests per second from a time, in seconds, until the next one.
    Rates(Vec<(f64, f64)>),
    /// Concurrent requests from a time, in seconds, until the next one. Offered as the rate that
    /// keeps so many requests in service.
    Concurrency(Vec<(f64, f64)>),
    /// Single requests: start and duration in seconds, by start.
    Invocations(Vec<(f64, f64)>),
}

/// A named course of the request rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub kind: ShapeKind,
    /// Requests per second at the base.
    pub rate: f64,
    /// Requests per second at the top, for those kinds that have one.
    pub peak: f64,
    /// When it happens.
    pub at: Duration,
    /// For how long.
    pub width: Duration,
    /// After how long it happens again.
    pub period: Duration,
}

/// The kinds of shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShapeKind {
    /// `rate` all the time, evenly spaced.
    Constant,
    /// `rate` until `at`, then `peak`.
    Step,
    /// From `rate` at `at` to `peak` after `width`, in a straight line.
    Ramp,
    /// `peak` from `at` for `width`, else `rate`.
    Spike,
    /// A sine between `rate` and `peak` every `period`, lowest at the start.
    Diurnal,
    /// `peak` for `width` in every `period`, else `rate`.
    OnOff,
    /// `rate` on average, at random.
    Poisson,
    /// `peak` reached exponentially from `at` within `width`, halving every `width` after.
    FlashCrowd,
    /// At random `peak` for `width` on average and `rate` for `period` on average.
    Bursty,
}

/// A length of time, perhaps a different one each time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lengths {
    Fixed(Duration),
    /// Exponentially distributed around a mean.
    Exponential(Duration),
    /// Evenly distributed between two.
    Uniform(Duration, Duration),
}

/// Arrivals of a run, block by block.
#[derive(Debug)]
pub(super) struct Arrivals<'a> {
    traffic: &'a Traffic,
    rng: Rng,
    mean_service_seconds: f64,
    /// Fraction of a request left over from the blocks before.
    carried: f64,
    /// Position in a trace.
    next: usize,
    /// Of a bursty shape: whether it is at its peak, and until when in seconds.
    burst: (bool, f64),
}

/// One arrival or several alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrival {
    /// Millisecond within the block.
    pub(super) offset_ms: usize,
    pub(super) count: u32,
    /// How long it takes to serve, where the trace says.
    pub(super) service_ms: Option<u32>,
}

// === impl ShapeKind ===

impl ShapeKind {
    /// All kinds by name.
    pub const ALL: &[(&str, Self)] = &[
        ("constant", Self::Constant),
        ("step", Self::Step),
        ("ramp", Self::Ramp),
        ("spike", Self::Spike),
        ("diurnal", Self::Diurnal),
        ("on-off", Self::OnOff),
        ("poisson", Self::Poisson),
        ("flash-crowd", Self::FlashCrowd),
        ("bursty", Self::Bursty),
    ];

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, kind)| kind)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|&&(_, kind)| kind == self)
            .map_or("", |&(name, _)| name)
    }

    fn is_random(self) -> bool {
        matches!(self, Self::Poisson | Self::Bursty)
    }
}

// === impl Shape ===

impl Shape {
    /// A shape with a minute before it happens, a minute of it, and ten minutes between.
    pub const fn new(kind: ShapeKind, rate: f64, peak: f64) -> Self {
        Self {
            kind,
            rate,
            peak,
            at: Duration::from_secs(60),
            width: Duration::from_secs(60),
            period: Duration::from_secs(600),
        }
    }

    /// Requests per second at a time in seconds; of a bursty shape its base.
    fn rate_at(&self, second: f64) -> f64 {
        let (rate, peak) = (self.rate, self.peak);
        let at = self.at.as_secs_f64();
        let width = self.width.as_secs_f64().max(0.001);
        let period = self.period.as_secs_f64().max(0.001);
        let rate = match self.kind {
            ShapeKind::Constant | ShapeKind::Poisson | ShapeKind::Bursty => rate,
            ShapeKind::Step => {
                if second < at {
                    rate
                } else {
                    peak
                }
            }
            ShapeKind::Ramp => rate + (peak - rate) * ((second - at) / width).clamp(0.0, 1.0),
            ShapeKind::Spike => {
                if (at..at + width).contains(&second) {
                    peak
                } else {
                    rate
                }
            }
            ShapeKind::Diurnal => {
                let turn = std::f64::consts::TAU * second / period;
                rate + (peak - rate) * (1.0 - turn.cos()) / 2.0
            }
            ShapeKind::OnOff => {
                if second % period < width {
                    peak
                } else {
                    rate
                }
            }
            ShapeKind::FlashCrowd if second < at => rate,
            ShapeKind::FlashCrowd if second < at + width => {
                let base = rate.max(1.0);
                base * (peak / base).powf((second - at) / width)
            }
            ShapeKind::FlashCrowd => {
                rate + (peak - rate) * 0.5_f64.powf((second - at - width) / width)
            }
        };
        rate.max(0.0)
    }
}

// === impl Traffic ===

impl Traffic {
    /// When the last request of a trace arrives; a shape has no end.
    pub fn length(&self) -> Option<Duration> {
        let last = match self {
            Self::Shape(_) => None,
            Self::Rates(trace) | Self::Concurrency(trace) | Self::Invocations(trace) => {
                trace.last().map(|&(at, _)| at)
            }
        };
        last.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)))
    }
}

// === impl Lengths ===

impl Lengths {
    /// The mean.
    pub fn mean(&self) -> Duration {
        match *self {
            Self::Fixed(length) | Self::Exponential(length) => length,
            Self::Uniform(shortest, longest) => (shortest + longest) / 2,
        }
    }

    /// One length in milliseconds.
    pub(super) fn draw_ms(&self, rng: &mut Rng) -> u64 {
        let milliseconds = match *self {
            Self::Fixed(length) => length.as_secs_f64(),
            Self::Exponential(mean) => exponential(rng, mean.as_secs_f64()),
            Self::Uniform(shortest, longest) => {
                let (shortest, longest) = (shortest.as_secs_f64(), longest.as_secs_f64());
                shortest + (longest - shortest) * rng.f64()
            }
        } * 1000.0;
        milliseconds.round() as u64
    }
}

// === impl Arrivals ===

impl<'a> Arrivals<'a> {
    pub(super) fn new(traffic: &'a Traffic, mean_service: Duration, seed: u64) -> Self {
        Self {
            traffic,
            rng: Rng::with_seed(seed),
            mean_service_seconds: mean_service.as_secs_f64().max(0.001),
            carried: 0.0,
            next: 0,
            burst: (true, 0.0),
        }
    }

    /// Appends the arrivals of a block, in order.
    pub(super) fn block(&mut self, block: usize, arrivals: &mut Vec<Arrival>) {
        let start = (block * BLOCK_MS) as f64 / 1000.0;
        let traffic = self.traffic;
        match traffic {
            Traffic::Shape(shape) if shape.kind.is_random() => {
                let rate = self.random_rate(shape, start);
                self.scattered(rate, arrivals);
            }
            Traffic::Shape(shape) => self.even(shape.rate_at(start), arrivals),
            Traffic::Rates(trace) => {
                let rate = self.advance(trace, start);
                self.even(rate, arrivals);
            }
            Traffic::Concurrency(trace) => {
                let concurrency = self.advance(trace, start);
                self.even(concurrency / self.mean_service_seconds, arrivals);
            }
            Traffic::Invocations(trace) => {
                let end = start + BLOCK_MS as f64 / 1000.0;
                while let Some(&(at, duration)) = trace.get(self.next).filter(|(at, _)| *at < end) {
                    self.next += 1;
                    let offset_ms = ((at - start).max(0.0) * 1000.0) as usize;
                    arrivals.push(Arrival {
                        offset_ms: offset_ms.min(BLOCK_MS - 1),
                        count: 1,
                        service_ms: Some((duration.max(0.0) * 1000.0).round() as u32),
                    });
                }
            }
        }
    }

    /// The value of a trace at a time.
    fn advance(&mut self, trace: &[(f64, f64)], second: f64) -> f64 {
        while trace.get(self.next).is_some_and(|(at, _)| *at <= second) {
            self.next += 1;
        }
        let current = self.next.checked_sub(1).and_then(|index| trace.get(index));
        current.map_or(0.0, |&(_, value)| value.max(0.0))
    }

    /// The present rate of a random shape.
    fn random_rate(&mut self, shape: &Shape, second: f64) -> f64 {
        if shape.kind == ShapeKind::Poisson {
            return shape.rate;
        }
        while self.burst.1 <= second {
            let peak = !self.burst.0;
            let mean = if peak { shape.width } else { shape.period };
            let length = exponential(&mut self.rng, mean.as_secs_f64().max(0.001));
            self.burst = (peak, self.burst.1 + length);
        }
        if self.burst.0 { shape.peak } else { shape.rate }
    }

    fn even(&mut self, rate: f64, arrivals: &mut Vec<Arrival>) {
        self.carried += rate * BLOCK_MS as f64 / 1000.0;
        let count = self.carried.floor();
        self.carried -= count;
        let count = count as u64;
        let mut before = 0;
        for offset_ms in 0..BLOCK_MS {
            let until = count * (offset_ms as u64 + 1) / BLOCK_MS as u64;
            push(arrivals, offset_ms, until - before);
            before = until;
        }
    }

    fn scattered(&mut self, rate: f64, arrivals: &mut Vec<Arrival>) {
        let count = poisson(&mut self.rng, rate.max(0.0) * BLOCK_MS as f64 / 1000.0);
        let mut counts = [0_u64; BLOCK_MS];
        for _ in 0..count {
            counts[self.rng.usize(0..BLOCK_MS)] += 1;
        }
        for (offset_ms, count) in counts.into_iter().enumerate() {
            push(arrivals, offset_ms, count);
        }
    }
}

fn push(arrivals: &mut Vec<Arrival>, offset_ms: usize, count: u64) {
    if count > 0 {
        arrivals.push(Arrival {
            offset_ms,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            service_ms: None,
        });
    }
}

fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    // 1 - x lies in (0, 1], so its logarithm is finite.
    -mean * (1.0 - rng.f64()).ln()
}

fn poisson(rng: &mut Rng, mean: f64) -> u64 {
    if mean > NORMAL_ABOVE {
        let angle = std::f64::consts::TAU * rng.f64();
        let normal = (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * angle.cos();
        return (mean + mean.sqrt() * normal).round().max(0.0) as u64;
    }
    let limit = (-mean).exp();
    let mut product = rng.f64();
    let mut count = 0;
    while product > limit {
        product *= rng.f64();
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests;
