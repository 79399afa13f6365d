//! Structured logs in the shape that zap gives Knative's components.
//!
//! [`LogSettings`] reads the `zap-logger-config` object over upstream's defaults
//! (`vendor/knative.dev/pkg/logging/config.go`); [`LogLayer`] is a `tracing` layer that writes one
//! object per line through a [`LineWriter`]. The binaries install it; libraries only emit events.

mod exposition;
mod line_writer;
mod settings;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

pub use exposition::{PROMETHEUS_TEXT, prometheus_text};
pub use line_writer::{FLUSH_TIMEOUT, LineWriter, MAX_LINE_BYTES, MAX_QUEUED_LINES};
pub use settings::{
    Caller, Encoding, LevelCase, LogOutput, LogSettings, Sampling, SettingsError, TimeFormat,
};

use crate::config::{Data, Logging};

/// Events of other crates are kept from this level upwards, whatever level is configured.
const FOREIGN_LEVEL: LevelFilter = LevelFilter::WARN;

/// How targets of our own crates begin.
const OWN_TARGETS: [&str; 6] = [
    "serving",
    "queue_proxy",
    "activator",
    "autoscaler",
    "local",
    "pilotlight",
];

/// Counters for sampling; messages share one when their hashes meet.
const SAMPLING_SLOTS: usize = 1024;

/// Writes events as zap would.
#[derive(Debug)]
pub struct LogLayer {
    settings: LogSettings,
    level: LogLevel,
    /// `logger`: the component.
    logger: String,
    /// Constant members, encoded: each begins with a comma.
    constant: String,
    writer: LineWriter,
    sampler: Option<Sampler>,
}

/// The least severe level that a layer writes, which can change while it does. Clones share it.
#[derive(Clone, Debug)]
pub struct LogLevel(Arc<AtomicU8>);

#[derive(Debug)]
struct Sampler {
    rule: Sampling,
    /// The second in the upper half, the events seen in it in the lower.
    slots: Box<[AtomicU64]>,
}

/// The members of one event.
#[derive(Default)]
struct Members {
    message: String,
    /// Encoded: each begins with a comma.
    fields: String,
}

// === impl LogLayer ===

impl LogLayer {
    /// A layer for the component `logger`, with members that every line carries.
    pub fn new(
        settings: LogSettings,
        logger: &str,
        constant: &[(&str, &str)],
        writer: LineWriter,
    ) -> Self {
        let mut encoded = String::new();
        for (key, value) in constant {
            push_member(&mut encoded, key, value);
        }
        let sampler = settings.sampling.map(|rule| Sampler {
            rule,
            slots: (0..SAMPLING_SLOTS).map(|_| AtomicU64::new(0)).collect(),
        });
        let logger = if settings.is_fallback {
            format!("fallback-logger.{logger}")
        } else {
            logger.to_owned()
        };
        Self {
            level: LogLevel::new(settings.level),
            settings,
            logger,
            constant: encoded,
            writer,
            sampler,
        }
    }

    /// For whoever follows the configuration.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let own = OWN_TARGETS
            .iter()
            .any(|target| metadata.target().starts_with(target));
        let level = metadata.level();
        *level <= self.level.get() && (own || *level <= FOREIGN_LEVEL)
    }

    fn line(&self, metadata: &Metadata<'_>, members: &Members, now: Timestamp) -> String {
        match self.settings.encoding {
            Encoding::Json => self.json(metadata, members, now),
            Encoding::Console => self.console(metadata, members, now),
        }
    }

    fn json(&self, metadata: &Metadata<'_>, members: &Members, now: Timestamp) -> String {
        let settings = &self.settings;
        let mut line = String::with_capacity(256);
        let severity = settings.level_case.name(metadata.level());
        push_member(&mut line, &settings.level_key, severity);
        if !settings.time_key.is_empty() {
            line.push(',');
            push_json(&mut line, &settings.time_key);
            line.push(':');
            line.push_str(&settings.time_format.json(now));
        }
        push_member(&mut line, &settings.name_key, &self.logger);
        if let Some(caller) = settings.caller.of(metadata) {
            push_member(&mut line, &settings.caller_key, &caller);
        }
        push_member(&mut line, &settings.message_key, &members.message);
        line.push_str(&self.constant);
        line.push_str(&members.fields);
        // Every member begins with a comma, the first one too.
        line.replace_range(..usize::from(!line.is_empty()), "{");
        line.push('}');
        line
    }

    fn console(&self, metadata: &Metadata<'_>, members: &Members, now: Timestamp) -> String {
        let settings = &self.settings;
        let mut line = settings.time_format.text(now);
        for part in [settings.level_case.name(metadata.level()), &self.logger] {
            line.push('\t');
            line.push_str(part);
        }
        if let Some(caller) = settings.caller.of(metadata) {
            line.push('\t');
            line.push_str(&caller);
        }
        line.push('\t');
        line.push_str(&members.message);
        let fields = format!("{}{}", self.constant, members.fields);
        if let Some(fields) = fields.strip_prefix(',') {
            line.push_str("\t{");
            line.push_str(fields);
            line.push('}');
        }
        line
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.get())
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut members = Members::default();
        event.record(&mut members);
        let now = Timestamp::now();
        let sampled = self
            .sampler
            .as_ref()
            .is_none_or(|sampler| sampler.admits(event.metadata().level(), &members.message, now));
        if sampled {
            let line = self.line(event.metadata(), &members, now);
            self.writer.write(line.into_bytes());
        }
    }
}

