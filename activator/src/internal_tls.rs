//! TLS towards queue-proxies and from ingresses (`system-internal-tls`): whom to trust, whose name
//! to ask for, what to serve.
//!
//! Secrets and bundles come in as bytes; whoever watches them calls [`InternalTls::apply_secret`]
//! and [`InternalTls::apply_bundle`]. What they change counts for handshakes that begin later:
//! connections stay, sessions are never resumed. Upstream: `pkg/activator/certificate/`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, ResolvesServerCert};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use serving::pool::UpstreamTls;
use serving::tls::{self, PairError, Policy, PolicyError, PolicySettings, ServedCertificate};

/// The name that every queue-proxy has.
const QUEUE_PROXY_NAME: &str = "data-plane.knative.dev";

/// Begins the name that queue-proxies of one namespace have.
const USER_PREFIX: &str = "kn-user-";

/// Where queue-proxies listen with TLS.
const POD_PORT: u16 = serving::networking::BACKEND_HTTPS_PORT;

/// The port `https` of private Services.
const SERVICE_PORT: u16 = 443;

/// Certificates that are trusted at once; more are left out with a warning.
const MAX_ROOTS: usize = 1024;

/// The key of authorities in the Secret.
pub const AUTHORITIES: &str = "ca.crt";

/// Why TLS cannot be set up at the start.
#[derive(Debug, thiserror::Error)]
pub enum InternalTlsError {
    /// The Secret's pair cannot be served.
    #[error("certificate cannot be served")]
    Pair(#[from] PairError),
    /// `ACTIVATOR_TLS_*` makes no policy.
    #[error("TLS settings cannot be used")]
    Policy(#[from] PolicyError),
    /// Policy and cryptography have nothing in common.
    #[error("TLS settings cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// The data of the Secret `routing-serving-certs`; a key that is missing is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateSecret {
    /// `ca.crt`. Upstream trusts the first certificate in it, this activator all of them.
    pub authorities: Vec<u8>,
    /// `tls.crt`.
    pub certificate: Vec<u8>,
    /// `tls.key`.
    pub key: Vec<u8>,
}

/// The ports that take the place of those that are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsPorts {
    /// Of pods.
    pub pod: u16,
    /// Of private Services.
    pub service: u16,
}

/// See the module. Clones share.
#[derive(Clone, Debug)]
pub struct InternalTls {
    shared: Arc<Shared>,
    ports: TlsPorts,
}

#[derive(Debug)]
struct Shared {
    provider: Arc<CryptoProvider>,
    served: Arc<ServedCertificate>,
    trust: Mutex<Trust>,
    /// `None` while nobody is trusted.
    verifier: ArcSwapOption<WebPkiServerVerifier>,
}

/// Who is trusted, by source.
#[derive(Debug, Default)]
struct Trust {
    secret: Vec<CertificateDer<'static>>,
    bundles: BTreeMap<String, Vec<CertificateDer<'static>>>,
}

/// Verifies queue-proxies of one namespace.
#[derive(Debug)]
struct QueueProxyVerifier {
    shared: Arc<Shared>,
    /// `None` for a namespace that no certificate can name.
    user: Option<ServerName<'static>>,
}

impl PartialEq for InternalTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared) && self.ports == other.ports
    }
}

impl Eq for InternalTls {}

// === impl TlsPorts ===

impl Default for TlsPorts {
    fn default() -> Self {
        Self {
            pod: POD_PORT,
            service: SERVICE_PORT,
        }
    }
}

// === impl InternalTls ===

impl InternalTls {
    /// Starts with a Secret, whose pair must be usable.
    ///
    /// # Errors
    /// It is not.
    pub fn new(secret: &CertificateSecret) -> Result<Self, InternalTlsError> {
        let provider = Arc::new(ring::default_provider());
        let pair = tls::certified_key(&secret.certificate, &secret.key, &provider)?;
        let shared = Shared {
            served: ServedCertificate::new(pair),
            provider,
            trust: Mutex::default(),
            verifier: ArcSwapOption::empty(),
        };
        shared.trust_secret(&secret.authorities);
        Ok(Self {
            shared: Arc::new(shared),
            ports: TlsPorts::default(),
        })
    }

