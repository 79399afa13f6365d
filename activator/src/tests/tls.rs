//! System-internal TLS over real sockets: who is trusted, what is asked for, what is served.

use std::sync::Arc;

use http_body_util::Full;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serving::tls::{self, PolicySettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::pods::Pod;
use super::*;
use crate::internal_tls::{CertificateSecret, InternalTls, TlsPorts};

macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("../../tests/certificates/", $name))
    };
}

type Pair = (&'static str, &'static str);

const FIRST_CA: &str = pem!("first-ca.crt");
const SECOND_CA: &str = pem!("second-ca.crt");
const QUEUE_PROXY: Pair = (pem!("queue-proxy.crt"), pem!("queue-proxy.key"));
const NO_NAMESPACE: Pair = (pem!("no-namespace.crt"), pem!("no-namespace.key"));
const NO_DATA_PLANE: Pair = (pem!("no-data-plane.crt"), pem!("no-data-plane.key"));
const ROTATED: Pair = (pem!("rotated.crt"), pem!("rotated.key"));
const ROUTING: Pair = (pem!("routing.crt"), pem!("routing.key"));
const ROUTING_ROTATED: Pair = (pem!("routing-rotated.crt"), pem!("routing-rotated.key"));

fn secret(authorities: &str, (certificate, key): Pair) -> CertificateSecret {
    CertificateSecret {
        authorities: authorities.into(),
        certificate: certificate.into(),
        key: key.into(),
    }
}

/// An activator with TLS, and the port at which its pods are expected to speak it.
struct Secured {
    world: World,
    tls: InternalTls,
    port: u16,
    next_host: u8,
}

impl Secured {
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = port.local_addr().unwrap().port();
        let ports = TlsPorts {
            pod: port,
            service: port,
        };
        let tls = InternalTls::new(&secret(FIRST_CA, ROUTING)).unwrap();
        let tls = tls.with_ports(ports);
        let mut options = Options::new("activator-0", "10.1.0.1");
        options.internal_tls = Some(tls.clone());
        let world = World::start_with(options).await;
        world.revision(revision(0)).await;
        Self {
            world,
            tls,
            port,
            next_host: 1,
        }
    }

    /// A pod on an address of its own.
    async fn pod(&mut self, (certificate, key): Pair) -> Pod {
        let host = format!("127.0.0.{}", self.next_host);
        self.next_host += 1;
        let plain = TcpListener::bind((&*host, 0)).await.unwrap();
        let secure = TcpListener::bind((&*host, self.port)).await.unwrap();
        let tls = InternalTls::new(&CertificateSecret {
            certificate: certificate.into(),
            key: key.into(),
            ..CertificateSecret::default()
        });
        let config = tls.unwrap().server_config(&policy()).unwrap();
        Pod::secured(plain, secure, TlsAcceptor::from(config))
    }
}

fn policy() -> PolicySettings {
    PolicySettings::unset(&tls::ACTIVATOR)
}

/// Edge case 34: probes stay in the clear, requests of both protocols go through TLS.
#[test]
fn edge_case_34_probes_stay_plain() {
    run(async {
        let mut secured = Secured::start().await;
        let pod = secured.pod(QUEUE_PROXY).await;
        let world = &secured.world;
        world.list_and_wait(&[pod.address]).await;
        assert!(pod.state.probes.get() > 0);
        assert_eq!(world.get("/").await.body, "hello");
        assert!(pod.seen().tls);
        let host = format!("{}:{}", pod.address.ip(), secured.port);
        assert_eq!(pod.seen().headers["host"], host);
        let mut sender = http2(world.address).await;
        let request = to_revision("http://hello.example.com/");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = collect(sender.send_request(request).await.unwrap()).await;
        assert_eq!(answer.body, "hello");
        assert!(pod.seen().tls);
        assert_eq!(pod.seen().version, http::Version::HTTP_2);
    });
}

/// Edge case 34 for the ClusterIP, which has a port of its own.
#[test]
fn edge_case_34_cluster_ip() {
    run(async {
        let mut secured = Secured::start().await;
        let service = secured.pod(QUEUE_PROXY).await;
        let world = &secured.world;
        let unreachable = {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            socket.local_addr().unwrap()
        };
        let backends = Backends {
            ready: vec![unreachable],
            cluster_ip: Some(service.address),
            ..Backends::default()
        };
        world.update(Update::Backends(id(), backends)).await;
        eventually("the ClusterIP is used", || {
            world.snapshot().through_cluster_ip
        })
        .await;
        assert_eq!(world.get("/").await.body, "hello");
        assert!(service.seen().tls);
    });
}

