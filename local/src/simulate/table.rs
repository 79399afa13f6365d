//! A comparison for people.

use std::fmt::Write;

use autoscaler::simulation::Summary;

use super::{Comparison, Ran};

pub(super) const TITLES: [&str; 13] = [
    "SETTING",
    "POD-SECONDS",
    "PEAK",
    "REQUESTS",
    "COLD",
    "WAIT P50",
    "P95",
    "P99",
    "MAX",
    "WAITED",
    "UNDER CAPACITY",
    "PANIC",
    "SCALINGS",
];

/// What the columns mean; the titles alone leave room for doubt.
const LEGEND: &str = "\
COLD: requests that came while no pod was ready. WAIT: for a free place in a pod, of all requests;
WAITED adds them up. UNDER CAPACITY: time in which a request waited. SCALINGS: changes of replicas.
";

/// The comparisons as text that ends in a newline.
pub(super) fn render(comparisons: &[Comparison], model: &str) -> String {
    let mut text = format!("{model}\n");
    for comparison in comparisons {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{}", comparison.traffic);
        let first = comparison.runs.first().map(|ran| ran.summary);
        let row = |(index, ran): (usize, &Ran)| {
            let base = first.filter(|_| index > 0);
            row(&ran.setting, &ran.summary, base.as_ref())
        };
        lines(
            &mut text,
            comparison.runs.iter().enumerate().map(row).collect(),
        );
    }
    if comparisons.len() > 1 {
        text.push_str("\nall of them\n");
        lines(&mut text, totals(comparisons));
    }
    text.push('\n');
    text.push_str(LEGEND);
    text
}

pub(super) fn row(name: &str, summary: &Summary, base: Option<&Summary>) -> Vec<String> {
    let mut cells = vec![
        name.to_owned(),
        compared(summary.pod_seconds, base.map(|base| base.pod_seconds), ""),
        summary.peak_pods.to_string(),
        summary.requests.to_string(),
        summary.cold_requests.to_string(),
    ];
    cells.extend(
        [
            summary.queueing_p50_ms,
            summary.queueing_p95_ms,
            summary.queueing_p99_ms,
            summary.queueing_max_ms,
        ]
        .map(wait),
    );
    cells.push(compared(
        summary.queueing_seconds,
        base.map(|base| base.queueing_seconds),
        "s",
    ));
    cells.push(format!("{:.1}s", summary.under_capacity_seconds));
    cells.push(format!("{:.0}s", summary.panic_seconds));
    cells.push(summary.scale_changes.to_string());
    if summary.unserved > 0 {
        cells.push(format!("{} never served", summary.unserved));
    }
    cells
}

/// What adds up, added up for each setting.
fn totals(comparisons: &[Comparison]) -> Vec<Vec<String>> {
    let settings = comparisons.first().map_or(0, |first| first.runs.len());
    let total = |index: usize| {
        let mut total = Summary::default();
        for summary in comparisons.iter().map(|it| &it.runs[index].summary) {
            total.pod_seconds += summary.pod_seconds;
            total.peak_pods = total.peak_pods.max(summary.peak_pods);
            total.requests += summary.requests;
            total.cold_requests += summary.cold_requests;
            total.queueing_max_ms = total.queueing_max_ms.max(summary.queueing_max_ms);
            total.queueing_seconds += summary.queueing_seconds;
            total.unserved += summary.unserved;
            total.under_capacity_seconds += summary.under_capacity_seconds;
            total.panic_seconds += summary.panic_seconds;
            total.scale_changes += summary.scale_changes;
        }
        total
    };
    let base = total(0);
    let row = |index: usize| {
        let name = &comparisons[0].runs[index].setting;
        let mut cells = row(name, &total(index), (index > 0).then_some(&base));
        // Percentiles do not add up.
        for cell in &mut cells[5..8] {
            "-".clone_into(cell);
        }
        cells
    };
    (0..settings).map(row).collect()
}

/// A number, and how much more or less it is than another.
fn compared(value: f64, base: Option<f64>, unit: &str) -> String {
    match base {
        Some(base) if base > 0.0 => {
            format!("{value:.0}{unit} ({:+.1}%)", (value / base - 1.0) * 100.0)
        }
        _ => format!("{value:.0}{unit}"),
    }
}

fn wait(milliseconds: u32) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds}ms"),
        1000..60_000 => format!("{:.1}s", f64::from(milliseconds) / 1000.0),
        _ => format!("{}m{}s", milliseconds / 60_000, milliseconds / 1000 % 60),
    }
}

fn lines(text: &mut String, rows: Vec<Vec<String>>) {
    let titles = TITLES.iter().map(|title| (*title).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let _ = write!(line, "  {cell:width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_short_and_differences_signed() {
        assert_eq!(
            [0, 999, 1500, 59_999, 61_000].map(wait),
            ["0ms", "999ms", "1.5s", "60.0s", "1m1s"]
        );
        assert_eq!(compared(90.0, Some(100.0), "s"), "90s (-10.0%)");
        assert_eq!(compared(110.0, Some(100.0), ""), "110 (+10.0%)");
        assert_eq!(compared(5.0, Some(0.0), ""), "5");
        assert_eq!(compared(5.0, None, ""), "5");
    }
}
