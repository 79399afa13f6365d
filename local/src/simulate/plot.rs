//! Drawings of a comparison: one SVG, alone or in a page with the figures. Neither needs any other
//! file, a script or a network.

use std::fmt::Write;
use std::path::Path;

use autoscaler::simulation::Row;

use super::{Comparison, Ran, table};
use crate::exit::{self, Exit};

/// Most points of one line: about one per pixel.
const MAX_POINTS: usize = 900;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 60.0;
const TRAFFIC_HEIGHT: f64 = 90.0;
const RUN_HEIGHT: f64 = 150.0;
/// Above a chart, for its title; and below it, for its times.
const TITLE: f64 = 42.0;
const AXIS: f64 = 22.0;

const STYLE: &str = "\
text{font:12px sans-serif;fill:#333}.name{font-weight:bold;font-size:13px}.small{font-size:11px;fill:#666}\
.grid{stroke:#e4e4e4}.traffic{fill:#c9d7e8;stroke:#6a8db5}.concurrency{fill:none;stroke:#999}\
.desired{fill:none;stroke:#d9730d;stroke-dasharray:5 3;stroke-width:1.5}\
.ready{fill:none;stroke:#1f6fb2;stroke-width:1.8}.panic{fill:#f9dcdc}.back{fill:#fff}";

const PAGE_STYLE: &str = "\
body{font:14px sans-serif;color:#333;background:#fff;margin:2em auto;max-width:1100px}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}";

/// What kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Html,
    Svg,
}

/// What is drawn of one run, thinned out to what can be seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    points: Vec<Point>,
}

/// One tick, or the largest values of several.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    at: f64,
    requests: f64,
    concurrency: f64,
    desired: i32,
    ready: u32,
    panic: bool,
}

// === impl Form ===

impl Form {
    /// As the name of the file says.
    pub(super) fn of(path: &str) -> Result<Self, Exit> {
        match Path::new(path).extension().and_then(|it| it.to_str()) {
            Some("html" | "htm") => Ok(Self::Html),
            Some("svg") => Ok(Self::Svg),
            _ => {
                let message =
                    format!("--plot {path}: give the file a name that ends in .html or .svg");
                Err(Exit::new(exit::INVALID_MANIFEST, message))
            }
        }
    }
}

// === impl Course ===

impl Course {
    pub(super) fn of(rows: &[Row]) -> Self {
        let each = rows.len().div_ceil(MAX_POINTS).max(1);
        let point = |rows: &[Row]| {
            rows.iter().map(Point::of).reduce(|one, other| Point {
                at: one.at,
                requests: one.requests.max(other.requests),
                concurrency: one.concurrency.max(other.concurrency),
                desired: one.desired.max(other.desired),
                ready: one.ready.max(other.ready),
                panic: one.panic || other.panic,
            })
        };
        Self {
            points: rows.chunks(each).filter_map(point).collect(),
        }
    }

    fn end(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.at)
    }

    fn largest(&self, of: impl Fn(&Point) -> f64) -> f64 {
        self.points.iter().map(of).fold(0.0, f64::max)
    }
}

// === impl Point ===

impl Point {
    fn of(row: &Row) -> Self {
        Self {
            at: row.at,
            requests: row.requests_per_second,
            concurrency: row.concurrency,
            desired: row.desired,
            ready: row.ready,
            panic: row.panic,
        }
    }
}

/// The whole file.
pub(super) fn draw(form: Form, comparisons: &[Comparison], model: &str) -> String {
    if form == Form::Svg {
        return svg(comparisons, model);
    }
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>pilotlight simulate</title>\
         <style>{PAGE_STYLE}</style></head><body>\n<h1>pilotlight simulate</h1>\n<p>{}</p>\n",
        escape(model)
    );
    for comparison in comparisons {
        let _ = writeln!(page, "<h2>{}</h2>", escape(&comparison.traffic));
        page_table(&mut page, &comparison.runs);
        page.push_str(&svg(std::slice::from_ref(comparison), ""));
    }
    page.push_str("</body></html>\n");
    page
}