// === impl LogLevel ===

impl LogLevel {
    const LEVELS: [LevelFilter; 6] = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];

    fn new(level: LevelFilter) -> Self {
        Self(Arc::new(AtomicU8::new(Self::position(level))))
    }

    fn position(level: LevelFilter) -> u8 {
        (0..)
            .zip(Self::LEVELS)
            .find_map(|(position, known)| (known == level).then_some(position))
            .unwrap_or_default()
    }

    /// The present level.
    pub fn get(&self) -> LevelFilter {
        let position = usize::from(self.0.load(Ordering::Relaxed));
        Self::LEVELS
            .get(position)
            .copied()
            .unwrap_or(LevelFilter::INFO)
    }

    /// Takes the level from a configuration, read as at start; false when it is the present one. A
    /// configuration that cannot be used changes nothing
    /// (`vendor/knative.dev/pkg/logging/config.go`, `UpdateLevelFromConfigMap`).
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn configure(&self, config: &str, level: &str) -> Result<bool, SettingsError> {
        let (settings, problem) = LogSettings::read(config, level);
        if let Some(problem) = problem {
            return Err(problem);
        }
        let new = Self::position(settings.level);
        let changed = self.0.swap(new, Ordering::Relaxed) != new;
        if changed {
            // What every log statement knows of who listens was worked out with the old level.
            tracing::callsite::rebuild_interest_cache();
        }
        Ok(changed)
    }

    /// Takes the level of a component from `config-logging`, which may have another `name`. A map
    /// that cannot be used is logged and changes nothing.
    pub fn follow(&self, component: &str, name: &str, data: &Data) {
        let problem: Box<dyn std::error::Error> = match Logging::parse(data) {
            Ok(logging) => {
                let level = logging.level(component);
                let level = level.map(|level| level.as_str()).unwrap_or_default();
                match self.configure(&logging.zap_config, level) {
                    Ok(true) => {
                        tracing::info!(level = %self.get(), "the log level has changed");
                        return;
                    }
                    Ok(false) => return,
                    Err(error) => error.into(),
                }
            }
            Err(error) => error.into(),
        };
        tracing::error!(
            name,
            error = &*problem,
            "the config map is invalid, the log level stays"
        );
    }
}

// === impl Sampler ===

impl Sampler {
    /// The first so many of a message each second, then every so-manieth.
    fn admits(&self, level: &Level, message: &str, now: Timestamp) -> bool {
        let mut hasher = fnv::FnvHasher::default();
        level.hash(&mut hasher);
        message.hash(&mut hasher);
        // Reduced below the number of slots, which fits.
        let slot = usize::try_from(hasher.finish() % SAMPLING_SLOTS as u64).unwrap_or(0);
        let second = now.as_second().unsigned_abs() << 32;
        let seen = &self.slots[slot];
        let before = seen.load(Ordering::Relaxed);
        let count = if before & !0xffff_ffff == second {
            seen.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            seen.store(second + 1, Ordering::Relaxed);
            second + 1
        } & 0xffff_ffff;
        count <= self.rule.initial
            || (self.rule.thereafter > 0
                && (count - self.rule.initial).is_multiple_of(self.rule.thereafter))
    }
}

// === impl Members ===

impl Members {
    fn push(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            push_member(&mut self.fields, field.name(), value);
        }
    }

    fn push_bare(&mut self, field: &Field, value: &dyn fmt::Display) {
        self.fields.push(',');
        push_json(&mut self.fields, field.name());
        self.fields.push(':');
        self.fields.push_str(&value.to_string());
    }
}

impl Visit for Members {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, &value.to_string());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push_bare(field, &value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push_bare(field, &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push_bare(field, &value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.push_bare(field, &value);
        } else {
            self.push(field, &value.to_string());
        }
    }
}

/// Adds `,"key":"value"`, or nothing for a key that the configuration left empty.
fn push_member(into: &mut String, key: &str, value: &str) {
    if key.is_empty() {
        return;
    }
    into.push(',');
    push_json(into, key);
    into.push(':');
    push_json(into, value);
}

fn push_json(into: &mut String, text: &str) {
    // A string always encodes; were it not to, an empty one is better than no line.
    into.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned()));
}

#[cfg(test)]
mod tests;
