//! Reading recorded traffic: CSV, or one JSON value per line.

use serde_json::Value;

use super::Traffic;

/// Most lines of one trace.
pub const MAX_TRACE_LINES: usize = 5_000_000;

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

/// Why a trace cannot be used: each problem with its line number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct InvalidTrace {
    problems: Vec<String>,
}

/// Reads a trace. Times are seconds and count from the first; lines are sorted by time. A header
/// line, empty lines and lines that begin with `#` are skipped. JSON lines are arrays of two
/// numbers or objects with the columns as keys. Every problem is reported, up to a limit.
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
            Some((at, value)) if at.is_finite() && value.is_finite() && value >= 0.0 => {
                rows.push((at, value));
            }
            None if rows.is_empty() && problems.is_empty() && is_header(line) => {}
            _ => problems.push(format!(
                "line {}: {line:?} is not two numbers, the second at least 0",
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
    let column = |names: [&str; 2], index: usize| match &value {
        Value::Array(columns) => columns.get(index)?.as_f64(),
        _ => names.iter().find_map(|name| value.get(name)?.as_f64()),
    };
    Some((
        column(["time", "start"], 0)?,
        column(["value", "duration"], 1)?,
    ))
}
