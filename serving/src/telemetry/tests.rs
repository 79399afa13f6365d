use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `work` logs under `config` and `level`.
fn logged(config: &str, level: &str, work: impl FnOnce()) -> Vec<String> {
    let captured = Captured::default();
    let writer = LineWriter::new(captured.clone()).expect("a thread");
    let (settings, _) = LogSettings::read(config, level);
    let layer = LogLayer::new(
        settings,
        "queueproxy",
        &[("knative.dev/key", "default/hello-00001")],
        writer.clone(),
    );
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    writer.flush();
    let text = String::from_utf8(captured.0.lock().clone()).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_default_is_zaps_object_in_its_order() {
    let lines = logged("", "", || {
        tracing::warn!(pod = "a\"b", count = 3, "it broke");
        tracing::debug!("unseen");
    });
    assert_eq!(lines.len(), 1);
    let keys = [
        "severity",
        "timestamp",
        "logger",
        "caller",
        "message",
        "knative.dev/key",
        "pod",
        "count",
    ];
    let positions: Vec<_> = keys
        .iter()
        .map(|key| lines[0].find(&format!("\"{key}\":")).expect("present"))
        .collect();
    assert!(positions.is_sorted(), "{}", lines[0]);
    let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
    assert_eq!(line["severity"], "WARNING");
    assert_eq!(line["message"], "it broke");
    assert_eq!(line["pod"], "a\"b");
    assert_eq!(line["count"], 3);
    assert_eq!(line["logger"], "queueproxy");
    let caller = line["caller"].as_str().expect("text");
    assert!(caller.starts_with("telemetry/tests.rs:"), "{caller}");
    let time: Timestamp = line["timestamp"]
        .as_str()
        .expect("text")
        .parse()
        .expect("RFC 3339");
    assert!(time <= Timestamp::now());
}

#[test]
fn the_shipped_configuration_changes_level_names_and_time() {
    let shipped = r#"{"level":"info","outputPaths":["stdout"],"encoding":"json","encoderConfig":
        {"timeKey":"ts","levelKey":"severity","nameKey":"","callerKey":"caller","messageKey":"message",
         "levelEncoder":"","timeEncoder":"iso8601"}}"#;
    let (settings, error) = LogSettings::read(shipped, "");
    assert_eq!(error, None);
    assert_eq!(settings.output, LogOutput::Stdout);
    let lines = logged(shipped, "debug", || tracing::debug!("seen"));
    let line: Value = serde_json::from_str(&lines[0]).expect("JSON");
    assert_eq!(line["severity"], "debug");
    assert!(line.get("logger").is_none());
    assert_eq!(
        line["ts"].as_str().expect("text").len(),
        "2026-01-02T03:04:05.678Z".len()
    );
}

#[test]
fn an_unusable_configuration_falls_back_and_an_unusable_level_is_ignored() {
    for config in [
        "{",
        "[]",
        r#"{"level":"loud"}"#,
        r#"{"encoding":"xml"}"#,
        r#"{"level":3}"#,
    ] {
        let (settings, error) = LogSettings::read(config, "loud");
        assert!(error.is_some(), "{config}");
        assert!(settings.is_fallback);
        assert_eq!(settings.level, LevelFilter::INFO);
    }
    let lines = logged("{", "", || tracing::info!("x"));
    assert!(lines[0].contains("\"logger\":\"fallback-logger.queueproxy\""));
}

#[test]
fn one_message_is_sampled_and_others_are_not_held_back() {
    let sampling = r#"{"sampling":{"initial":2,"thereafter":0}}"#;
    let lines = logged(sampling, "", || {
        for _ in 0..10 {
            tracing::info!("often");
        }
        tracing::info!("once");
    });
    // The second may turn between two of the ten.
    let often = lines.iter().filter(|line| line.contains("often")).count();
    assert!((2..=4).contains(&often), "{often}");
    assert!(lines.iter().any(|line| line.contains("once")));
    let all = logged(r#"{"sampling":null}"#, "", || {
        for _ in 0..300 {
            tracing::info!("often");
        }
    });
    assert_eq!(all.len(), 300);
}

#[test]
fn the_console_encoding_is_for_people() {
    let lines = logged(r#"{"encoding":"console"}"#, "", || {
        tracing::info!(n = 1, "hello")
    });
    let columns: Vec<_> = lines[0].split('\t').collect();
    assert_eq!(columns[1], "INFO");
    assert_eq!(columns[4], "hello");
    assert_eq!(
        columns[5],
        r#"{"knative.dev/key":"default/hello-00001","n":1}"#
    );
}

#[test]
fn the_level_follows_its_configuration() {
    let level = LogLevel::new(LevelFilter::INFO);
    let layer_level = level.clone();
    assert_eq!(level.configure("", "debug"), Ok(true));
    assert_eq!(layer_level.get(), LevelFilter::DEBUG);
    assert_eq!(level.configure("", "debug"), Ok(false));
    // Without a level of its own, a component has that of the whole.
    assert_eq!(level.configure(r#"{"level": "error"}"#, ""), Ok(true));
    assert_eq!(layer_level.get(), LevelFilter::ERROR);
    assert!(level.configure("{", "debug").is_err());
    assert_eq!(layer_level.get(), LevelFilter::ERROR);
}
