//! `QUEUE_PROXY_TLS_*`, `ACTIVATOR_TLS_*` and `METRICS_PROMETHEUS_TLS_*`: versions, cipher suites and curves, in Go's names.
//!
//! Pure. Upstream: `knative.dev/pkg/network/tls/config.go`.

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::environment::Reader;

/// The variables of a program.
#[derive(Debug, PartialEq, Eq)]
pub struct PolicyVariables {
    min_version: &'static str,
    max_version: &'static str,
    cipher_suites: &'static str,
    curve_preferences: &'static str,
}

/// Those of queue-proxy.
pub static QUEUE_PROXY: PolicyVariables = PolicyVariables {
    min_version: "QUEUE_PROXY_TLS_MIN_VERSION",
    max_version: "QUEUE_PROXY_TLS_MAX_VERSION",
    cipher_suites: "QUEUE_PROXY_TLS_CIPHER_SUITES",
    curve_preferences: "QUEUE_PROXY_TLS_CURVE_PREFERENCES",
};

/// Those of the activator.
pub static ACTIVATOR: PolicyVariables = PolicyVariables {
    min_version: "ACTIVATOR_TLS_MIN_VERSION",
    max_version: "ACTIVATOR_TLS_MAX_VERSION",
    cipher_suites: "ACTIVATOR_TLS_CIPHER_SUITES",
    curve_preferences: "ACTIVATOR_TLS_CURVE_PREFERENCES",
};

/// Those of the listener that Prometheus scrapes, in all programs.
pub static METRICS_PROMETHEUS: PolicyVariables = PolicyVariables {
    min_version: "METRICS_PROMETHEUS_TLS_MIN_VERSION",
    max_version: "METRICS_PROMETHEUS_TLS_MAX_VERSION",
    cipher_suites: "METRICS_PROMETHEUS_TLS_CIPHER_SUITES",
    curve_preferences: "METRICS_PROMETHEUS_TLS_CURVE_PREFERENCES",
};

/// The variables as received; empty equals unset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    variables: &'static PolicyVariables,
    /// `1.2` or `1.3`; 1.3 when empty.
    pub min_version: String,
    /// `1.2` or `1.3`; without limit when empty.
    pub max_version: String,
    /// Comma-separated suite names.
    pub cipher_suites: String,
    /// Comma-separated curve names.
    pub curve_preferences: String,
}

/// Suites of Go's secure list that apply to TLS 1.2, with whether we have them: the others are
/// accepted and never negotiated.
const TLS12_SUITES: [(&str, Option<SupportedCipherSuite>); 10] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", None),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        Some(ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        Some(ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        Some(ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        Some(ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(ring::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
];

/// Accepted by name and without effect: TLS 1.3 suites are not configurable in Go.
const TLS13_SUITES: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// What makes HTTP/2 possible over TLS 1.2.
const REQUIRED_FOR_HTTP2: &str = "_AES_128_GCM_SHA256";

/// Values that make no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not a version that may be asked for.
    #[error("invalid {variable}: {value:?} (must be 1.2 or 1.3)")]
    Version {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// The least version is above the greatest.
    #[error("the minimum TLS version is above the maximum")]
    Range,
    /// Not a suite of Go's secure list.
    #[error("invalid {variable}: unknown cipher suite {name:?}")]
    CipherSuite {
        /// The variable.
        variable: &'static str,
        /// The name.
        name: String,
    },
    /// Nothing is left that HTTP/2 could use.
    #[error(
        "http2: TLSConfig.CipherSuites is missing an HTTP/2-required AES_128_GCM_SHA256 cipher (need at least one of TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)"
    )]
    MissingHttp2Suite,
    /// Not a curve that Go knows.
    #[error("invalid {variable}: unknown curve {name:?}")]
    Curve {
        /// The variable.
        variable: &'static str,
        /// The name.
        name: String,
    },
    /// Every curve named is one that this build does not have.
    #[error("{variable} names no curve that is available here")]
    NoCurve {
        /// The variable.
        variable: &'static str,
    },
}

/// What a server may negotiate.
#[derive(Debug)]
pub struct Policy {
    /// Newest first.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Suites and curves.
    pub provider: CryptoProvider,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Tls12,
    Tls13,
}

// === impl PolicySettings ===

impl PolicySettings {
    /// Nothing is set.
    pub fn unset(variables: &'static PolicyVariables) -> Self {
        Self {
            variables,
            min_version: String::new(),
            max_version: String::new(),
            cipher_suites: String::new(),
            curve_preferences: String::new(),
        }
    }

    /// Reads the variables.
    pub fn read(reader: &mut Reader<'_>, variables: &'static PolicyVariables) -> Self {
        Self {
            variables,
            min_version: reader.string(variables.min_version),
            max_version: reader.string(variables.max_version),
            cipher_suites: reader.string(variables.cipher_suites),
            curve_preferences: reader.string(variables.curve_preferences),
        }
    }
}

// === impl Policy ===

impl Policy {
    /// Makes sense of the variables.
    ///
    /// # Errors
    /// The first value that makes no policy.
    pub fn new(settings: &PolicySettings) -> Result<Self, PolicyError> {
        let variables = settings.variables;
        let least = version(variables.min_version, &settings.min_version)?;
        let least = least.unwrap_or(Version::Tls13);
        let most = version(variables.max_version, &settings.max_version)?;
        let most = most.unwrap_or(Version::Tls13);
        if least > most {
            return Err(PolicyError::Range);
        }
        let mut versions = Vec::new();
        if most == Version::Tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if least == Version::Tls12 {
            versions.push(&rustls::version::TLS12);
        }
        let mut provider = ring::default_provider();
        if let Some(suites) = cipher_suites(settings, least)? {
            provider
                .cipher_suites
                .retain(|suite| suite.tls13().is_some() || suites.contains(suite));
        }
        if let Some(groups) = curves(settings)? {
            provider.kx_groups = groups;
        }
        Ok(Self { versions, provider })
    }
}

