//! System-internal TLS on its own data port: certificate, policy, reload.
//!
//! Upstream: `pkg/queue/certificate/watcher.go`, `vendor/knative.dev/pkg/network/tls/config.go`.
//! The certificate comes from a mounted Secret whose files are replaced behind a symlink, so they
//! are read again on a timer and compared; whether there is one at all is decided at the start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use serving::tls::{self, CERTIFICATE, KEY, PairError, Policy, ServedCertificate};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsSettings;

pub use serving::tls::PolicyError;

/// How often the files are compared (`NewCertWatcher`).
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

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
    /// The pair in the files cannot be served.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// The policy and the cryptography at hand have nothing in common.
    #[error("TLS policy cannot be used")]
    Unusable(#[source] rustls::Error),
    /// `QUEUE_PROXY_TLS_*` has values that make no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// The serving certificate and what watches over it.
#[derive(Debug)]
pub(crate) struct Certificates {
    served: Arc<ServedCertificate>,
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
        let policy = Policy::new(&settings.policy)?;
        let provider = Arc::new(policy.provider);
        let watched = Watched {
            certificate: read(&settings.directory, CERTIFICATE)?,
            key: read(&settings.directory, KEY)?,
            directory: settings.directory.clone(),
            provider: Arc::clone(&provider),
        };
        let served = ServedCertificate::new(watched.pair()?);
        let resolver = Arc::clone(&served) as Arc<dyn ResolvesServerCert>;
        let config =
            tls::server_config(&policy.versions, provider, resolver).map_err(TlsError::Unusable)?;
        Ok(Self {
            served,
            config,
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
                self.served.replace(pair);
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
        Ok(tls::certified_key(
            &self.certificate,
            &self.key,
            &self.provider,
        )?)
    }
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>, TlsError> {
    let path = directory.join(name);
    fs::read(&path).map_err(|source| TlsError::File { path, source })
}

#[cfg(test)]
mod tests;
