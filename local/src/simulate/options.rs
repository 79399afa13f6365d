//! The command line of `pilotlight simulate`. Nothing acts here.

use std::time::Duration;

use autoscaler::simulation::traffic::{Lengths, MAX_TRACE_VALUE, ShapeKind, TraceKind};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, ValueEnum};

use crate::options::{Output, duration, key_value};

/// Most settings that are compared with each other.
pub const MAX_SETTINGS: usize = 16;

/// The shape that stands for each of them.
const ALL_SHAPES: &str = "all";

pub(crate) const EXAMPLES: &str = "\
Examples:
  pilotlight simulate --shape spike --vs buffer:scale-buffer=2
  pilotlight simulate -f service.yaml --shape diurnal --peak 800 --duration 1h
  pilotlight simulate --trace requests.csv --vs target=50 --vs target=80 --plot out.html
  pilotlight simulate --trace azure.jsonl --trace-values invocations --start-time 8s
  pilotlight simulate --shape all --vs wide:window=120s,max-scale-down-rate=1.5 -o json
  pilotlight simulate --scenario decider.json --check

Settings:
  --annotation, --config and --container-concurrency hold for every setting, --vs for one more.
  Keys of --annotation and --vs without a slash are completed: target is
  autoscaling.knative.dev/target, scale-buffer is pilotlight.dev/scale-buffer. --vs also takes the
  keys of config-autoscaler, and container-concurrency. An empty value takes a key away.";

