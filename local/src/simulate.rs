//! `pilotlight simulate`: settings of the autoscaler tried on recorded or made-up traffic, in
//! virtual time.
//!
//! Reads files and hands back text; everything that decides is `autoscaler::simulation`, which is
//! the code that runs in a cluster. Starts no process and opens no port.

mod input;
mod options;
mod plot;
mod replay;
mod settings;
mod table;

use std::fs;
use std::io::{self, Read, Write};

use autoscaler::simulation::traffic::{Shape, ShapeKind, Traffic, parse_trace};
use autoscaler::simulation::{self, Model, Outcome, Row, Run, Summary};
use serde::Serialize;

use crate::exit::{self, Exit};
use crate::manifest::Finding;
use crate::options::Output;

use plot::Course;

pub(crate) use options::EXAMPLES;
pub use options::{MAX_SETTINGS, Simulate, TraceValues};

/// What came of it besides the output.
#[derive(Debug, Default)]
pub struct Simulated {
    /// Fields of manifests that have no effect.
    pub warnings: Vec<Finding>,
    /// Where a scenario differs from what its file expects.
    pub difference: Option<String>,
}

/// One setting under one traffic.
struct Ran {
    setting: String,
    /// The annotations and keys that make the setting, for those who read a drawing.
    details: String,
    summary: Summary,
    /// What is drawn; empty where nothing is.
    course: Course,
}

/// All settings under one traffic.
struct Comparison {
    traffic: String,
    runs: Vec<Ran>,
}

