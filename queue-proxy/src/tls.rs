//! System-internal TLS on its own data port: certificate, policy, reload.
//!
//! Upstream: `pkg/queue/certificate/watcher.go`, `vendor/knative.dev/pkg/network/tls/config.go`.
//! The certificate comes from a mounted Secret whose files are replaced behind a symlink, so they
//! are read again on a timer and compared; whether there is one at all is decided at the start.

mod policy;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsSettings;

pub use policy::PolicyError;

/// How often the files are compared (`NewCertWatcher`).
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why the certificate or the policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that exists cannot be read.
    #[error("failed to verify the file path {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not PEM, or without the parts that are needed.
    #[error("could not parse {file}")]
    Pem {
        /// Which of the two.
        file: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The pair does not make a server certificate.
    #[error("certificate and key do not fit")]
    Pair(#[source] rustls::Error),
    /// `QUEUE_PROXY_TLS_*` has values that make no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// The serving certificate and what watches over it.
#[derive(Debug)]
pub(crate) struct Certificates {
    resolver: Arc<Resolver>,
    config: Arc<ServerConfig>,
    watched: Watched,
}

/// The files as they were last read.
#[derive(Debug)]
struct Watched {
    directory: PathBuf,
    certificate: Vec<u8>,
    key: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

/// Hands out the pair that was read last, whatever name the client asks for.
#[derive(Debug)]
struct Resolver {
    pair: RwLock<Arc<CertifiedKey>>,
}

/// Whether both files exist; an error other than their absence is one.
pub fn certificates_exist(settings: &TlsSettings) -> Result<bool, TlsError> {
    let exists = |name: &str| {
        let path = settings.directory.join(name);
        match fs::metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(TlsError::File { path, source }),
        }
    };
    Ok(exists(CERTIFICATE)? && exists(KEY)?)
}

// === impl Certificates ===

impl Certificates {
    /// Reads the pair and the policy.
    pub(crate) fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        let policy = policy::Policy::read(settings)?;
        let provider = Arc::new(policy.provider);
        let watched = Watched {
            certificate: read(&settings.directory, CERTIFICATE)?,
            key: read(&settings.directory, KEY)?,
            directory: settings.directory.clone(),
            provider: Arc::clone(&provider),
        };
        let resolver = Arc::new(Resolver {
            pair: RwLock::new(Arc::new(watched.pair()?)),
        });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&policy.versions)
            .map_err(TlsError::Pair)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            resolver,
            config: Arc::new(config),
            watched,
        })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Compares the files every minute and swaps a new pair in for new handshakes; never ends.
    pub(crate) async fn reload(mut self) {
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            self.compare();
        }
    }

    /// A pair that cannot be used leaves the old one in place and is tried again.
    fn compare(&mut self) {
        match self.watched.changed() {
            Ok(None) => {}
            Ok(Some((watched, pair))) => {
                self.watched = watched;
                *self.resolver.pair.write() = Arc::new(pair);
                tracing::info!("Certificate and/or key have changed on disk and were reloaded.");
            }
            Err(error) => {
                tracing::error!(error = %error, "failed to reload certificate and key");
            }
        }
    }
}

// === impl Watched ===

impl Watched {
    fn changed(&self) -> Result<Option<(Self, CertifiedKey)>, TlsError> {
        let now = Self {
            certificate: read(&self.directory, CERTIFICATE)?,
            key: read(&self.directory, KEY)?,
            directory: self.directory.clone(),
            provider: Arc::clone(&self.provider),
        };
        if now.certificate == self.certificate && now.key == self.key {
            return Ok(None);
        }
        let pair = now.pair()?;
        Ok(Some((now, pair)))
    }

    fn pair(&self) -> Result<CertifiedKey, TlsError> {
        let failed = |file| move |source| TlsError::Pem { file, source };
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed(CERTIFICATE))?;
        if chain.is_empty() {
            return Err(failed(CERTIFICATE)(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(failed(KEY))?;
        CertifiedKey::from_der(chain, key, &self.provider).map_err(TlsError::Pair)
    }
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>, TlsError> {
    let path = directory.join(name);
    fs::read(&path).map_err(|source| TlsError::File { path, source })
}

// === impl Resolver ===

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.pair.read()))
    }
}

#[cfg(test)]
mod tests;
