//! Encrypted connections to a collector, verified against the system's certificates or a file.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where distributions keep the certificates that they trust; the first that is readable counts.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is trusted, read once.
#[derive(Clone)]
pub(super) struct Connector(Arc<ClientConfig>);

impl Connector {
    /// Trusts `file`, or the system's certificates if it is empty. Offers `protocol` by ALPN.
    pub(super) fn new(file: &str, protocol: &[u8]) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots(file)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Performs the handshake.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0))
            .connect(name, stream)
            .await
    }
}

/// Certificates that do not parse are left out, as long as one does.
fn roots(file: &str) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let bundles = if file.is_empty() { &BUNDLES[..] } else { &[] };
    let files = bundles
        .iter()
        .copied()
        .chain(Some(file).filter(|file| !file.is_empty()));
    for file in files {
        let Ok(certificates) = CertificateDer::pem_file_iter(file) else {
            continue;
        };
        store.add_parsable_certificates(certificates.filter_map(Result::ok));
        if !store.is_empty() {
            return Ok(store);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "no certificates to verify the collector with",
    ))
}