/// Does what the options say. `stdin` is read where a file is called `-`. Rows are written as soon
/// as they are there, so that a long simulation needs no more memory than a short one.
pub fn simulate(
    options: &Simulate,
    stdin: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<Simulated, Exit> {
    let simulated = match &options.scenario {
        Some(scenario) => replay::replay(options, scenario, stdin, out),
        None => compare(options, stdin, out),
    }?;
    out.flush().map_err(|error| unprintable(&error))?;
    Ok(simulated)
}

fn compare(
    options: &Simulate,
    stdin: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<Simulated, Exit> {
    // The settings first: what is wrong with them is said before a long trace is read.
    let form = options.plot.as_deref().map(plot::Form::of).transpose()?;
    let (settings, warnings) = settings::read(options, stdin)?;
    let mut comparisons = Vec::new();
    for (name, traffic) in traffics(options, stdin)? {
        let mut runs = Vec::new();
        for named in &settings {
            let outcome = run(options, &named.setting, &traffic)?;
            if options.output == Output::Json {
                put_json(out, &name, &named.name, &outcome)?;
            }
            runs.push(Ran {
                setting: named.name.clone(),
                details: details(&named.setting),
                summary: outcome.summary,
                course: form.map(|_| Course::of(&outcome.rows)).unwrap_or_default(),
            });
        }
        comparisons.push(Comparison {
            traffic: name,
            runs,
        });
    }
    let model = model_line(options);
    if let (Some(form), Some(path)) = (form, &options.plot) {
        fs::write(path, plot::draw(form, &comparisons, &model)).map_err(|error| {
            let message = format!("{path}: the drawing cannot be written: {error}");
            Exit::new(exit::FAILED, message)
        })?;
    }
    if options.output == Output::Table {
        put(out, &table::render(&comparisons, &model))?;
    }
    Ok(Simulated {
        warnings,
        difference: None,
    })
}

fn run(
    options: &Simulate,
    setting: &simulation::Setting,
    traffic: &Traffic,
) -> Result<Outcome, Exit> {
    let run = Run {
        setting,
        traffic,
        model: model(options),
        duration: options.duration,
        seed: options.seed,
    };
    simulation::simulate(&run).map_err(|error| {
        let message = format!("--duration: {error}; simulate less of it");
        Exit::new(exit::INVALID_MANIFEST, message)
    })
}

fn model(options: &Simulate) -> Model {
    Model {
        start_time: options.start_time,
        service_time: options.service_time,
        concurrency: options.pod_concurrency,
    }
}

/// What to offer, and what to call it.
fn traffics(options: &Simulate, stdin: &mut dyn Read) -> Result<Vec<(String, Traffic)>, Exit> {
    if let Some(path) = &options.trace {
        let text = input::read(path, stdin)?;
        let kind = options.trace_values.kind(&text);
        let traffic = parse_trace(&text, kind).map_err(|invalid| {
            let line = |problem| format!("{path}: {problem}");
            let lines: Vec<_> = invalid.problems().iter().map(line).collect();
            Exit::new(exit::INVALID_MANIFEST, lines.join("\n"))
        })?;
        return Ok(vec![(path.clone(), traffic)]);
    }
    let traffic = |kind| {
        let shape = shape(options, kind);
        (describe(&shape), Traffic::Shape(shape))
    };
    Ok(options.kinds().into_iter().map(traffic).collect())
}

fn shape(options: &Simulate, kind: ShapeKind) -> Shape {
    Shape {
        kind,
        rate: options.rate,
        peak: options.peak,
        at: options.at,
        width: options.width,
        period: options.period,
    }
}

/// The shape with those of its numbers that it has.
fn describe(shape: &Shape) -> String {
    let Shape {
        rate,
        peak,
        at,
        width,
        period,
        ..
    } = *shape;
    let name = shape.kind.as_str();
    match shape.kind {
        ShapeKind::Constant | ShapeKind::Poisson => format!("{name}: {rate}/s"),
        ShapeKind::Step => format!("{name}: {rate}/s, {peak}/s after {at:?}"),
        ShapeKind::Ramp => format!("{name}: {rate}/s, from {at:?} within {width:?} to {peak}/s"),
        ShapeKind::Spike => format!("{name}: {rate}/s, {peak}/s after {at:?} for {width:?}"),
        ShapeKind::FlashCrowd => {
            format!("{name}: {rate}/s, {peak}/s after {at:?} within {width:?}")
        }
        ShapeKind::Diurnal => format!("{name}: {rate}/s to {peak}/s every {period:?}"),
        ShapeKind::OnOff => {
            format!("{name}: {peak}/s for {width:?} every {period:?}, else {rate}/s")
        }
        ShapeKind::Bursty => {
            format!("{name}: {peak}/s for about {width:?} every {period:?}, else {rate}/s")
        }
    }
}

/// The model in a line, so that a table or drawing says what it holds for.
fn model_line(options: &Simulate) -> String {
    let lengths = |lengths| match lengths {
        simulation::traffic::Lengths::Fixed(length) => format!("{length:?}"),
        simulation::traffic::Lengths::Exponential(mean) => format!("exp:{mean:?}"),
        simulation::traffic::Lengths::Uniform(from, to) => format!("{from:?}..{to:?}"),
    };
    format!(
        "pods start in {}, requests take {}, a pod serves {} at once; seed {}",
        lengths(options.start_time),
        lengths(options.service_time),
        match options.pod_concurrency {
            0 => "any number".to_owned(),
            number => number.to_string(),
        },
        options.seed
    )
}

fn details(setting: &simulation::Setting) -> String {
    let mut parts = Vec::new();
    if setting.container_concurrency > 0 {
        parts.push(format!(
            "containerConcurrency={}",
            setting.container_concurrency
        ));
    }
    let annotations = setting.annotations.iter().map(|(key, value)| {
        let short = key.strip_prefix("autoscaling.knative.dev/").unwrap_or(key);
        format!("{short}={value}")
    });
    parts.extend(annotations);
    parts.extend(
        setting
            .config
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    if parts.is_empty() {
        return "defaults".to_owned();
    }
    parts.join(", ")
}

#[derive(Serialize)]
struct TickLine<'a> {
    traffic: &'a str,
    setting: &'a str,
    #[serde(flatten)]
    row: &'a Row,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    traffic: &'a str,
    setting: &'a str,
    summary: &'a Summary,
}

/// One object per tick, and one of the whole run behind them.
fn put_json(
    out: &mut dyn Write,
    traffic: &str,
    setting: &str,
    outcome: &Outcome,
) -> Result<(), Exit> {
    for row in &outcome.rows {
        let line = TickLine {
            traffic,
            setting,
            row,
        };
        put_line(out, &line)?;
    }
    let summary = &outcome.summary;
    let line = SummaryLine {
        traffic,
        setting,
        summary,
    };
    put_line(out, &line)
}

/// One line of JSON.
fn put_line(out: &mut dyn Write, line: &impl Serialize) -> Result<(), Exit> {
    let mut line =
        serde_json::to_string(line).map_err(|error| Exit::new(exit::FAILED, error.to_string()))?;
    line.push('\n');
    put(out, &line)
}

fn put(out: &mut dyn Write, text: &str) -> Result<(), Exit> {
    out.write_all(text.as_bytes())
        .map_err(|error| unprintable(&error))
}

fn unprintable(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::BrokenPipe {
        // Whoever stops reading has seen enough.
        return Exit::new(exit::OK, "");
    }
    Exit::new(exit::FAILED, format!("cannot print: {error}"))
}

#[cfg(test)]
mod tests;