/// `pilotlight simulate`
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("input").args(["trace", "shapes", "scenario"]).required(true))]
pub struct Simulate {
    /// Recorded traffic: lines of `time,value` or `start,duration` in seconds, as CSV or as one
    /// JSON value per line; - for standard input.
    #[arg(
        long,
        value_name = "FILE|-",
        env = "PILOTLIGHT_TRACE",
        help_heading = "Traffic"
    )]
    pub trace: Option<String>,

    /// What the second column of the trace is.
    #[arg(
        long,
        value_name = "WHAT",
        env = "PILOTLIGHT_TRACE_VALUES",
        default_value = "auto",
        requires = "trace",
        conflicts_with = "shapes",
        help_heading = "Traffic"
    )]
    pub trace_values: TraceValues,

    /// Made-up traffic; several with commas between them, or all.
    #[arg(long = "shape", value_name = "SHAPE", env = "PILOTLIGHT_SHAPE", value_delimiter = ',', value_parser = shape_names(), help_heading = "Traffic")]
    pub shapes: Vec<String>,

    /// Requests per second at the base of a shape.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_RATE", default_value = "20", value_parser = rate, help_heading = "Traffic")]
    pub rate: f64,

    /// Requests per second at the top of a shape that has one.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_PEAK", default_value = "200", value_parser = rate, help_heading = "Traffic")]
    pub peak: f64,

    /// When a step, ramp, spike or flash crowd begins.
    #[arg(long, value_name = "DURATION", env = "PILOTLIGHT_AT", default_value = "1m", value_parser = duration, help_heading = "Traffic")]
    pub at: Duration,

    /// How long a spike or an on-off peak lasts, a ramp or a flash crowd rises, a burst lasts on
    /// average.
    #[arg(long, value_name = "DURATION", env = "PILOTLIGHT_WIDTH", default_value = "1m", value_parser = duration, help_heading = "Traffic")]
    pub width: Duration,

    /// After how long on-off and diurnal repeat; the average pause between bursts.
    #[arg(long, value_name = "DURATION", env = "PILOTLIGHT_PERIOD", default_value = "5m", value_parser = duration, help_heading = "Traffic")]
    pub period: Duration,

    /// How much time is simulated. Default: ten minutes of a shape, a trace and three minutes more.
    #[arg(long, value_name = "DURATION", env = "PILOTLIGHT_DURATION", value_parser = duration, help_heading = "Traffic")]
    pub duration: Option<Duration>,

    /// The same seed gives the same traffic, start times and service times.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "PILOTLIGHT_SEED",
        default_value_t = 0,
        help_heading = "Traffic"
    )]
    pub seed: u64,

    /// From the wish for a pod to its readiness: 3s, 2s..6s (evenly spread), exp:3s (exponential).
    #[arg(long, value_name = "TIME", env = "PILOTLIGHT_START_TIME", default_value = "3s", value_parser = lengths, help_heading = "Model")]
    pub start_time: Lengths,

    /// One request in a pod, written like --start-time. A trace of invocations has its own.
    #[arg(long, value_name = "TIME", env = "PILOTLIGHT_SERVICE_TIME", default_value = "200ms", value_parser = lengths, help_heading = "Model")]
    pub service_time: Lengths,

    /// Requests that a pod really serves at once; 0 for any number.
    #[arg(
        long,
        value_name = "NUMBER",
        env = "PILOTLIGHT_POD_CONCURRENCY",
        default_value_t = 100,
        help_heading = "Model"
    )]
    pub pod_concurrency: u32,

    /// Pods that are ready at the start; with none the revision has been at zero for long.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_INITIAL_PODS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000), help_heading = "Model")]
    pub initial_pods: u32,

    /// A manifest with the Service to try, and with a ConfigMap config-autoscaler if there is one.
    /// May be repeated, or several with commas between them.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE|DIR|-",
        env = "PILOTLIGHT_FILENAME",
        value_delimiter = ',',
        help_heading = "Settings"
    )]
    pub filenames: Vec<String>,

    /// The Service to try when the manifests hold several.
    #[arg(
        long,
        value_name = "NAME",
        env = "PILOTLIGHT_SERVICE",
        requires = "filenames",
        help_heading = "Settings"
    )]
    pub service: Option<String>,

    /// An annotation of the revision. May be repeated; the variable has one per line.
    #[arg(long = "annotation", value_name = "KEY=VALUE", env = "PILOTLIGHT_ANNOTATION", value_parser = key_value, value_delimiter = '\n', help_heading = "Settings")]
    pub annotations: Vec<(String, String)>,

    /// A key of config-autoscaler. May be repeated; the variable has one per line.
    #[arg(long = "config", value_name = "KEY=VALUE", env = "PILOTLIGHT_CONFIG", value_parser = key_value, value_delimiter = '\n', help_heading = "Settings")]
    pub config: Vec<(String, String)>,

    /// `containerConcurrency` of the revision; 0 for no limit.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_CONTAINER_CONCURRENCY", value_parser = clap::value_parser!(u32).range(0..=1000), help_heading = "Settings")]
    pub container_concurrency: Option<u32>,

    /// Another setting to compare with: changes to the first one, or a manifest in its place. May
    /// be repeated; the variable has one per line.
    #[arg(
        long = "vs",
        value_name = "[NAME:]KEY=VALUE,...|FILE",
        env = "PILOTLIGHT_VS",
        value_delimiter = '\n',
        help_heading = "Settings"
    )]
    pub versus: Vec<String>,

    /// A table of the whole run, or JSON: one object per tick and setting, and one of the whole.
    #[arg(
        short,
        long,
        value_name = "FORM",
        env = "PILOTLIGHT_OUTPUT",
        default_value = "table"
    )]
    pub output: Output,

    /// Draws traffic, concurrency, pods and panic into a file that needs no other.
    #[arg(long, value_name = "FILE.html|FILE.svg", env = "PILOTLIGHT_PLOT")]
    pub plot: Option<String>,

    /// Replays the cases of a decider vector file and prints one JSON object per tick; - for
    /// standard input.
    #[arg(long, value_name = "FILE|-", env = "PILOTLIGHT_SCENARIO", conflicts_with_all = ["trace_values", "filenames", "annotations", "config", "container_concurrency", "versus", "plot", "duration"], help_heading = "Scenario")]
    pub scenario: Option<String>,

    /// Only the case with this id.
    #[arg(
        long,
        value_name = "ID",
        env = "PILOTLIGHT_CASE",
        requires = "scenario",
        conflicts_with_all = ["trace", "shapes"],
        help_heading = "Scenario"
    )]
    pub case: Option<String>,

    /// Compares with what the file expects and ends with 1 at the first difference.
    #[arg(
        long,
        env = "PILOTLIGHT_CHECK",
        requires = "scenario",
        conflicts_with_all = ["trace", "shapes"],
        help_heading = "Scenario"
    )]
    pub check: bool,
}

