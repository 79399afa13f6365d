//! `config-deployment`: how the pods of revisions are made.
//! Upstream: `pkg/deployment/config.go`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Data, InvalidConfig, Reader};
use crate::go::{duration_from_std, duration_to_std, format_duration, quote};

/// The name of the ConfigMap.
pub const NAME: &str = "config-deployment";

/// The default of `progress-deadline`.
pub const PROGRESS_DEADLINE_DEFAULT: Duration = Duration::from_secs(600);

const DIGEST_RESOLUTION_TIMEOUT_DEFAULT: i64 = 10_000_000_000;
const DECIMAL_SUFFIXES: &[&str] = &["", "n", "u", "m", "k", "M", "G", "T", "P", "E"];
const BINARY_SUFFIXES: &[&str] = &["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// What reaches the data plane. The map is still refused as a whole when a key that only the
/// controller uses is wrong; `runtime-class-name`, which is YAML, is the one that is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// `queue-sidecar-image`; never empty when parsed from a ConfigMap.
    pub queue_sidecar_image: String,
    /// `progress-deadline`: how long a revision may take to become ready; whole seconds.
    pub progress_deadline: Duration,
    /// `queue-sidecar-token-audiences`: a token is mounted for each.
    pub queue_sidecar_token_audiences: BTreeSet<String>,
    /// `queue-sidecar-rootca`.
    pub queue_sidecar_root_ca: String,
    /// `queue-sidecar-tls-min-version`.
    pub queue_sidecar_tls_min_version: String,
    /// `queue-sidecar-tls-max-version`.
    pub queue_sidecar_tls_max_version: String,
    /// `queue-sidecar-tls-cipher-suites`.
    pub queue_sidecar_tls_cipher_suites: String,
    /// `queue-sidecar-tls-curve-preferences`.
    pub queue_sidecar_tls_curve_preferences: String,
    /// `pod-is-always-schedulable`: an unschedulable pod says nothing about the revision.
    pub pod_is_always_schedulable: bool,
}

// === impl Deployment ===

impl Default for Deployment {
    /// The built-in values. The image is empty: a ConfigMap must name one.
    fn default() -> Self {
        Self {
            queue_sidecar_image: String::new(),
            progress_deadline: PROGRESS_DEADLINE_DEFAULT,
            queue_sidecar_token_audiences: BTreeSet::from([String::new()]),
            queue_sidecar_root_ca: String::new(),
            queue_sidecar_tls_min_version: String::new(),
            queue_sidecar_tls_max_version: String::new(),
            queue_sidecar_tls_cipher_suites: String::new(),
            queue_sidecar_tls_curve_preferences: String::new(),
            pod_is_always_schedulable: false,
        }
    }
}

impl Deployment {
    /// Parses and validates the ConfigMap's data on top of the defaults.
    /// Upstream: `NewConfigFromMap`.
    pub fn parse(data: &Data) -> Result<Self, InvalidConfig> {
        let mut config = Self::default();
        let mut reader = Reader::new(data);
        let mut progress_deadline = duration_from_std(config.progress_deadline);
        let mut digest_resolution_timeout = DIGEST_RESOLUTION_TIMEOUT_DEFAULT;
        // All legacy spellings come first, so that the newer ones win.
        reader.string("queueSidecarImage", &mut config.queue_sidecar_image);
        reader.duration("progressDeadline", &mut progress_deadline);
        reader.duration("digestResolutionTimeout", &mut digest_resolution_timeout);
        for key in [
            "queueSidecarCPURequest",
            "queueSidecarMemoryRequest",
            "queueSidecarEphemeralStorageRequest",
            "queueSidecarCPULimit",
            "queueSidecarMemoryLimit",
            "queueSidecarEphemeralStorageLimit",
        ] {
            reader.parse(key, &mut (), check_quantity);
        }
        reader.string("queue-sidecar-image", &mut config.queue_sidecar_image);
        reader.duration("progress-deadline", &mut progress_deadline);
        reader.duration("digest-resolution-timeout", &mut digest_resolution_timeout);
        config.read_sidecar(&mut reader);
        reader.check()?;

        reader.require(!config.queue_sidecar_image.is_empty(), || {
            "queue-sidecar-image cannot be empty or unset".to_owned()
        });
        reader.require(progress_deadline > 0, || {
            format!(
                "progress-deadline cannot be a non-positive duration, was {}",
                format_duration(progress_deadline)
            )
        });
        reader.require(progress_deadline % 1_000_000_000 == 0, || {
            format!(
                "progress-deadline must be rounded to a whole second, was: {}",
                format_duration(progress_deadline)
            )
        });
        reader.require(digest_resolution_timeout > 0, || {
            format!(
                "digest-resolution-timeout cannot be a non-positive duration, was {}",
                format_duration(digest_resolution_timeout)
            )
        });
        if let Some(affinity) = reader.raw("default-affinity-type") {
            let known = ["none", "prefer-spread-revision-over-nodes"];
            reader.require(known.contains(&affinity), || {
                format!(
                    "unsupported default-affinity-type value: {}",
                    quote(affinity)
                )
            });
        }
        reader.check()?;
        config.progress_deadline = duration_to_std(progress_deadline);
        Ok(config)
    }

