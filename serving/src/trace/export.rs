//! Where the spans of one program go: standard output or a collector, as `config-observability` and
//! the environment say.

use std::io;
use std::rc::Rc;
#[cfg(feature = "otel")]
use std::time::Duration;

use super::{Attribute, Sampler, SamplerError, Tracer, TracerOptions, stdout};
use crate::config::observability::{
    PROTOCOL_GRPC, PROTOCOL_HTTP_PROTOBUF, PROTOCOL_STDOUT, Tracing,
};
use crate::environment::Environment;
use crate::otlp::SettingsError;
#[cfg(feature = "otel")]
use crate::otlp::{self, Exporter, OtlpSettings, Protocol, Signal};
use crate::telemetry::LineWriter;

/// Spans that are exported, and how.
#[derive(Clone, Debug)]
pub struct SpanExport {
    tracer: Tracer,
    output: Output,
}

#[derive(Clone, Debug)]
enum Output {
    Stdout(LineWriter),
    #[cfg(feature = "otel")]
    Otlp(Rc<Exporter>),
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum SpanExportError {
    /// The endpoint cannot be used.
    #[error("tracing-endpoint cannot be used")]
    Settings(#[from] SettingsError),
    /// The sampler cannot be used.
    #[error("sampler cannot be used")]
    Sampler(#[from] SamplerError),
    /// The process lacks what it takes.
    #[error("error creating exporter")]
    Io(#[from] io::Error),
    /// Built without the feature `otel`.
    #[cfg(not(feature = "otel"))]
    #[error("this build has no exporter for OTLP")]
    NotBuilt,
}

// === impl SpanExport ===

impl SpanExport {
    /// What is configured; `None` when nobody wants spans.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn configured(
        environment: &dyn Environment,
        tracing: &Tracing,
    ) -> Result<Option<Self>, SpanExportError> {
        let output = match tracing.protocol.as_str() {
            PROTOCOL_STDOUT => Output::Stdout(LineWriter::stdout()?),
            PROTOCOL_GRPC | PROTOCOL_HTTP_PROTOBUF => Self::otlp(environment, tracing)?,
            _ => return Ok(None),
        };
        let is_stdout = matches!(output, Output::Stdout(_));
        let sampler = Sampler::configured(environment, tracing.sampling_rate, is_stdout)?;
        Ok(Some(Self {
            tracer: Tracer::new(TracerOptions {
                sampler,
                ..TracerOptions::default()
            }),
            output,
        }))
    }

    #[cfg(feature = "otel")]
    fn otlp(environment: &dyn Environment, tracing: &Tracing) -> Result<Output, SpanExportError> {
        let protocol = match tracing.protocol.as_str() {
            PROTOCOL_GRPC => Protocol::Grpc,
            _ => Protocol::HttpProtobuf,
        };
        let endpoint = &tracing.endpoint;
        let settings = OtlpSettings::configured(environment, Signal::Traces, protocol, endpoint)?;
        Ok(Output::Otlp(Rc::new(Exporter::new(settings)?)))
    }

    #[cfg(not(feature = "otel"))]
    fn otlp(_: &dyn Environment, _: &Tracing) -> Result<Output, SpanExportError> {
        Err(SpanExportError::NotBuilt)
    }

    /// Begins the spans.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Exports spans as they finish, for ever.
    pub async fn run(self, resource: Rc<[Attribute]>) {
        match self.output {
            Output::Stdout(writer) => stdout::export(self.tracer, resource.to_vec(), writer).await,
            #[cfg(feature = "otel")]
            Output::Otlp(exporter) => otlp::export_spans(self.tracer, resource, exporter).await,
        }
    }

    /// Exports what is left, within `limit`, while [`Self::run`] still runs.
    #[cfg(feature = "otel")]
    pub async fn flush(&self, resource: &[Attribute], limit: Duration) {
        match &self.output {
            Output::Stdout(writer) => stdout::flush(&self.tracer, resource, writer),
            Output::Otlp(exporter) => {
                otlp::flush_spans(&self.tracer, resource, exporter, limit).await;
            }
        }
    }
}
