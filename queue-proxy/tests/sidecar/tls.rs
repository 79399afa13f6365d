//! The TLS data port, and apps that are probed over TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use queue_proxy::{Config, Listeners, certificates_exist};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::app::App;
use crate::client::{LocalExecutor, get};
use crate::instance::{Sidecar, environment, eventually, run, run_within, skip};

const CERTIFICATE: &str = include_str!("../certificates/first.crt");
const KEY: &str = include_str!("../certificates/first.key");
const NEXT_CERTIFICATE: &str = include_str!("../certificates/second.crt");
const NEXT_KEY: &str = include_str!("../certificates/second.key");
const SCRAPER_CA: &str = include_str!("../certificates/collector-ca.crt");
const SCRAPER: &str = include_str!("../certificates/collector.crt");
const SCRAPER_KEY: &str = include_str!("../certificates/collector.key");

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn put(directory: &TempDir, certificate: &str, key: &str) {
    std::fs::write(directory.path().join("tls.crt"), certificate).expect("written");
    std::fs::write(directory.path().join("tls.key"), key).expect("written");
}

/// A sidecar with a certificate.
async fn secured(app: &App, changes: &[(&str, &str)]) -> (TempDir, Sidecar) {
    let directory = TempDir::new().expect("a directory");
    put(&directory, CERTIFICATE, KEY);
    let sidecar = Sidecar::configured(app.address, changes, |config| {
        config.tls.directory = directory.path().to_owned();
    })
    .await;
    (directory, sidecar)
}

async fn handshake(
    sidecar: &Sidecar,
    protocol: &str,
    version: &'static rustls::SupportedProtocolVersion,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = trusting(version).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    connect(sidecar.tls.expect("it has a certificate"), config).await
}

/// Trusts every server.
fn trusting(
    version: &'static rustls::SupportedProtocolVersion,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
}

async fn connect(
    address: SocketAddr,
    config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.expect("listening");
    let name = ServerName::try_from("kn-user-default").expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

#[test]
fn both_protocols_are_served_over_tls_beside_the_clear_port() {
    run(async {
        let app = App::ok().await;
        let (_directory, sidecar) = secured(&app, &[]).await;
        let tls13 = &rustls::version::TLS13;
        let mut stream = handshake(&sidecar, "http/1.1", tls13).await.expect("TLS");
        stream
            .write_all(b"GET /secure HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .expect("writable");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("readable");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"),
            "{answer}"
        );
        assert_eq!(app.last().version, http::Version::HTTP_11);

        let stream = handshake(&sidecar, "h2", tls13).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            http2::handshake::<_, _, Full<bytes::Bytes>>(LocalExecutor, TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        tokio::task::spawn_local(connection);
        let request = http::Request::builder()
            .uri("https://hello.example.com/h2")
            .body(Full::default())
            .expect("valid");
        let answer = sender.send_request(request).await.expect("an answer");
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "ok");
        assert_eq!(app.last().version, http::Version::HTTP_2);

        assert_eq!(get(sidecar.data, "/", "").await.body, "ok");
    });
}

/// What a new handshake shows.
async fn shown(sidecar: &Sidecar) -> CertificateDer<'static> {
    let stream = handshake(sidecar, "http/1.1", &rustls::version::TLS13);
    let stream = stream.await.expect("TLS");
    let chain = stream.get_ref().1.peer_certificates().expect("a chain");
    chain[0].clone().into_owned()
}

#[test]
fn row_47_a_certificate_that_was_replaced_is_shown_within_a_minute() {
    run_within(Duration::from_secs(600), async {
        let app = App::ok().await;
        let (directory, sidecar) = secured(&app, &[]).await;
        assert_eq!(shown(&sidecar).await, chain(CERTIFICATE)[0]);
        put(&directory, NEXT_CERTIFICATE, NEXT_KEY);
        skip(Duration::from_secs(60)).await;
        assert_eq!(shown(&sidecar).await, chain(NEXT_CERTIFICATE)[0]);
    });
}

/// Starts as the process does, on an address of its own: most ports of a sidecar are fixed.
async fn started(app: &App, directory: &TempDir) -> (Config, JoinHandle<()>) {
    let [low, high, ..] = std::process::id().to_le_bytes();
    let mut config = Config::from_environment(&environment(app.address, &[])).expect("valid");
    config.tls.directory = directory.path().to_owned();
    config.options.bind = Some(Ipv4Addr::new(127, high.max(1), low, 254).into());
    let tls = certificates_exist(&config.tls).expect("readable");
    let listeners = Listeners::bind(&config, tls).expect("free ports");
    let running = queue_proxy::run(config.clone(), listeners, std::future::pending());
    let running = tokio::task::spawn_local(async move { running.await.expect("it can start") });
    (config, running)
}

