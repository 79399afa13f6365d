//! Rows, bars and how they are printed: a table for people, JSON for programs, one HTML page.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::sample::Spread;

/// The figures of one subject in one case; medians over the rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub case: String,
    pub subject: String,
    pub requests: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_request: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_mib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

/// A figure that must stay below (or above) a bar.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    pub name: String,
    /// `None` when it was not measured; never counted as held.
    pub value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    pub bar: f64,
    pub holds: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Bar {
    /// The median of `spread` must be at most `bar`.
    pub fn at_most(name: &str, spread: Option<Spread>, bar: f64) -> Self {
        let value = spread.map(|spread| spread.median);
        Self {
            name: name.to_owned(),
            value,
            spread,
            bar,
            holds: value.is_some_and(|value| value <= bar),
            note: None,
        }
    }

    /// The median of `spread` must be at least `bar`.
    pub fn at_least(name: &str, spread: Option<Spread>, bar: f64) -> Self {
        let value = spread.map(|spread| spread.median);
        Self {
            holds: value.is_some_and(|value| value >= bar),
            ..Self::at_most(name, spread, bar)
        }
    }

    /// Not measured, and why.
    pub fn unmeasured(name: &str, bar: f64, why: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: None,
            spread: None,
            bar,
            holds: false,
            note: Some(why.to_owned()),
        }
    }
}

/// Everything that one comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub subject: String,
    /// Machine, kernel, rounds: what a reader needs to judge the figures.
    pub circumstances: Vec<String>,
    pub rows: Vec<Row>,
    pub bars: Vec<Bar>,
}

impl Report {
    /// Whether every bar was measured and holds.
    pub fn holds(&self) -> bool {
        self.bars.iter().all(|bar| bar.holds)
    }

    /// The table that is printed.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for line in &self.circumstances {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(
            text,
            "\n{:<34} {:<14} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "case",
            "subject",
            "requests",
            "cpu us",
            "user us",
            "sys us",
            "RSS MiB",
            "p50 ms",
            "p99 ms"
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:<34} {:<14} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
                row.case,
                row.subject,
                row.requests,
                number(row.cpu_us_per_request),
                number(row.user_us),
                number(row.system_us),
                number(row.rss_mib),
                number(row.p50_ms),
                number(row.p99_ms)
            );
        }
        let _ = writeln!(
            text,
            "\n{:<66} {:>9} {:>19} {:>7}",
            "bar", "median", "spread", "bar"
        );
        for bar in &self.bars {
            let spread = bar
                .spread
                .map_or_else(String::new, |s| format!("{:.3} to {:.3}", s.min, s.max));
            let verdict = match (bar.value, bar.holds) {
                (None, _) => "not measured",
                (_, true) => "holds",
                (_, false) => "MISSED",
            };
            let _ = writeln!(
                text,
                "{:<66} {:>9} {spread:>19} {:>7} {verdict}{}",
                bar.name,
                number(bar.value),
                bar.bar,
                bar.note
                    .as_ref()
                    .map_or_else(String::new, |note| format!(" ({note})"))
            );
        }
        text
    }

    /// Writes `SUBJECT.json` and `SUBJECT.html` into `folder`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(folder.join(format!("{}.json", self.subject)), json)?;
        std::fs::write(folder.join(format!("{}.html", self.subject)), self.page())?;
        Ok(())
    }

    /// One self-contained page: each measured bar as a bar beside its limit, then the table.
    fn page(&self) -> String {
        let mut plots = String::new();
        for bar in &self.bars {
            let Some(value) = bar.value else { continue };
            let scale = 300.0 / value.max(bar.bar).max(f64::MIN_POSITIVE);
            let colour = if bar.holds { "#2a7" } else { "#c33" };
            let _ = write!(
                plots,
                "<figure><figcaption>{}: {value:.3} (bar {})</figcaption>\
                 <svg width=\"320\" height=\"18\" role=\"img\">\
                 <rect x=\"0\" y=\"3\" width=\"{:.1}\" height=\"12\" fill=\"{colour}\"/>\
                 <line x1=\"{:.1}\" y1=\"0\" x2=\"{:.1}\" y2=\"18\" stroke=\"#000\"/></svg></figure>",
                escape(&bar.name),
                bar.bar,
                value * scale,
                bar.bar * scale,
                bar.bar * scale
            );
        }
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{subject}</title>\
             <style>body{{font:14px sans-serif;margin:2em}}figure{{margin:.4em 0}}</style>\
             <h1>{subject}</h1>{plots}<pre>{table}</pre></html>\n",
            subject = escape(&self.subject),
            table = escape(&self.table())
        )
    }
}

/// Kernel, processors and toolchain, for the head of a report.
pub fn circumstances() -> Vec<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    vec![format!("{model}, {cores} cores, Linux {}", kernel.trim())]
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmeasured_bar_never_holds() {
        let report = Report {
            bars: vec![Bar::unmeasured("cpu", 1.0, "HAProxy is not installed")],
            ..Report::default()
        };
        assert!(!report.holds());
        assert!(report.table().contains("not measured"));
    }

    #[test]
    fn a_bar_holds_at_its_limit() {
        let spread = Spread::of(&[1.0]);
        assert!(Bar::at_most("x", spread, 1.0).holds);
        assert!(!Bar::at_most("x", spread, 0.99).holds);
    }
}