    fn read_sidecar(&mut self, reader: &mut Reader<'_>) {
        for key in [
            "queue-sidecar-cpu-request",
            "queue-sidecar-memory-request",
            "queue-sidecar-ephemeral-storage-request",
            "queue-sidecar-cpu-limit",
            "queue-sidecar-memory-limit",
            "queue-sidecar-ephemeral-storage-limit",
        ] {
            reader.parse(key, &mut (), check_quantity);
        }
        if let Some(raw) = reader.raw("queue-sidecar-token-audiences") {
            self.queue_sidecar_token_audiences =
                raw.split(',').map(|item| item.trim().to_owned()).collect();
        }
        for (key, target) in [
            ("queue-sidecar-rootca", &mut self.queue_sidecar_root_ca),
            (
                "queue-sidecar-tls-min-version",
                &mut self.queue_sidecar_tls_min_version,
            ),
            (
                "queue-sidecar-tls-max-version",
                &mut self.queue_sidecar_tls_max_version,
            ),
            (
                "queue-sidecar-tls-cipher-suites",
                &mut self.queue_sidecar_tls_cipher_suites,
            ),
            (
                "queue-sidecar-tls-curve-preferences",
                &mut self.queue_sidecar_tls_curve_preferences,
            ),
        ] {
            reader.string(key, target);
        }
        reader.boolean(
            "pod-is-always-schedulable",
            &mut self.pod_is_always_schedulable,
        );
    }
}

/// Why a text is no Kubernetes quantity such as `25m` or `1Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum InvalidQuantity {
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Only whether it is a quantity; nothing here needs its value.
/// Upstream: `k8s.io/apimachinery/pkg/api/resource`, `ParseQuantity`.
fn check_quantity(text: &str) -> Result<(), InvalidQuantity> {
    if text.is_empty() {
        return Err(InvalidQuantity::Format);
    }
    let is_digit = |c: char| c.is_ascii_digit();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let rest = unsigned.trim_start_matches(is_digit);
    let suffix = rest
        .strip_prefix('.')
        .map_or(rest, |after| after.trim_start_matches(is_digit));
    let exponent = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if !digits.chars().all(is_digit) {
        return Err(InvalidQuantity::Format);
    }
    let known = DECIMAL_SUFFIXES.contains(&suffix)
        || BINARY_SUFFIXES.contains(&suffix)
        || suffix
            .strip_prefix(['e', 'E'])
            .is_some_and(|exponent| exponent.parse::<i64>().is_ok());
    if known {
        Ok(())
    } else {
        Err(InvalidQuantity::Suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_checked() {
        for text in [
            "0", "25m", "400Mi", "1.5", "1.G", "+1e3", "1E-2", ".5", "1E",
        ] {
            assert_eq!(check_quantity(text), Ok(()), "{text}");
        }
        for text in ["", "x", "1 Gi", "1e3x"] {
            assert_eq!(check_quantity(text), Err(InvalidQuantity::Format), "{text}");
        }
        for text in ["1mi", "1eE3", "1KiB2", "12ii"] {
            assert!(check_quantity(text).is_err(), "{text}");
        }
    }
}