#[test]
fn row_47_a_certificate_that_appears_after_the_start_is_for_the_next_one() {
    run_within(Duration::from_secs(7200), async {
        let app = App::ok().await;
        let directory = TempDir::new().expect("a directory");
        let (config, running) = started(&app, &directory).await;
        let host = config.options.bind.expect("set");
        let data = SocketAddr::from((host, config.serving_port));
        let secure = SocketAddr::from((host, config.serving_tls_port));
        assert_eq!(get(data, "/", "").await.body, "ok");
        put(&directory, CERTIFICATE, KEY);
        for _ in 0..10 {
            skip(Duration::from_secs(60)).await;
            assert_eq!(get(data, "/", "").await.body, "ok");
            assert!(TcpStream::connect(secure).await.is_err());
        }
        running.abort();
        eventually("the ports are free", || running.is_finished()).await;

        let (_config, _running) = started(&app, &directory).await;
        let tls13 = trusting(&rustls::version::TLS13).with_no_client_auth();
        connect(secure, tls13).await.expect("TLS");
        assert_eq!(get(data, "/", "").await.body, "ok");
    });
}

#[test]
fn row_11_the_admin_port_stays_clear() {
    run(async {
        let app = App::ok().await;
        let (_directory, sidecar) = secured(&app, &[]).await;
        assert_eq!(get(sidecar.admin, "/", "").await.status, 404);
        assert_eq!(get(sidecar.stats, "/metrics", "").await.status, 200);
    });
}

/// What a scrape over TLS is answered with.
async fn scrape(address: SocketAddr, config: ClientConfig) -> std::io::Result<String> {
    let mut stream = connect(address, config).await?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[test]
fn scrapes_are_secured_and_scrapers_asked_for_a_certificate() {
    run(async {
        let directory = TempDir::new().expect("a directory");
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).expect("written");
            path.to_str().expect("text").to_owned()
        };
        let (certificate, key) = (file("tls.crt", CERTIFICATE), file("tls.key", KEY));
        let authorities = file("ca.crt", SCRAPER_CA);
        let app = App::ok().await;
        let sidecar = Sidecar::start(
            app.address,
            &[
                (
                    "OBSERVABILITY_CONFIG",
                    r#"{"requestMetrics":{"protocol":"prometheus"}}"#,
                ),
                ("METRICS_PROMETHEUS_TLS_CERT", &certificate),
                ("METRICS_PROMETHEUS_TLS_KEY", &key),
                ("METRICS_PROMETHEUS_TLS_CLIENT_AUTH", "require"),
                ("METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE", &authorities),
            ],
        )
        .await;
        let tls13 = &rustls::version::TLS13;
        let stranger = trusting(tls13).with_no_client_auth();
        assert!(scrape(sidecar.user_metrics, stranger).await.is_err());
        let scraper = trusting(tls13)
            .with_client_auth_cert(chain(SCRAPER), private(SCRAPER_KEY))
            .expect("a pair");
        let answer = scrape(sidecar.user_metrics, scraper).await.expect("TLS");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("target_info"), "{answer}");
    });
}

fn chain(text: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .expect("PEM")
}

fn private(text: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).expect("PEM")
}

#[test]
fn tls_12_needs_to_be_allowed() {
    run(async {
        let app = App::ok().await;
        let tls12 = &rustls::version::TLS12;
        let (_directory, strict) = secured(&app, &[]).await;
        assert!(handshake(&strict, "http/1.1", tls12).await.is_err());
        let (_directory, lenient) = secured(&app, &[("QUEUE_PROXY_TLS_MIN_VERSION", "1.2")]).await;
        assert!(handshake(&lenient, "http/1.1", tls12).await.is_ok());
    });
}

#[test]
fn row_40_an_app_with_a_self_signed_certificate_can_be_ready() {
    run(async {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain(CERTIFICATE), private(KEY))
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let app = App::raw(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(stream).await.expect("TLS");
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.expect("readable");
                assert!(head[..read].starts_with(b"GET /ready HTTP/1.1\r\n"));
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.expect("writable");
            }
        })
        .await;
        let probe = r#"{"httpGet":{"path":"/ready","port":$PORT,"host":"127.0.0.1","scheme":"HTTPS"},"periodSeconds":1,"timeoutSeconds":5}"#;
        let sidecar = Sidecar::start(app, &[("SERVING_READINESS_PROBE", probe)]).await;
        let headers = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
        assert_eq!(get(sidecar.data, "/", headers).await.body, "queue");
    });
}
