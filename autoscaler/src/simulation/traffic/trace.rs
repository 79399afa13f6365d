//! Reading recorded traffic: CSV, or one JSON value per line.

use serde_json::Value;

use super::Traffic;

/// Most lines of one trace.
pub const MAX_TRACE_LINES: usize = 5_000_000;

/// Largest second column: requests per second or at once, or seconds of one request.
pub const MAX_TRACE_VALUE: f64 = 1_000_000.0;
/// Largest time of a trace in seconds, far beyond any Unix time.
const MAX_TRACE_TIME: f64 = 1e12;

/// Most problems that are told of one trace.
const MAX_PROBLEMS: usize = 20;

/// What the second column of a trace means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// Columns `time,value`: requests per second.
    Rates,
    /// Columns `time,value`: concurrent requests.
    Concurrency,
    /// Columns `start,duration`: one request per line.
    Invocations,
}

// === impl TraceKind ===

impl TraceKind {
    /// What the header of a trace, or the keys of its first JSON object, say; requests per second
    /// where nothing does.
    pub fn detect(text: &str) -> Self {
        let first = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .filter(|line| is_header(line) || line.starts_with('{'))
            .unwrap_or_default()
            .to_ascii_lowercase();
        if first.contains("duration") {
            Self::Invocations
        } else if first.contains("concurrency") {
            Self::Concurrency
        } else {
            Self::Rates
        }
    }
}

/// Why a trace cannot be used: each problem with its line number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct InvalidTrace {
    problems: Vec<String>,
}

// === impl InvalidTrace ===

impl InvalidTrace {
    /// Each problem, with its line number where it has one.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// Reads a trace. Times are seconds and count from the first; lines are sorted by time. A header
/// line, empty lines and lines that begin with `#` are skipped. JSON lines are arrays of two
/// numbers or objects with `time` or `start`, and `value`, `rps`, `concurrency` or `duration`. Every problem is reported, up to a limit.
pub fn parse_trace(text: &str, kind: TraceKind) -> Result<Traffic, InvalidTrace> {
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if rows.len() >= MAX_TRACE_LINES {
            problems.push(format!("more than {MAX_TRACE_LINES} lines"));
            break;
        }
        match parse_line(line) {
            Some((at, value))
                if at.abs() <= MAX_TRACE_TIME && (0.0..=MAX_TRACE_VALUE).contains(&value) =>
            {
                rows.push((at, value));
            }
            None if rows.is_empty() && problems.is_empty() && is_header(line) => {}
            _ => problems.push(format!(
                "line {}: {line:?} is not two numbers, a time in seconds and a value from 0 to {MAX_TRACE_VALUE}",
                index + 1
            )),
        }
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    if rows.is_empty() && problems.is_empty() {
        problems.push("no lines".to_owned());
    }
    if !problems.is_empty() {
        return Err(InvalidTrace { problems });
    }
    rows.sort_by(|left, right| left.0.total_cmp(&right.0));
    let first = rows[0].0;
    for row in &mut rows {
        row.0 -= first;
    }
    Ok(match kind {
        TraceKind::Rates => Traffic::Rates(rows),
        TraceKind::Concurrency => Traffic::Concurrency(rows),
        TraceKind::Invocations => Traffic::Invocations(rows),
    })
}

fn is_header(line: &str) -> bool {
    line.starts_with(|first: char| first.is_ascii_alphabetic())
}

fn parse_line(line: &str) -> Option<(f64, f64)> {
    if !line.starts_with(['{', '[']) {
        let (at, value) = line.split_once([',', ';', '\t'])?;
        return Some((at.trim().parse().ok()?, value.trim().parse().ok()?));
    }
    let value: Value = serde_json::from_str(line).ok()?;
    let column = |names: &[&str], index: usize| match &value {
        Value::Array(columns) => columns.get(index)?.as_f64(),
        _ => names.iter().find_map(|name| value.get(name)?.as_f64()),
    };
    Some((
        column(&["time", "start"], 0)?,
        column(&["value", "duration", "rps", "concurrency"], 1)?,
    ))
}