    /// The same with other ports.
    #[must_use]
    pub fn with_ports(mut self, ports: TlsPorts) -> Self {
        self.ports = ports;
        self
    }

    /// Takes over a changed Secret. Authorities and pair are taken over each by itself; what cannot
    /// be used is logged and leaves what was.
    pub fn apply_secret(&self, secret: &CertificateSecret) {
        self.shared.trust_secret(&secret.authorities);
        match tls::certified_key(&secret.certificate, &secret.key, &self.shared.provider) {
            Ok(pair) => self.shared.served.replace(pair),
            Err(error) => tracing::warn!(
                error = %error,
                "new certificate cannot be served, the old one stays",
            ),
        }
    }

    /// Takes over the certificates of a trust bundle, or forgets it.
    pub fn apply_bundle<'a>(
        &self,
        name: &str,
        texts: Option<impl IntoIterator<Item = (&'a str, &'a str)>>,
    ) {
        let mut trust = self.shared.trust.lock();
        match texts {
            None => {
                trust.bundles.remove(name);
            }
            Some(texts) => {
                let mut all = Vec::new();
                for (key, text) in texts {
                    match tls::certificates(text.as_bytes(), "trust bundle") {
                        Ok(found) => all.extend(found),
                        Err(error) => {
                            tracing::warn!(bundle = name, key, %error, "not a trust bundle");
                        }
                    }
                }
                trust.bundles.insert(name.to_owned(), all);
            }
        }
        self.shared.rebuild(&trust);
    }

    /// The names of the bundles that are trusted.
    pub fn bundles(&self) -> Vec<String> {
        self.shared.trust.lock().bundles.keys().cloned().collect()
    }

    /// What is offered to clients of the TLS port.
    ///
    /// # Errors
    /// The settings make no policy.
    pub fn server_config(
        &self,
        settings: &PolicySettings,
    ) -> Result<Arc<ServerConfig>, InternalTlsError> {
        let policy = Policy::new(settings)?;
        let resolver = Arc::clone(&self.shared.served) as Arc<dyn ResolvesServerCert>;
        let provider = Arc::new(policy.provider);
        Ok(tls::server_config(&policy.versions, provider, resolver)?)
    }

    /// Connections to queue-proxies of a namespace.
    pub(crate) fn upstream(&self, namespace: &str) -> UpstreamTls {
        let verifier = QueueProxyVerifier {
            shared: Arc::clone(&self.shared),
            user: user_name(namespace),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.shared.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // A resumed session would not be verified again after a rotation.
        config.resumption = Resumption::disabled();
        UpstreamTls {
            config: Arc::new(config),
            server_name: ServerName::try_from(QUEUE_PROXY_NAME).expect("a name of ours"),
        }
    }

    pub(crate) fn ports(&self) -> TlsPorts {
        self.ports
    }
}

fn user_name(namespace: &str) -> Option<ServerName<'static>> {
    let name = format!("{USER_PREFIX}{}", namespace.to_ascii_lowercase());
    ServerName::try_from(name).ok()
}

// === impl Shared ===

impl Shared {
    fn trust_secret(&self, authorities: &[u8]) {
        let mut trust = self.trust.lock();
        match tls::certificates(authorities, AUTHORITIES) {
            Ok(found) => trust.secret = found,
            Err(error) => {
                tracing::warn!(%error, "authorities cannot be used, the old ones stay");
            }
        }
        self.rebuild(&trust);
    }

    fn rebuild(&self, trust: &Trust) {
        let mut roots = RootCertStore::empty();
        let all = trust.secret.iter().chain(trust.bundles.values().flatten());
        for certificate in all.take(MAX_ROOTS) {
            if let Err(error) = roots.add(certificate.clone()) {
                tracing::warn!(%error, "not a certificate to trust");
            }
        }
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
        // Fails only without any root: then nobody is trusted.
        self.verifier.store(verifier.build().ok());
    }
}

impl ServerCertVerifier for QueueProxyVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(verifier) = self.shared.verifier.load_full() else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let verified = verifier.verify_server_cert(leaf, chain, name, ocsp, now)?;
        let Some(user) = &self.user else {
            return Err(CertificateError::NotValidForName.into());
        };
        verify_server_name(&ParsedCertificate::try_from(leaf)?, user)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.shared.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.shared.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.shared.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
