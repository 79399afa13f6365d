//! Export over OTLP: traces and metrics, as protobuf over HTTP or gRPC.
//!
//! Everything runs as a task on the caller's own runtime and every queue is bounded, so that a
//! collector that is slow or gone costs spans, which are counted, and never a request. Messages
//! are the few that are sent, written out as prost structs; the SDK is not used, because its
//! processors want threads of their own, hide what they drop and read the process's environment.
//!
//! [`OtlpSettings`] says where to and is always there; with the feature `otel`, `Exporter` sends, and
//! `export_spans` and `export_metrics` are the tasks,
//! `MetricPush` all that a control plane needs. Upstream: the `otlptrace*` and `otlpmetric*` exporters of OpenTelemetry's Go SDK.

#[cfg(feature = "otel")]
mod client;
#[cfg(feature = "otel")]
mod exporter;
#[cfg(feature = "otel")]
mod grpc;
#[cfg(feature = "otel")]
mod message;
#[cfg(feature = "otel")]
mod metrics;
#[cfg(feature = "otel")]
mod push;
mod settings;
#[cfg(feature = "otel")]
mod tasks;
#[cfg(feature = "otel")]
mod tls;
#[cfg(feature = "otel")]
mod traces;

#[cfg(feature = "otel")]
pub use self::client::ExportError;
#[cfg(feature = "otel")]
pub use self::exporter::Exporter;
#[cfg(feature = "otel")]
pub use self::metrics::{Instrument, MetricSnapshot, Point, ScopeSnapshot, Series};
#[cfg(feature = "otel")]
pub use self::push::{MetricPush, PushError};
pub use self::settings::{
    METRIC_INTERVAL, OtlpSettings, Protocol, SettingsError, Signal, metric_interval, percent_decode,
};
#[cfg(feature = "otel")]
pub use self::tasks::{
    MAX_EXPORT_BATCH, SPAN_DELAY, export_metrics, export_spans, flush_metrics, flush_spans,
};