/// What the second column of a trace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceValues {
    /// What a header or the keys say, else requests per second.
    Auto,
    /// Requests per second.
    Rps,
    /// Requests at once.
    Concurrency,
    /// Seconds that the request of this line takes.
    Invocations,
}

// === impl Simulate ===

impl Simulate {
    /// The shapes, each once.
    pub(super) fn kinds(&self) -> Vec<ShapeKind> {
        let mut kinds = Vec::new();
        for name in &self.shapes {
            let named = ShapeKind::ALL
                .iter()
                .filter(|(known, _)| name == ALL_SHAPES || known == name);
            for (_, kind) in named {
                if !kinds.contains(kind) {
                    kinds.push(*kind);
                }
            }
        }
        kinds
    }
}

// === impl TraceValues ===

impl TraceValues {
    /// The kind of this trace.
    pub(super) fn kind(self, text: &str) -> TraceKind {
        match self {
            Self::Auto => TraceKind::detect(text),
            Self::Rps => TraceKind::Rates,
            Self::Concurrency => TraceKind::Concurrency,
            Self::Invocations => TraceKind::Invocations,
        }
    }
}

fn shape_names() -> impl TypedValueParser<Value = String> {
    let names = ShapeKind::ALL.iter().map(|(name, _)| *name);
    PossibleValuesParser::new(names.chain([ALL_SHAPES]))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=MAX_TRACE_VALUE).contains(&rate) => Ok(rate),
        _ => Err(format!("expected a number from 0 to {MAX_TRACE_VALUE}")),
    }
}

fn lengths(text: &str) -> Result<Lengths, String> {
    if let Some(mean) = text.strip_prefix("exp:") {
        return duration(mean).map(Lengths::Exponential);
    }
    let Some((shortest, longest)) = text.split_once("..") else {
        return duration(text).map(Lengths::Fixed);
    };
    let (shortest, longest) = (duration(shortest)?, duration(longest)?);
    if shortest > longest {
        return Err("the shortest time is longer than the longest".to_owned());
    }
    Ok(Lengths::Uniform(shortest, longest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Command, Options};
    use clap::Parser;

    fn parse(line: &str) -> Result<Simulate, clap::Error> {
        let line = format!("pilotlight simulate {line}");
        match Options::try_parse_from(line.split(' '))?.command {
            Command::Simulate(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exactly_one_input() {
        for wrong in [
            "--rate 5",
            "--trace a --shape step",
            "--shape step --scenario a",
            "--scenario a --vs b=c",
            "--scenario a --plot b.svg",
            "--scenario a --annotation b=c",
            "--shape step --check",
            "--shape step --case a",
            "--shape step --trace-values rps",
            "--shape step --service a",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("--scenario a --check --case b").is_ok());
    }

    #[test]
    fn shapes_by_name_once_each() {
        let options = parse("--shape step,spike --shape step").unwrap();
        assert_eq!(options.kinds(), [ShapeKind::Step, ShapeKind::Spike]);
        let all = parse("--shape all").unwrap().kinds();
        assert_eq!(all.len(), ShapeKind::ALL.len());
        assert!(parse("--shape square").is_err());
    }

    #[test]
    fn times_are_fixed_spread_or_exponential() {
        let seconds = Duration::from_secs;
        let options = parse("--shape step --start-time 2s..6s --service-time exp:1s").unwrap();
        assert_eq!(options.start_time, Lengths::Uniform(seconds(2), seconds(6)));
        assert_eq!(options.service_time, Lengths::Exponential(seconds(1)));
        assert_eq!(lengths("4s"), Ok(Lengths::Fixed(seconds(4))));
        for wrong in ["6s..2s", "5", "exp:", "-3s", "1s.."] {
            assert!(lengths(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_have_bounds() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["-1", "1000001", "NaN", "inf", "x"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
