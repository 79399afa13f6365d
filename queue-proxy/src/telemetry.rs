//! Traces and pushed metrics: what is configured, the spans of a request, and what exports them.
//!
//! The scraped metrics are [`crate::metrics`]'s, which a push reads as they are. With the protocols
//! `none` a request costs the look-ups of the headers that it would pass on, and no clock is read.
//! Upstream: `pkg/queue/sharedmain/otel.go` and its vendored `otelhttp`.

mod export;
mod resource;
mod settings;
mod spans;

pub use self::export::ExportError;
pub(crate) use self::export::{Exports, Pushed};
pub(crate) use self::resource::resource;
pub use self::settings::TelemetrySettings;
pub(crate) use self::spans::{RequestSpans, Tracing};

use serving::trace::Scope;

/// Upstream's own instruments and spans.
pub(crate) const OWN_SCOPE: Scope = Scope {
    name: "knative.dev/serving/pkg/queue",
    version: "",
};

/// Its HTTP instrumentation.
pub(crate) use serving::http_metrics::HTTP_SCOPE;
