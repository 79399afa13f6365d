//! A queue-proxy on real sockets between a real client and a small app. The names of tests that
//! begin with `row_` are rows of Knative's table of edge cases
//! (`docs/queue-proxy.md` lists where we differ on purpose).

mod admission;
mod app;
mod client;
#[cfg(feature = "otel")]
mod collector;
mod drain;
mod forwarding;
mod instance;
mod limit;
mod messages;
mod probes;
mod readiness;
mod reuse;
mod statistics;
#[cfg(feature = "otel")]
mod telemetry;
mod timeouts;
mod tls;
