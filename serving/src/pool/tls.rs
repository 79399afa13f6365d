//! Encrypted connections to a destination.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::forward::ForwardError;

/// Go's `TLSHandshakeTimeout` of the default transport.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom a destination has to prove to be, and how.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// Verifies certificates; what it says of protocols is replaced by the one that is spoken.
    pub config: Arc<ClientConfig>,
    /// The name that is asked for, whatever the destination's address.
    pub server_name: ServerName<'static>,
}

// === impl UpstreamTls ===

impl UpstreamTls {
    /// Performs the handshake, offering one protocol.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        protocol: &[u8],
    ) -> Result<TlsStream<TcpStream>, ForwardError> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let handshake = connector
            .with_alpn(vec![protocol.to_vec()])
            .connect(self.server_name.clone(), stream);
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(ForwardError::tls(address, &error)),
            Err(_) => Err(ForwardError::tls_timed_out()),
        }
    }
}
