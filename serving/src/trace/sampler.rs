//! Which traces are recorded.

use crate::environment::Environment;
use crate::trace_context::{SpanContext, TraceId};

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

/// Decides for the first span of this process in a trace; spans below it follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Every trace, whatever the caller decided.
    Always,
    /// No trace, whatever the caller decided.
    Never,
    /// This share of all traces by their id, whatever the caller decided.
    Ratio(f64),
    /// As the caller decided; this share of the traces that begin here.
    ParentOrRatio(f64),
}

/// A sampler that cannot be made of the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse sample rate override: parsing {0:?}: invalid syntax")]
pub struct SamplerError(String);

// === impl Sampler ===

impl Sampler {
    /// The sampler of Knative's tracing configuration (`sampleFor` in
    /// `knative.dev/pkg/observability/tracing`): `OTEL_TRACES_SAMPLER` wins; standard output
    /// samples everything; the rate decides otherwise. `OTEL_TRACES_SAMPLER_ARG` replaces the rate
    /// only when it is 1 or more, as upstream has it.
    ///
    /// # Errors
    /// `OTEL_TRACES_SAMPLER_ARG` is no number.
    pub fn configured(
        environment: &dyn Environment,
        rate: f64,
        is_stdout: bool,
    ) -> Result<Self, SamplerError> {
        let value = |name| environment.variable(name).unwrap_or_default();
        let (name, argument) = (value(SAMPLER), value(ARGUMENT));
        if !name.is_empty() {
            return Ok(Self::named(&name, &argument));
        }
        if is_stdout {
            return Ok(Self::Always);
        }
        let overridden = match argument.as_str() {
            "" => rate,
            text => text.parse().map_err(|_| SamplerError(argument))?,
        };
        Ok(if overridden >= 1.0 {
            Self::Always
        } else if rate <= 0.0 {
            Self::Never
        } else {
            Self::ParentOrRatio(rate)
        })
    }

    /// The SDK's own variables: a name it does not know leaves its default, and an argument that
    /// is no share means all.
    fn named(name: &str, argument: &str) -> Self {
        let share = argument.trim().parse().ok();
        let share = share
            .filter(|share| (0.0..=1.0).contains(share))
            .unwrap_or(1.0);
        match name.trim().to_ascii_lowercase().as_str() {
            "always_on" => Self::Always,
            "always_off" => Self::Never,
            "traceidratio" => Self::Ratio(share),
            "parentbased_always_off" => Self::ParentOrRatio(0.0),
            "parentbased_traceidratio" => Self::ParentOrRatio(share),
            _ => Self::ParentOrRatio(1.0),
        }
    }

    /// Whether a trace is recorded, given the caller's span if there is one.
    pub fn samples(self, trace_id: TraceId, parent: Option<SpanContext>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Ratio(share) => is_within(trace_id, share),
            Self::ParentOrRatio(share) => match parent {
                Some(parent) => parent.is_sampled(),
                None => is_within(trace_id, share),
            },
        }
    }
}

/// Compares the lower half of the id with the share, as all SDKs do, so that they agree.
fn is_within(trace_id: TraceId, share: f64) -> bool {
    if share >= 1.0 {
        return true;
    }
    let mut lower = [0; 8];
    lower.copy_from_slice(&trace_id.0[8..]);
    let position = u64::from_be_bytes(lower) >> 1;
    // Exact for every share that a double can hold: 2^63 is a power of two.
    let bound = (share.max(0.0) * 9_223_372_036_854_775_808.0) as u64;
    position < bound
}
