//! Whether the app is ready: probe rounds on demand, shared by everyone who asks meanwhile.
//!
//! Driven by the probe requests of kubelet and activator through [`crate::stack`]; nothing probes
//! in the background, and a verdict is kept only for [`Readiness::was_ready`], by which a sidecar
//! without CPU time still answers (upstream: `pkg/queue/readiness/probe.go`). A round goes on when
//! the requester that began it leaves, so that the others still get its verdict.

mod attempt;
mod grpc;
mod http_get;
mod round;
mod tls;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use serving::probe_spec::{self, InvalidProbe};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::ProbePacing;
use crate::handle::Shared;

pub(crate) use round::Report;

/// For how long a good verdict can stand for the next: kubelet asks every ten seconds.
const MEMORY: Duration = Duration::from_secs(15);

/// One container's probe, decoded and with its defaults resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) action: Action,
    /// Of one attempt in standard mode; `None` is no timeout.
    pub(crate) timeout: Option<Duration>,
    /// No period was given: many quick attempts per round instead of one.
    pub(crate) aggressive: bool,
    /// Consecutive successes wanted in aggressive mode.
    pub(crate) success_threshold: u32,
}

/// What an attempt does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    HttpGet(HttpGet),
    TcpSocket {
        host: String,
        port: u16,
    },
    Grpc {
        port: u16,
        service: String,
    },
    /// Never successful: the controller turns exec probes into TCP ones.
    Exec,
    /// A probe without an action, or a `null` where one should be. It fails with a message, where
    /// upstream's process crashes on a `null`.
    Missing,
}

/// An HTTP probe's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpGet {
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// With the query, if any; a missing leading slash is added.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Whether HTTP/2 with prior knowledge is tried first.
    pub(crate) detect_http2: bool,
}

/// The probes of one pod and the round under way, if any.
#[derive(Debug)]
pub(crate) struct Readiness {
    probes: Rc<[ProbeState]>,
    pacing: ProbePacing,
    report: Report,
    shared: Rc<Shared>,
    /// When the app was last found ready, unless it was not since.
    ready_at: Cell<Option<Instant>>,
    /// The verdict that the round under way will publish.
    round: RefCell<Option<watch::Receiver<Option<bool>>>>,
}

/// A probe and what it remembers between rounds.
#[derive(Debug)]
struct ProbeState {
    probe: Probe,
    /// Successes since the last failure; survives rounds, so that an app that has been ready
    /// answers with one attempt.
    successes: Cell<u32>,
}

// === impl Probe ===

impl Probe {
    /// Decodes `SERVING_READINESS_PROBE`; an empty text is no probe at all.
    pub(crate) fn decode(
        text: &str,
        multi: bool,
        detect_http2: bool,
    ) -> Result<Vec<Self>, InvalidProbe> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let probes = probe_spec::decode(text, multi)?;
        Ok(probes
            .into_iter()
            .map(|probe| Self::new(probe.unwrap_or_default(), detect_http2))
            .collect())
    }

    fn new(probe: probe_spec::Probe, detect_http2: bool) -> Self {
        let timeout = u64::try_from(probe.timeout_seconds).unwrap_or(0);
        let (aggressive, success_threshold) = (probe.period_seconds == 0, probe.success_threshold);
        Self {
            action: Action::new(probe, detect_http2),
            timeout: (timeout > 0).then(|| Duration::from_secs(timeout)),
            aggressive,
            success_threshold: u32::try_from(success_threshold).unwrap_or(0),
        }
    }
}

// === impl Action ===

impl Action {
    /// The first action present in upstream's order.
    fn new(probe: probe_spec::Probe, detect_http2: bool) -> Self {
        if let Some(get) = probe.http_get {
            return Self::HttpGet(HttpGet {
                https: get.scheme.eq_ignore_ascii_case("https"),
                host: get.host,
                port: port(&get.port),
                path: get.path,
                headers: get
                    .http_headers
                    .into_iter()
                    .map(|header| (header.name, header.value))
                    .collect(),
                detect_http2,
            });
        }
        if let Some(tcp) = probe.tcp_socket {
            return Self::TcpSocket {
                host: tcp.host,
                port: port(&tcp.port),
            };
        }
        if let Some(grpc) = probe.grpc {
            return Self::Grpc {
                port: u16::try_from(grpc.port).unwrap_or(0),
                service: grpc.service.unwrap_or_default(),
            };
        }
        match probe.exec {
            Some(_) => Self::Exec,
            None => Self::Missing,
        }
    }
}

/// A port out of range becomes 0, to which no connection succeeds.
fn port(port: &probe_spec::Port) -> u16 {
    u16::try_from(port.value()).unwrap_or(0)
}

// === impl Readiness ===

impl Readiness {
    pub(crate) fn new(
        probes: Vec<Probe>,
        pacing: ProbePacing,
        report: Report,
        shared: Rc<Shared>,
    ) -> Rc<Self> {
        let probes = probes
            .into_iter()
            .map(|probe| ProbeState {
                probe,
                successes: Cell::new(0),
            })
            .collect();
        Rc::new(Self {
            probes,
            pacing,
            report,
            shared,
            ready_at: Cell::new(None),
            round: RefCell::new(None),
        })
    }

    /// The verdict of the round under way, or of a new one. Cancel safe: the round goes on.
    pub(crate) async fn ready(self: &Rc<Self>) -> bool {
        if self.probes.is_empty() {
            self.shared.ready.set(true);
            return true;
        }
        let mut verdict = self.join();
        // A round that ends without a verdict has panicked: not ready.
        match verdict.wait_for(Option::is_some).await {
            Ok(verdict) => (*verdict).unwrap_or(false),
            Err(_) => false,
        }
    }

    /// Whether the app was ready a short while ago. A round begins all the same, so that this is
    /// about the present the next time.
    pub(crate) fn was_ready(self: &Rc<Self>, now: Instant) -> bool {
        if !self.probes.is_empty() {
            drop(self.join());
        }
        self.ready_at.get().is_some_and(|at| now - at < MEMORY)
    }

    fn join(self: &Rc<Self>) -> watch::Receiver<Option<bool>> {
        if let Some(round) = &*self.round.borrow()
            && round.has_changed().is_ok()
        {
            return round.clone();
        }
        let (verdict, receiver) = watch::channel(None);
        *self.round.borrow_mut() = Some(receiver.clone());
        let readiness = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let ready = round::run(&readiness.probes, readiness.pacing, readiness.report).await;
            readiness.shared.ready.set(ready);
            readiness.ready_at.set(ready.then(Instant::now));
            // Whoever asks from now on begins a new round.
            readiness.round.replace(None);
            verdict.send_replace(Some(ready));
        });
        receiver
    }
}

#[cfg(test)]
mod tests;
