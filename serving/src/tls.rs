//! What the TLS ports of queue-proxy and activator share: the policy that the environment asks for,
//! and a certificate that can be replaced while it is served.
//!
//! Where certificates come from (files, Secrets) is each program's own. Upstream:
//! `knative.dev/pkg/network/tls/config.go`, `pkg/queue/certificate`, `pkg/activator/certificate`.

mod policy;
mod scrape;

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub use self::policy::{
    ACTIVATOR, METRICS_PROMETHEUS, Policy, PolicyError, PolicySettings, PolicyVariables,
    QUEUE_PROXY,
};
pub use self::scrape::{ScrapeTls, ScrapeTlsError};

/// The certificate's name in Secrets and mounted directories.
pub const CERTIFICATE: &str = "tls.crt";
/// The key's name there.
pub const KEY: &str = "tls.key";

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
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
}

/// Certificates of a PEM text, which must hold one at least.
///
/// # Errors
/// It is not PEM, or there is none. `file` is what the error names.
pub fn certificates(
    text: &[u8],
    file: &'static str,
) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let failed = |source| PairError::Pem { file, source };
    let found = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if found.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(found)
}

/// A chain and its key, both PEM.
///
/// # Errors
/// See [`PairError`].
pub fn certified_key(
    chain: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, PairError> {
    let chain = certificates(chain, CERTIFICATE)?;
    let failed = |source| PairError::Pem { file: KEY, source };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(failed)?;
    CertifiedKey::from_der(chain, key, provider).map_err(PairError::Pair)
}

/// Hands out the pair that was set last, whatever name the client asks for.
#[derive(Debug)]
pub struct ServedCertificate {
    pair: RwLock<Arc<CertifiedKey>>,
}

// === impl ServedCertificate ===

impl ServedCertificate {
    /// Serves `pair` from now on.
    pub fn new(pair: CertifiedKey) -> Arc<Self> {
        Arc::new(Self {
            pair: RwLock::new(Arc::new(pair)),
        })
    }

    /// Serves another pair in handshakes that begin from now on.
    pub fn replace(&self, pair: CertifiedKey) {
        *self.pair.write() = Arc::new(pair);
    }

    /// The pair.
    pub fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.pair.read())
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// What a server negotiates under a policy, for HTTP/1 and HTTP/2.
///
/// # Errors
/// The policy's versions and suites do not fit each other.
pub fn server_config(
    versions: &[&'static rustls::SupportedProtocolVersion],
    provider: Arc<CryptoProvider>,
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