fn version(variable: &'static str, value: &str) -> Result<Option<Version>, PolicyError> {
    match value {
        "" => Ok(None),
        "1.2" => Ok(Some(Version::Tls12)),
        "1.3" => Ok(Some(Version::Tls13)),
        other => Err(PolicyError::Version {
            variable,
            value: other.to_owned(),
        }),
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// The TLS 1.2 suites named, or `None` for all.
fn cipher_suites(
    settings: &PolicySettings,
    least: Version,
) -> Result<Option<Vec<SupportedCipherSuite>>, PolicyError> {
    let mut suites = Vec::new();
    let mut named = false;
    let mut http2 = false;
    for name in names(&settings.cipher_suites) {
        named = true;
        if TLS13_SUITES.contains(&name) {
            continue;
        }
        let (name, suite) = TLS12_SUITES
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| PolicyError::CipherSuite {
                variable: settings.variables.cipher_suites,
                name: name.to_owned(),
            })?;
        http2 |= name.ends_with(REQUIRED_FOR_HTTP2);
        suites.extend(suite);
    }
    if named && !http2 && least == Version::Tls12 {
        return Err(PolicyError::MissingHttp2Suite);
    }
    Ok(named.then_some(suites))
}

/// The key exchange groups named, in their order, or `None` for the defaults.
fn curves(
    settings: &PolicySettings,
) -> Result<Option<Vec<&'static dyn SupportedKxGroup>>, PolicyError> {
    let variable = settings.variables.curve_preferences;
    let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    let mut named = false;
    for name in names(&settings.curve_preferences) {
        named = true;
        match name {
            "X25519" => groups.push(ring::kx_group::X25519),
            "CurveP256" | "P-256" => groups.push(ring::kx_group::SECP256R1),
            "CurveP384" | "P-384" => groups.push(ring::kx_group::SECP384R1),
            // Known to Go and not to our cryptography: never negotiated.
            "CurveP521" | "P-521" | "X25519MLKEM768" => {}
            _ => {
                let name = name.to_owned();
                return Err(PolicyError::Curve { variable, name });
            }
        }
    }
    if named && groups.is_empty() {
        return Err(PolicyError::NoCurve { variable });
    }
    Ok(named.then_some(groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(min: &str, max: &str, suites: &str, curves: &str) -> PolicySettings {
        PolicySettings {
            variables: &QUEUE_PROXY,
            min_version: min.to_owned(),
            max_version: max.to_owned(),
            cipher_suites: suites.to_owned(),
            curve_preferences: curves.to_owned(),
        }
    }

    #[test]
    fn row_46_empty_means_tls_13_and_everything_available() {
        let policy = Policy::new(&settings("", "", "", "")).expect("valid");
        assert_eq!(policy.versions, [&rustls::version::TLS13]);
        let defaults = ring::default_provider();
        assert_eq!(policy.provider.cipher_suites, defaults.cipher_suites);
    }

    #[test]
    fn lists_are_trimmed_and_narrow_what_is_offered() {
        let suites = " TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 ,,TLS_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA";
        let policy =
            Policy::new(&settings("1.2", "1.2", suites, "P-256,X25519,P-521")).expect("valid");
        assert_eq!(policy.versions, [&rustls::version::TLS12]);
        let tls12 = policy.provider.cipher_suites.iter();
        assert_eq!(tls12.filter(|suite| suite.tls13().is_none()).count(), 1);
        let groups: Vec<_> = policy.provider.kx_groups.iter().map(|g| g.name()).collect();
        assert_eq!(
            groups,
            [rustls::NamedGroup::secp256r1, rustls::NamedGroup::X25519]
        );
    }

    #[test]
    fn values_outside_the_rules_are_refused() {
        for (settings, expected) in [
            (
                settings("1.1", "", "", ""),
                PolicyError::Version {
                    variable: "QUEUE_PROXY_TLS_MIN_VERSION",
                    value: "1.1".to_owned(),
                },
            ),
            (settings("1.3", "1.2", "", ""), PolicyError::Range),
            (
                settings("", "", "RC4", ""),
                PolicyError::CipherSuite {
                    variable: "QUEUE_PROXY_TLS_CIPHER_SUITES",
                    name: "RC4".to_owned(),
                },
            ),
            (
                settings("1.2", "", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", ""),
                PolicyError::MissingHttp2Suite,
            ),
            (
                settings("", "", "", "P-224"),
                PolicyError::Curve {
                    variable: "QUEUE_PROXY_TLS_CURVE_PREFERENCES",
                    name: "P-224".to_owned(),
                },
            ),
            (
                settings("", "", "", "P-521"),
                PolicyError::NoCurve {
                    variable: "QUEUE_PROXY_TLS_CURVE_PREFERENCES",
                },
            ),
        ] {
            assert_eq!(Policy::new(&settings).expect_err("refused"), expected);
        }
        let tls13 = settings("1.3", "", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "");
        assert!(Policy::new(&tls13).is_ok());
    }
}