fn page_table(page: &mut String, runs: &[Ran]) {
    page.push_str("<table><tr>");
    for title in table::TITLES {
        let _ = write!(page, "<th>{title}</th>");
    }
    page.push_str("</tr>\n");
    for (index, ran) in runs.iter().enumerate() {
        let base = runs.first().filter(|_| index > 0).map(|base| &base.summary);
        page.push_str("<tr>");
        for cell in table::row(&ran.setting, &ran.summary, base) {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

fn svg(comparisons: &[Comparison], model: &str) -> String {
    let mut body = String::new();
    let mut y = 8.0;
    if !model.is_empty() {
        text(&mut body, LEFT, y + 14.0, "small", model);
        y += 24.0;
    }
    for comparison in comparisons {
        y = draw_comparison(&mut body, comparison, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"{WIDTH}\" height=\"{y:.0}\">\
         <style>{STYLE}</style><rect class=\"back\" width=\"{WIDTH}\" height=\"{y:.0}\"/>\n{body}</svg>\n"
    )
}

/// Traffic on top and a chart of each setting below, all with the same scales. Returns the bottom.
fn draw_comparison(body: &mut String, comparison: &Comparison, top: f64) -> f64 {
    let runs = &comparison.runs;
    let all = |of: fn(&Point) -> f64| {
        let largest = runs.iter().map(|ran| ran.course.largest(of));
        round_up(largest.fold(0.0, f64::max))
    };
    let requests = all(|point| point.requests);
    let concurrency = all(|point| point.concurrency);
    let pods = all(|point| f64::from(point.desired).max(f64::from(point.ready)));
    let end = runs.iter().map(|ran| ran.course.end()).fold(1.0, f64::max);

    let mut chart = Chart {
        top: top + TITLE,
        height: TRAFFIC_HEIGHT,
        end,
    };
    text(body, LEFT, top + 16.0, "name", &comparison.traffic);
    chart.frame(body, "requests/s", requests, None);
    if let Some(ran) = runs.first() {
        let line = chart.steps(&ran.course, requests, |point| point.requests);
        let floor = chart.top + chart.height;
        let _ = writeln!(
            body,
            "<path class=\"traffic\" d=\"M{LEFT:.1} {floor:.1}{line}L{:.1} {floor:.1}Z\"/>",
            chart.x(ran.course.end())
        );
    }
    for ran in runs {
        let title = chart.top + chart.height + AXIS;
        chart.top = title + TITLE;
        chart.height = RUN_HEIGHT;
        text(body, LEFT, title + 18.0, "name", &ran.setting);
        let figures = format!(
            "{}: {:.0} pod-seconds, peak {}, waited {:.0}s in all, p95 {}ms, panic {:.0}s",
            ran.details,
            ran.summary.pod_seconds,
            ran.summary.peak_pods,
            ran.summary.queueing_seconds,
            ran.summary.queueing_p95_ms,
            ran.summary.panic_seconds
        );
        text(body, LEFT, title + 34.0, "small", &figures);
        draw_run(body, ran, &chart, pods, concurrency);
    }
    let legend = chart.top + chart.height + AXIS + 14.0;
    draw_legend(body, legend);
    legend + 20.0
}

fn draw_run(body: &mut String, ran: &Ran, chart: &Chart, pods: f64, concurrency: f64) {
    let course = &ran.course;
    for (from, until) in panics(course) {
        let (from, until) = (chart.x(from), chart.x(until));
        let _ = writeln!(
            body,
            "<rect class=\"panic\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            chart.top,
            (until - from).max(0.5),
            chart.height
        );
    }
    chart.frame(body, "pods", pods, Some(("concurrency", concurrency)));
    for (class, line) in [
        (
            "concurrency",
            chart.steps(course, concurrency, |point| point.concurrency),
        ),
        (
            "desired",
            chart.steps(course, pods, |point| f64::from(point.desired)),
        ),
        (
            "ready",
            chart.steps(course, pods, |point| f64::from(point.ready)),
        ),
    ] {
        if let Some(line) = line.strip_prefix('L') {
            let _ = writeln!(body, "<path class=\"{class}\" d=\"M{line}\"/>");
        }
    }
}

fn draw_legend(body: &mut String, y: f64) {
    for (index, (class, name)) in [
        ("ready", "ready pods"),
        ("desired", "desired pods"),
        ("concurrency", "concurrency (right)"),
    ]
    .iter()
    .enumerate()
    {
        let x = LEFT + 170.0 * index as f64;
        let _ = writeln!(
            body,
            "<path class=\"{class}\" d=\"M{x:.0} {:.1}h28\"/>",
            y - 4.0
        );
        text(body, x + 34.0, y, "small", name);
    }
    let x = LEFT + 510.0;
    let _ = writeln!(
        body,
        "<rect class=\"panic\" x=\"{x:.0}\" y=\"{:.1}\" width=\"28\" height=\"10\"/>",
        y - 9.0
    );
    text(body, x + 34.0, y, "small", "panic mode");
}

/// From when until when panic mode was on.
fn panics(course: &Course) -> Vec<(f64, f64)> {
    let mut spans: Vec<(f64, f64)> = Vec::new();
    let mut on = false;
    for point in &course.points {
        match (spans.last_mut(), on) {
            (Some(span), true) => span.1 = point.at,
            _ if point.panic => spans.push((point.at, point.at)),
            _ => {}
        }
        on = point.panic;
    }
    spans
}

/// A rectangle with a time from left to right.
struct Chart {
    top: f64,
    height: f64,
    end: f64,
}

impl Chart {
    fn x(&self, at: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * at / self.end
    }

    fn y(&self, value: f64, largest: f64) -> f64 {
        self.top + self.height * (1.0 - (value / largest).clamp(0.0, 1.0))
    }

    /// A value holds until the next one.
    fn steps(&self, course: &Course, largest: f64, of: impl Fn(&Point) -> f64) -> String {
        let mut path = String::new();
        let mut before: Option<f64> = None;
        for point in &course.points {
            let (x, y) = (self.x(point.at), self.y(of(point), largest));
            if let Some(before) = before.filter(|before| (before - y).abs() > 0.05) {
                let _ = write!(path, "L{x:.1} {before:.1}");
            }
            if before.is_none_or(|before| (before - y).abs() > 0.05) {
                let _ = write!(path, "L{x:.1} {y:.1}");
            }
            before = Some(y);
        }
        if let Some(before) = before {
            let _ = write!(path, "L{:.1} {before:.1}", self.x(course.end()));
        }
        path
    }

    fn frame(&self, body: &mut String, unit: &str, largest: f64, right: Option<(&str, f64)>) {
        let far = WIDTH - RIGHT;
        for share in [0.0, 0.5, 1.0] {
            let y = self.y(share, 1.0);
            let _ = writeln!(
                body,
                "<path class=\"grid\" d=\"M{LEFT:.0} {y:.1}H{far:.0}\"/>"
            );
            label(body, LEFT - 6.0, y + 4.0, "end", &number(largest * share));
            if let Some((_, largest)) = right {
                label(body, far + 6.0, y + 4.0, "start", &number(largest * share));
            }
        }
        label(body, LEFT - 6.0, self.top - 8.0, "end", unit);
        if let Some((unit, _)) = right {
            label(body, WIDTH - 2.0, self.top - 8.0, "end", unit);
        }
        for part in 0..=6 {
            let at = self.end * f64::from(part) / 6.0;
            let y = self.top + self.height + 15.0;
            label(body, self.x(at), y, "middle", &clock(at));
        }
    }
}

fn text(body: &mut String, x: f64, y: f64, class: &str, words: &str) {
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
        escape(words)
    );
}

fn label(body: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(
        body,
        "<text class=\"small\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(words)
    );
}

/// A number that reads well on an axis and is not smaller.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let fits = step.iter().find(|step| *step * power >= value);
    fits.map_or(value, |step| step * power)
}

fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no place for them, not even escaped.
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at: f64, ready: u32, panic: bool) -> Row {
        Row {
            at,
            requests_per_second: 5.0,
            concurrency: at,
            queued: 0,
            stable: None,
            panic_value: None,
            desired: 2,
            want: 2,
            excess_burst_capacity: 0,
            panic,
            replicas: 2,
            ready,
            mode: 'P',
            active: 'T',
        }
    }

    #[test]
    fn a_long_run_is_thinned_out_and_keeps_its_peaks() {
        let mut rows: Vec<_> = (0..100_000)
            .map(|it| row(f64::from(it), 1, false))
            .collect();
        rows[77_777].ready = 9;
        rows[77_777].panic = true;
        let course = Course::of(&rows);
        assert!(course.points.len() <= MAX_POINTS);
        assert_eq!(course.largest(|point| f64::from(point.ready)), 9.0);
        assert_eq!(panics(&course).len(), 1);
    }

    #[test]
    fn panic_spans_begin_and_end_where_it_did() {
        let flags = [false, true, true, false, true];
        let rows = flags
            .iter()
            .enumerate()
            .map(|(at, panic)| row(at as f64, 1, *panic));
        let course = Course::of(&rows.collect::<Vec<_>>());
        assert_eq!(panics(&course), [(1.0, 3.0), (4.0, 4.0)]);
    }

    #[test]
    fn names_cannot_break_out_of_the_drawing() {
        assert_eq!(escape("<a & \"b\">\u{1}"), "&lt;a &amp; &quot;b&quot;&gt; ");
    }

    #[test]
    fn axes_read_well() {
        assert_eq!(
            [0.0, 0.3, 1.0, 23.0, 99.0].map(round_up),
            [1.0, 0.4, 1.0, 40.0, 100.0]
        );
        assert_eq!([0.5, 40.0, 0.0].map(number), ["0.5", "40", "0"]);
        assert_eq!([0.0, 125.0, 3700.0].map(clock), ["0:00", "2:05", "1:01:40"]);
    }

    #[test]
    fn the_form_follows_the_name() {
        assert_eq!(Form::of("a.svg").unwrap(), Form::Svg);
        assert_eq!(Form::of("a/b.html").unwrap(), Form::Html);
        assert_eq!(Form::of("a.png").unwrap_err().code, exit::INVALID_MANIFEST);
    }
}
