//! Metrics of one process on their way to a collector: what `config-observability` and the
//! environment ask for, with what identifies the process. Upstream:
//! `knative.dev/pkg/observability/{metrics/provider.go,resource/resource.go}`.

use std::rc::Rc;
use std::time::Duration;

use super::exporter::Exporter;
use super::metrics::ScopeSnapshot;
use super::settings::{OtlpSettings, Protocol, SettingsError, Signal, metric_interval};
use super::tasks::{export_metrics, flush_metrics};
use crate::clock::{AnchoredClock, UnixTime};
use crate::config::Observability;
use crate::config::observability::{PROTOCOL_GRPC, PROTOCOL_HTTP_PROTOBUF};
use crate::environment::Environment;
use crate::trace::Attribute;

/// Pushes snapshots of metrics. Clones share the exporter.
#[derive(Clone, Debug)]
pub struct MetricPush {
    exporter: Rc<Exporter>,
    interval: Duration,
    resource: Rc<[Attribute]>,
    clock: AnchoredClock,
    start: UnixTime,
}

/// Why metrics cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The endpoint cannot be used.
    #[error("metrics-endpoint cannot be used")]
    Settings(#[from] SettingsError),
    /// The process lacks what it takes.
    #[error("error creating exporter")]
    Io(#[from] std::io::Error),
}

// === impl MetricPush ===

impl MetricPush {
    /// What is asked for, with the attributes of the process; `None` unless the protocol is one of OTLP. Values count from now.
    ///
    /// # Errors
    /// What is asked for cannot be done.
    pub fn new(
        environment: &dyn Environment,
        observability: &Observability,
        resource: Vec<Attribute>,
    ) -> Result<Option<Self>, PushError> {
        let metrics = &observability.metrics;
        let protocol = match metrics.protocol.as_str() {
            PROTOCOL_GRPC => Protocol::Grpc,
            PROTOCOL_HTTP_PROTOBUF => Protocol::HttpProtobuf,
            _ => return Ok(None),
        };
        let endpoint = &metrics.endpoint;
        let settings = OtlpSettings::configured(environment, Signal::Metrics, protocol, endpoint)?;
        let clock = AnchoredClock::new();
        Ok(Some(Self {
            exporter: Rc::new(Exporter::new(settings)?),
            interval: metric_interval(environment, metrics.export_interval()),
            resource: resource.into(),
            clock,
            start: clock.now(),
        }))
    }

    /// Pushes at each interval, for ever. Cancel safe.
    pub async fn run(self, snapshot: impl Fn() -> Vec<ScopeSnapshot>) {
        let times = (self.clock, self.start);
        export_metrics(snapshot, self.resource, self.exporter, times, self.interval).await;
    }

    /// Pushes once more, within `limit`.
    pub async fn flush(&self, snapshot: Vec<ScopeSnapshot>, limit: Duration) {
        let times = (self.start, self.clock.now());
        flush_metrics(snapshot, &self.resource, &self.exporter, times, limit).await;
    }
}
