//! One round of probing: every container at once, each with one attempt or with many quick ones.

use std::io::Write;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::attempt::{ProbeError, attempt};
use super::{Action, Probe, ProbeState};
use crate::config::ProbePacing;

/// How long the attempts of an aggressive round go on (`PollTimeout`).
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of one attempt of an aggressive round (`aggressiveProbeTimeout`).
const AGGRESSIVE_TIMEOUT: Duration = Duration::from_millis(100);

/// The timeout of an attempt that has none. Upstream waits for ever, and with it everybody who
/// asks; no controller writes such a probe.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Where the reasons of a failed round go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// To standard error as bare text, as upstream does.
    Stderr,
    /// To the log.
    Log,
}

/// Whether every probe succeeds. Probes run in parallel and all of them are awaited.
pub(super) async fn run(probes: &[ProbeState], pacing: ProbePacing, report: Report) -> bool {
    let verdicts = join_all(probes.iter().map(|state| container(state, pacing, report))).await;
    match verdicts.into_iter().find_map(Result::err) {
        Some(error) => {
            report.line(&error.to_string());
            false
        }
        None => true,
    }
}

async fn container(
    state: &ProbeState,
    pacing: ProbePacing,
    report: Report,
) -> Result<(), ProbeError> {
    match state.probe.action {
        Action::Exec => Err(ProbeError::Exec),
        Action::Missing => Err(ProbeError::Missing),
        _ if state.probe.aggressive => aggressive(state, pacing, report).await,
        _ => standard(&state.probe).await,
    }
}

/// Exactly one attempt: kubelet applies its own thresholds.
async fn standard(probe: &Probe) -> Result<(), ProbeError> {
    // gRPC deadlines are absolute: without time the call has failed before it begins.
    let none = match probe.action {
        Action::Grpc { .. } => Duration::ZERO,
        _ => LONGEST_TIMEOUT,
    };
    attempt(&probe.action, probe.timeout.unwrap_or(none)).await
}

/// Attempts until enough have succeeded in a row, for at most [`ROUND_TIMEOUT`].
async fn aggressive(
    state: &ProbeState,
    pacing: ProbePacing,
    report: Report,
) -> Result<(), ProbeError> {
    let end = Instant::now() + ROUND_TIMEOUT;
    let mut pause = pacing.first;
    let mut failures = 0_u32;
    let mut last_failure = None;
    loop {
        let started = Instant::now();
        match attempt(&state.probe.action, AGGRESSIVE_TIMEOUT).await {
            Ok(()) => {
                let successes = state.successes.get().saturating_add(1);
                state.successes.set(successes);
                if successes >= state.probe.success_threshold {
                    return Ok(());
                }
            }
            Err(error) => {
                state.successes.set(0);
                failures = failures.saturating_add(1);
                last_failure = Some(error);
            }
        }
        let next = started + pause;
        if next >= end || Instant::now() >= end {
            break;
        }
        // An attempt that outlasted its pause is followed by the next one at once.
        tokio::time::sleep_until(next).await;
        pause = (pause * 2).min(pacing.longest);
    }
    if let Some(error) = last_failure {
        report.line(&format!(
            "aggressive probe error (failed {failures} times): {error}"
        ));
    }
    Err(ProbeError::RoundExpired)
}

// === impl Report ===

impl Report {
    fn line(self, text: &str) {
        match self {
            // Nothing is left to tell about a standard error that is closed.
            Self::Stderr => drop(writeln!(std::io::stderr().lock(), "{text}")),
            Self::Log => tracing::warn!("readiness probe failed: {text}"),
        }
    }
}
