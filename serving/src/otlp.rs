//! Export over OTLP: traces and metrics, as protobuf over HTTP or gRPC.
//!
//! Everything runs as a task on the caller's own runtime and every queue is bounded, so that a
//! collector that is slow or gone costs spans, which are counted, and never a request. Messages
//! are the few that are sent, written out as prost structs; the SDK is not used, because its
//! processors want threads of their own, hide what they drop and read the process's environment.
//!
//! [`OtlpSettings`] says where to, [`Exporter`] sends, [`export_spans`] and [`export_metrics`] are
//! the tasks. Upstream: the `otlptrace*` and `otlpmetric*` exporters of OpenTelemetry's Go SDK.

mod client;
mod exporter;
mod grpc;
mod message;
mod metrics;
mod settings;
mod tasks;
mod tls;
mod traces;

pub use self::client::ExportError;
pub use self::exporter::Exporter;
pub use self::metrics::{
    Instrument, InstrumentKind, MetricSnapshot, Point, PointAttribute, ScopeMetricsSnapshot,
};
pub use self::settings::{OtlpSettings, Protocol, SettingsError, Signal};
pub use self::tasks::{
    MAX_EXPORT_BATCH, METRIC_INTERVAL, SPAN_DELAY, export_metrics, export_spans, flush_metrics,
    flush_spans, metric_interval,
};
