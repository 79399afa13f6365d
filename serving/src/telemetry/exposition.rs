//! A registry in the Prometheus text format that Knative's components answer scrapes with.
//!
//! `prometheus-client` writes OpenMetrics, which differs in the names of counters and infos in
//! their headers, in units, in full stops after help texts and in how bounds are spelled.

use prometheus_client::registry::Registry;

/// The content type of [`prometheus_text`], parameters as upstream's exporter writes them.
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Every metric of `registry` in the text format 0.0.4.
pub fn prometheus_text(registry: &Registry) -> String {
    let mut open_metrics = String::new();
    // Writing to a string cannot fail, but a metric of ours could report an error: what was
    // written before it is still worth a scrape.
    if let Err(error) = prometheus_client::encoding::text::encode(&mut open_metrics, registry) {
        tracing::error!("failed to encode metrics: {error}");
    }
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            push_headers(&mut text, help.take(), rest);
        } else if !line.starts_with('#') {
            push_sample(&mut text, line);
        }
    }
    text
}

/// `help` and `declared` begin with the metric's name, to which the samples of counters and infos
/// add a suffix that this format has in its headers too.
fn push_headers(text: &mut String, help: Option<&str>, declared: &str) {
    let (name, kind) = declared.split_once(' ').unwrap_or((declared, "untyped"));
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "info" => ("_info", "gauge"),
        "unknown" => ("", "untyped"),
        other => ("", other),
    };
    if let Some((_, help)) = help.and_then(|help| help.split_once(' ')) {
        let help = help.strip_suffix('.').unwrap_or(help);
        text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
    }
    text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
}

/// Writes whole bounds without a fraction, as Go does.
fn push_sample(text: &mut String, line: &str) {
    const BOUND: &str = "le=\"";
    let whole = line.find(BOUND).and_then(|at| {
        let start = at + BOUND.len();
        let end = start + line[start..].find('"')?;
        let bound = line[start..end].strip_suffix(".0")?;
        Some((start, end, bound))
    });
    match whole {
        Some((start, end, bound)) => {
            text.push_str(&line[..start]);
            text.push_str(bound);
            text.push_str(&line[end..]);
        }
        None => text.push_str(line),
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::Unit;

    use super::*;
    use crate::histogram::Histogram;

    #[test]
    fn headers_and_samples_agree_in_the_older_format() {
        let mut registry = Registry::default();
        registry.register("requests", "Requests seen", Counter::<u64>::default());
        registry.register("target", "Target", Info::new([("a", "b")]));
        let histogram = Histogram::new(&[0.5, 10.0]);
        histogram.observe(1.0);
        registry.register_with_unit("wait", "Waiting", Unit::Seconds, histogram);
        assert_eq!(
            prometheus_text(&registry),
            "# HELP requests_total Requests seen\n\
             # TYPE requests_total counter\n\
             requests_total 0\n\
             # HELP target_info Target\n\
             # TYPE target_info gauge\n\
             target_info{a=\"b\"} 1\n\
             # HELP wait_seconds Waiting\n\
             # TYPE wait_seconds histogram\n\
             wait_seconds_sum 1.0\n\
             wait_seconds_count 1\n\
             wait_seconds_bucket{le=\"0.5\"} 0\n\
             wait_seconds_bucket{le=\"10\"} 1\n\
             wait_seconds_bucket{le=\"+Inf\"} 1\n"
        );
    }
}
