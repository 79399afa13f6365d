//! TLS of the listener that Prometheus scrapes: `METRICS_PROMETHEUS_TLS_*`, the same in all three
//! programs. The files are read once, at the start.
//!
//! Upstream: `knative.dev/pkg/observability/metrics/prometheus/server.go`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::policy::{METRICS_PROMETHEUS, Policy, PolicyError, PolicySettings};
use super::{PairError, ServedCertificate, certificates, certified_key};
use crate::environment::Reader;
use crate::server::Listener;

const CERT: &str = "METRICS_PROMETHEUS_TLS_CERT";
const KEY: &str = "METRICS_PROMETHEUS_TLS_KEY";
const CLIENT_AUTH: &str = "METRICS_PROMETHEUS_TLS_CLIENT_AUTH";
const CLIENT_CA_FILE: &str = "METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE";

/// What the variables ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeTls {
    certificate: PathBuf,
    key: PathBuf,
    clients: Option<Clients>,
    policy: PolicySettings,
}

/// Certificates that scrapers show.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clients {
    /// A scraper without one is turned away.
    required: bool,
    authorities: PathBuf,
}

/// Why scrapes cannot be served over TLS.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeTlsError {
    /// A file cannot be read.
    #[error("could not read {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// Values of the variables make no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The authorities cannot vouch for anybody.
    #[error("no valid CA certificates found in {CLIENT_CA_FILE}")]
    Authorities(#[source] VerifierBuilderError),
    /// Versions, suites and pair do not fit each other.
    #[error("the TLS settings of the scrape listener do not fit each other")]
    Unusable(#[from] rustls::Error),
}

// === impl ScrapeTls ===

impl ScrapeTls {
    /// Reads the variables; `None` without a certificate.
    ///
    /// Every rule that they break is recorded with `reader`.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let [certificate, key] = [CERT, KEY].map(|name| reader.string(name));
        let auth = reader.string(CLIENT_AUTH).trim().to_ascii_lowercase();
        let authorities = reader.string(CLIENT_CA_FILE).trim().to_owned();
        let policy = PolicySettings::read(reader, &METRICS_PROMETHEUS);
        if certificate.is_empty() != key.is_empty() {
            reader.invalid(CERT, format!("and {KEY} must be set both or neither"));
            return None;
        }
        let required = match auth.as_str() {
            "" | "none" => None,
            "optional" => Some(false),
            "require" => Some(true),
            _ => {
                let message = "must be \"none\", \"optional\" or \"require\"";
                reader.invalid(CLIENT_AUTH, message);
                return None;
            }
        };
        if certificate.is_empty() {
            if required.is_some() || !authorities.is_empty() {
                let message = format!("and {CLIENT_CA_FILE} need {CERT} and {KEY}");
                reader.invalid(CLIENT_AUTH, message);
            }
            return None;
        }
        match (required, authorities.is_empty()) {
            (Some(_), true) => {
                let message = format!("must be set when {CLIENT_AUTH} is {auth:?}");
                reader.invalid(CLIENT_CA_FILE, message);
                return None;
            }
            (None, false) => {
                let message = format!("has no effect unless {CLIENT_AUTH} is optional or require");
                reader.invalid(CLIENT_CA_FILE, message);
                return None;
            }
            _ => {}
        }
        Some(Self {
            certificate: certificate.into(),
            key: key.into(),
            clients: required.map(|required| Clients {
                required,
                authorities: authorities.into(),
            }),
            policy,
        })
    }

    /// A listener on `socket`, in the clear without settings.
    ///
    /// # Errors
    /// See [`ScrapeTlsError`].
    pub fn listener(tls: Option<&Self>, socket: TcpListener) -> Result<Listener, ScrapeTlsError> {
        Ok(match tls.map(Self::server_config).transpose()? {
            Some(config) => Listener::tls(socket, TlsAcceptor::from(config)),
            None => Listener::plain(socket),
        })
    }

    fn server_config(&self) -> Result<Arc<ServerConfig>, ScrapeTlsError> {
        let policy = Policy::new(&self.policy)?;
        let provider = Arc::new(policy.provider);
        let (chain, key) = (read(&self.certificate)?, read(&self.key)?);
        let pair = ServedCertificate::new(certified_key(&chain, &key, &provider)?);
        let verifier = match &self.clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(clients) => clients.verifier(&provider)?,
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&policy.versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(pair);
        // What the ports for operators speak.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

// === impl Clients ===

impl Clients {
    fn verifier(
        &self,
        provider: &Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, ScrapeTlsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&read(&self.authorities)?, CLIENT_CA_FILE)?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let verifier = if self.required {
            verifier
        } else {
            verifier.allow_unauthenticated()
        };
        verifier.build().map_err(ScrapeTlsError::Authorities)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ScrapeTlsError> {
    fs::read(path).map_err(|source| ScrapeTlsError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Option<ScrapeTls>, String> {
        let mut reader = Reader::new(&variables);
        let found = ScrapeTls::read(&mut reader);
        reader.finish(found).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_pair_there_is_no_tls() {
        assert_eq!(settings(&[]), Ok(None));
        assert_eq!(settings(&[(CLIENT_AUTH, "None")]), Ok(None));
    }

    #[test]
    fn what_does_not_fit_together_names_its_variable() {
        let pair = [(CERT, "/c"), (KEY, "/k")];
        let (auth, authorities) = ((CLIENT_AUTH, "require"), (CLIENT_CA_FILE, "/ca"));
        for (variables, named) in [
            (vec![pair[0]], CERT),
            (vec![pair[1]], CERT),
            (vec![auth], CLIENT_AUTH),
            (vec![authorities], CLIENT_AUTH),
            (vec![pair[0], pair[1], (CLIENT_AUTH, "maybe")], CLIENT_AUTH),
            (vec![pair[0], pair[1], auth], CLIENT_CA_FILE),
            (vec![pair[0], pair[1], authorities], CLIENT_CA_FILE),
        ] {
            let error = settings(&variables).unwrap_err();
            assert!(error.contains(named), "{variables:?}: {error}");
        }
        let whole = settings(&[pair[0], pair[1], auth, authorities]).unwrap();
        assert!(whole.unwrap().clients.unwrap().required);
    }

    #[test]
    fn files_that_are_missing_or_no_certificates_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (certificate, key) = (path("c"), path("k"));
        let tls = settings(&[(CERT, &certificate), (KEY, &key)]);
        let tls = tls.unwrap().unwrap();
        let error = tls.server_config().unwrap_err().to_string();
        assert!(error.contains(&certificate), "{error}");
        fs::write(&certificate, "nothing").unwrap();
        fs::write(&key, "nothing").unwrap();
        assert!(matches!(
            tls.server_config(),
            Err(ScrapeTlsError::Pair(PairError::Pem { .. }))
        ));
    }
}
