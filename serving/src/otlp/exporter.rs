//! Sends with retries, and counts.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prost::Message;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

use super::client::{Client, ExportError};
use super::message::ExportResponse;
use super::settings::OtlpSettings;

/// Attempts to export one message; then it is lost.
const MAX_ATTEMPTS: u32 = 5;

/// The pause after the first failed attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Sends one kind of message to one collector.
pub struct Exporter {
    client: Mutex<Client>,
    lost: Counter,
    sent: Counter,
    /// Whether the last export failed; a collector that stays away is reported once.
    is_failing: Cell<bool>,
}

// === impl Exporter ===

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter")
            .field("sent", &self.sent)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Exporter {
    /// An exporter that connects when it has something to send.
    ///
    /// # Errors
    /// The endpoint is encrypted, and there are no certificates to verify it with.
    pub fn new(settings: OtlpSettings) -> io::Result<Self> {
        Ok(Self {
            client: Mutex::new(Client::new(settings)?),
            lost: Counter::default(),
            sent: Counter::default(),
            is_failing: Cell::new(false),
        })
    }

    /// Spans or snapshots that no collector took.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// The counter behind [`Exporter::lost`], for a registry.
    pub fn lost_counter(&self) -> Counter {
        self.lost.clone()
    }

    /// Spans or snapshots that a collector took.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Waits for the right to send: exports go one after another.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn {
            exporter: self,
            client: self.client.lock().await,
        }
    }

    /// Sends `message`, which holds `count` spans or one snapshot, again if it may help. Dropping
    /// the future gives the message up and counts it as lost.
    async fn export(&self, client: &mut Client, message: &[u8], count: u64) {
        let pending = Pending {
            exporter: self,
            count,
        };
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        let outcome = loop {
            match client.send(message).await {
                Err(error) if error.is_retryable() && attempt < MAX_ATTEMPTS => {
                    self.report(client, &error);
                    // Half of it is left to chance, so that pods do not come back as one.
                    let jitter = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                    sleep(error.retry_after().unwrap_or(jitter)).await;
                    pause *= 2;
                    attempt += 1;
                }
                outcome => break outcome,
            }
        };
        match outcome {
            Ok(answer) => {
                self.is_failing.set(false);
                pending.settle();
                self.accepted(&answer, count);
            }
            Err(error) => self.report(client, &error),
        }
    }

    /// Counts what will not be sent any more.
    pub(super) fn give_up(&self, count: u64) {
        self.lost.inc_by(count);
    }

    /// A collector may take a part only.
    fn accepted(&self, answer: &[u8], count: u64) {
        let partial = ExportResponse::decode(answer)
            .ok()
            .and_then(|answer| answer.partial_success);
        let rejected = partial.map_or(0, |partial| {
            if partial.rejected > 0 || !partial.error_message.is_empty() {
                tracing::warn!(
                    rejected = partial.rejected,
                    "OTLP partial success: {}",
                    partial.error_message
                );
            }
            u64::try_from(partial.rejected).unwrap_or(0).min(count)
        });
        self.give_up(rejected);
        self.sent.inc_by(count - rejected);
    }

    fn report(&self, client: &Client, error: &ExportError) {
        if self.is_failing.replace(true) {
            return;
        }
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            text.push_str(": ");
            text.push_str(&source.to_string());
            cause = source.source();
        }
        let signal = client.settings().signal;
        tracing::warn!(error = text, "failed to export {signal:?} over OTLP");
    }
}

/// The right to send one message.
pub(super) struct Turn<'e> {
    exporter: &'e Exporter,
    client: MutexGuard<'e, Client>,
}

impl Turn<'_> {
    /// See [`Exporter::export`].
    pub(super) async fn send(mut self, message: &[u8], count: u64) {
        self.exporter.export(&mut self.client, message, count).await;
    }
}

/// A message that has not been taken yet; lost when it is dropped.
struct Pending<'e> {
    exporter: &'e Exporter,
    count: u64,
}

impl Pending<'_> {
    fn settle(mut self) {
        self.count = 0;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.exporter.give_up(self.count);
    }
}
