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
    /// Whether the figure must be at least `bar`, and not at most.
    pub at_least: bool,
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
            at_least: false,
            holds: value.is_some_and(|value| value <= bar),
            note: None,
        }
    }

    /// The median of `spread` must be at least `bar`.
    pub fn at_least(name: &str, spread: Option<Spread>, bar: f64) -> Self {
        let at_most = Self::at_most(name, spread, bar);
        Self {
            at_least: true,
            holds: at_most.value.is_some_and(|value| value >= bar),
            ..at_most
        }
    }

    /// Not measured, and why.
    pub fn unmeasured(name: &str, bar: f64, why: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: None,
            spread: None,
            bar,
            at_least: false,
            holds: false,
            note: Some(why.to_owned()),
        }
    }
}

/// How a figure grows.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub name: String,
    /// In the order of their first coordinate.
    pub points: Vec<(f64, f64)>,
}

/// Everything that one comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub subject: String,
    /// Machine, kernel, rounds: what a reader needs to judge the figures.
    pub circumstances: Vec<String>,
    pub rows: Vec<Row>,
    pub bars: Vec<Bar>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
}

impl Curve {
    /// A curve without points.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            points: Vec::new(),
        }
    }

    /// The next point.
    pub fn add(&mut self, x: f64, y: f64) {
        self.points.push((x, y));
    }

    /// What one unit costs at `to`, as a multiple of what it costs at `from`: 1 is linear. `None`
    /// where one of them was not measured.
    pub fn growth_per_unit(&self, from: f64, to: f64) -> Option<f64> {
        let each = |wanted: f64| {
            let mut points = self.points.iter();
            points.find_map(|(x, y)| (*x == wanted && *y > 0.0).then_some(y / x))
        };
        Some(each(to)? / each(from)?)
    }

    /// Both axes logarithmic: a straight line of 45 degrees is linear growth.
    fn plot(&self) -> String {
        const SIZE: f64 = 300.0;
        let logarithms = |pick: fn(&(f64, f64)) -> f64| -> Vec<f64> {
            let values = self.points.iter().map(pick);
            values.map(|value| value.max(1e-9).log10()).collect()
        };
        let (xs, ys) = (logarithms(|point| point.0), logarithms(|point| point.1));
        let (Some(xs_at), Some(ys_at)) = (Spread::of(&xs), Spread::of(&ys)) else {
            return String::new();
        };
        let scale = (SIZE - 20.0) / (xs_at.max - xs_at.min).max(ys_at.max - ys_at.min).max(1.0);
        let mut line = String::new();
        let mut labels = String::new();
        for ((x, y), point) in xs.iter().zip(&ys).zip(&self.points) {
            let at = (
                10.0 + (x - xs_at.min) * scale,
                SIZE - 10.0 - (y - ys_at.min) * scale,
            );
            let _ = write!(line, "{:.1},{:.1} ", at.0, at.1);
            let _ = write!(
                labels,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {:.4}</title></circle>",
                at.0, at.1, point.0, point.1
            );
        }
        format!(
            "<figure><figcaption>{}</figcaption><svg width=\"{SIZE}\" height=\"{SIZE}\" role=\"img\">\
             <polyline points=\"{line}\" fill=\"none\" stroke=\"#27a\"/>{labels}</svg></figure>",
            escape(&self.text())
        )
    }

    fn text(&self) -> String {
        let points = self.points.iter().map(|(x, y)| format!("{x}: {y:.4}"));
        format!("{}: {}", self.name, points.collect::<Vec<_>>().join(", "))
    }
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
                "{:<52} {:<14} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
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
            "\n{:<70} {:>11} {:>25} {:>9}",
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
                "{:<70} {:>11} {spread:>25} {:>9} {verdict}{}",
                bar.name,
                number(bar.value),
                format!("{} {}", if bar.at_least { "≥" } else { "≤" }, bar.bar),
                bar.note
                    .as_ref()
                    .map_or_else(String::new, |note| format!(" ({note})"))
            );
        }
        for curve in &self.curves {
            let _ = writeln!(text, "{}", curve.text());
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
        for curve in &self.curves {
            plots.push_str(&curve.plot());
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
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or("?");
    vec![format!(
        "{model}, {cores} cores, Linux {}, at most {files} open files",
        kernel.trim()
    )]
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
        assert!(Bar::at_least("x", spread, 1.0).holds);
        assert!(!Bar::at_least("x", spread, 1.01).holds);
        assert!(!Bar::at_least("x", None, 0.0).holds);
    }

    #[test]
    fn growth_is_a_ratio_of_costs_per_unit() {
        let mut curve = Curve::new("x");
        curve.add(8.0, 1.0);
        curve.add(64.0, 12.0);
        assert_eq!(curve.growth_per_unit(8.0, 64.0), Some(1.5));
        assert_eq!(curve.growth_per_unit(8.0, 1000.0), None);
        assert!(curve.plot().contains("polyline"));
    }
}