/// Edge case 35: both names are needed. A request is not sent, and not sent in the clear either.
#[test]
fn edge_case_35_missing_names() {
    run(async {
        for pair in [NO_NAMESPACE, NO_DATA_PLANE, ROTATED] {
            let mut secured = Secured::start().await;
            let pod = secured.pod(pair).await;
            secured.world.list_and_wait(&[pod.address]).await;
            let answer = secured.world.get("/").await;
            assert_eq!(answer.status, 502, "{answer:?}");
            assert_eq!(answer.headers["pilotlight-reason"], "no connection");
            assert!(answer.body.contains("certificate"), "{answer:?}");
            assert_eq!(pod.state.served.get(), 0);
        }
    });
}

/// Edge case 36: every authority in the Secret counts, and those of bundles until they are gone.
#[test]
fn edge_case_36_several_authorities() {
    run(async {
        let mut secured = Secured::start().await;
        let pod = secured.pod(ROTATED).await;
        let world = &secured.world;
        world.list_and_wait(&[pod.address]).await;
        assert_eq!(world.get("/").await.status, 502);
        world.list_and_wait(&[pod.address]).await;
        let both = format!("{FIRST_CA}{SECOND_CA}");
        secured.tls.apply_secret(&secret(&both, ROUTING));
        assert_eq!(world.get("/").await.status, 200);

        let mut secured = Secured::start().await;
        let pod = secured.pod(ROTATED).await;
        let world = &secured.world;
        world.list_and_wait(&[pod.address]).await;
        let bundle = [("a.pem", SECOND_CA), ("readme", "no certificate")];
        secured.tls.apply_bundle("more", Some(bundle));
        assert_eq!(world.get("/").await.status, 200);
        assert_eq!(secured.tls.bundles(), ["more"]);
        // Connections stay; a new one is refused.
        let none = None::<[(&str, &str); 0]>;
        secured.tls.apply_bundle("more", none);
        world.list(&[]).await;
        world.list_and_wait(&[pod.address]).await;
        assert_eq!(world.get("/").await.status, 502);
    });
}

/// Edge case 37: while the Secret is away nothing changes; a new one counts for new connections,
/// and one that cannot be used leaves what was.
#[test]
fn edge_case_37_rotation() {
    run(async {
        let mut secured = Secured::start().await;
        let old = secured.pod(QUEUE_PROXY).await;
        let new = secured.pod(ROTATED).await;
        let tls = secured.tls.clone();
        tls.apply_secret(&secret("", ("rubbish", "rubbish")));
        let world = &secured.world;
        world.list_and_wait(&[old.address]).await;
        assert_eq!(world.get("/").await.status, 200);
        tls.apply_secret(&secret(SECOND_CA, ROUTING_ROTATED));
        world.list_and_wait(&[new.address]).await;
        assert_eq!(world.get("/").await.status, 200);
        assert_eq!(new.state.served.get(), 1);
        world.list_and_wait(&[old.address]).await;
        assert_eq!(world.get("/").await.status, 502);
    });
}

/// The TLS port serves both protocols, with and without their negotiation, and a certificate that
/// changes while it is served.
#[test]
fn the_tls_port() {
    run(async {
        let mut secured = Secured::start().await;
        let pod = secured.pod(QUEUE_PROXY).await;
        secured.world.list_and_wait(&[pod.address]).await;
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(secured.tls.server_config(&policy()).unwrap());
        tokio::task::spawn_local(server::serve(
            vec![Listener::tls(socket, acceptor)],
            Rc::new(secured.world.activator.clone()),
            ServerOptions::default(),
            Shutdown::new(),
        ));
        for alpn in [Some("http/1.1"), None] {
            let mut stream = connect(address, FIRST_CA, alpn).await.unwrap();
            let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                        Knative-Serving-Namespace: default\r\n\
                        Knative-Serving-Revision: hello-00001\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("hello"), "{answer}");
        }
        for alpn in [Some("h2"), None] {
            let stream = connect(address, FIRST_CA, alpn).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let request = to_revision("https://hello.example.com/");
            let request = request.body(Full::<Bytes>::default()).unwrap();
            let answer = collect(sender.send_request(request).await.unwrap()).await;
            assert_eq!(answer.body, "hello");
        }
        let rotated = secret(SECOND_CA, ROUTING_ROTATED);
        secured.tls.apply_secret(&rotated);
        assert!(connect(address, FIRST_CA, None).await.is_err());
        assert!(connect(address, SECOND_CA, None).await.is_ok());
    });
}

/// A handshake as an ingress makes it.
async fn connect(
    address: SocketAddr,
    authority: &str,
    alpn: Option<&str>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.into_iter().map(Vec::from).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("kn-routing").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// A Secret whose pair cannot be served, and settings that make no policy, stop the start.
#[test]
fn what_cannot_be_used_at_the_start() {
    assert!(InternalTls::new(&CertificateSecret::default()).is_err());
    assert!(InternalTls::new(&secret(FIRST_CA, (ROUTING.0, ROTATED.1))).is_err());
    let tls = InternalTls::new(&secret("", ROUTING)).unwrap();
    let mut settings = policy();
    settings.min_version = "1.1".to_owned();
    assert!(tls.server_config(&settings).is_err());
}
