//! A gateway with both entries, and backends as the conformance suite's: they say who they are.

use std::cell::RefCell;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Version};
use http_body_util::Full;
use http_body_util::combinators::BoxBody;
use hyper::client::conn::http2::SendRequest;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ResolvesServerCert;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use serving::body::Body;
use serving::header;
use serving::server::{Connection, Handler};
use serving::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::*;
use crate::affinity::Affinity;
use crate::endpoints::{Address, Endpoints, Port, Subset};
use crate::ingress::front::{Certificates, Gateway};
use crate::ingress::names::Lookup;
use crate::ingress::reconciler::{Known, Reconciler};
use crate::ingress::services::{self, Service};
use crate::ingress::spec::{Ingress, IngressSpec};
use crate::ingress::status::{Entries, Status};

const CERTIFICATE: &str = include_str!("../../../tests/certificates/queue-proxy.crt");
const KEY: &str = include_str!("../../../tests/certificates/queue-proxy.key");
const AUTHORITY: &str = include_str!("../../../tests/certificates/first-ca.crt");

pub(super) struct Cluster {
    pub(super) world: World,
    pub(super) external: SocketAddr,
    pub(super) local: SocketAddr,
    secure: SocketAddr,
    reconciler: Reconciler,
    gateway: Gateway,
    certificates: Arc<Certificates>,
    generation: i64,
    /// Of the Ingresses that are served from now on.
    pub(super) affinity: Option<Affinity>,
}

/// A rule for the world.
pub(super) fn rule(hosts: &[&str], paths: &Value) -> Value {
    json!({"hosts": hosts, "visibility": "ExternalIP", "http": {"paths": paths}})
}

pub(super) fn split(service: &str, percent: u32) -> Value {
    let namespace = if service == "hello-00001" {
        "default"
    } else {
        "ns"
    };
    json!({"serviceNamespace": namespace, "serviceName": service, "servicePort": 80, "percent": percent})
}

pub(super) fn to(service: &str) -> Value {
    json!([split(service, 100)])
}

/// Of a length that nobody says, if there is any.
pub(super) type BrowserBody = BoxBody<Bytes, Infallible>;

fn key(name: &str) -> (String, String) {
    ("ns".to_owned(), name.to_owned())
}

async fn serve_entry(handler: impl Handler, tls: Option<TlsAcceptor>) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let listener = match tls {
        Some(acceptor) => Listener::tls(socket, acceptor),
        None => Listener::plain(socket),
    };
    let options = ServerOptions::default();
    let served = server::serve(vec![listener], Rc::new(handler), options, Shutdown::new());
    tokio::task::spawn_local(served);
    address
}

// === impl Cluster ===

impl Cluster {
    pub(super) async fn start() -> Self {
        let world = World::start().await;
        let gateway = Gateway::new(world.activator.clone(), 7);
        Self::start_with(world, gateway).await
    }

    /// Names have the addresses that `lookup` finds.
    pub(super) async fn start_with_lookup(lookup: Lookup) -> Self {
        let world = World::start().await;
        let gateway = Gateway::with_lookup(world.activator.clone(), 7, lookup);
        Self::start_with(world, gateway).await
    }

    async fn start_with(world: World, gateway: Gateway) -> Self {
        let certificates = Arc::new(Certificates::default());
        let resolver = Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>;
        let provider = Arc::new(ring::default_provider());
        let config = tls::server_config(&[&rustls::version::TLS13], provider, resolver).unwrap();
        Self {
            external: serve_entry(gateway.front(false), None).await,
            local: serve_entry(gateway.front(true), None).await,
            secure: serve_entry(gateway.front(false), Some(TlsAcceptor::from(config))).await,
            reconciler: Reconciler::new(Entries {
                public: "public".to_owned(),
                private: "private".to_owned(),
            }),
            gateway,
            certificates,
            world,
            generation: 0,
            affinity: None,
        }
    }

    pub(super) fn serve(&mut self, spec: &Value) {
        self.serve_as("ing", spec);
    }

    pub(super) fn serve_as(&mut self, name: &str, spec: &Value) {
        self.generation += 1;
        let mut spec: IngressSpec = serde_json::from_value(spec.clone()).unwrap();
        spec.set_defaults();
        let known = Known {
            ingress: Ingress {
                namespace: "ns".to_owned(),
                name: name.to_owned(),
                generation: self.generation,
                affinity: self.affinity.clone(),
                spec,
            },
            created: String::new(),
            version: String::new(),
            status: Status::default(),
        };
        self.reconciler.apply_ingress(key(name), Some(known));
        self.rebuild();
    }

    pub(super) fn rebuild(&mut self) {
        let (routing, certificates) = self.reconciler.rebuild();
        self.gateway.replace(routing);
        self.certificates.replace(certificates);
    }

    /// The entry of a gateway of its own that serves the same, and knows nothing else.
    pub(super) async fn another_gateway(&mut self) -> SocketAddr {
        let gateway = Gateway::new(self.world.activator.clone(), 8);
        gateway.replace(self.reconciler.rebuild().0);
        serve_entry(gateway.front(false), None).await
    }

    /// The hash of what [`Cluster::serve`] serves.
    pub(super) fn hash(&self) -> String {
        self.gateway.routing().hashes["ns/ing"].clone()
    }

    pub(super) async fn backend(&mut self, name: &str) -> Backend {
        self.backend_on(name, "http", "").await
    }

    pub(super) async fn backend_on(
        &mut self,
        name: &str,
        port_name: &str,
        app_protocol: &str,
    ) -> Backend {
        let state = Rc::new(BackendState {
            name: name.to_owned(),
            seen: RefCell::default(),
            failures: Cell::new(0),
            gate: Semaphore::new(0),
        });
        let address = serve_entry(BackendHandler(Rc::clone(&state)), None).await;
        self.add_service(name, address, port_name, app_protocol);
        Backend(state)
    }

    fn add_service(&mut self, name: &str, address: SocketAddr, port: &str, app_protocol: &str) {
        let service = Service {
            ports: vec![services::Port {
                name: port.to_owned(),
                number: 80,
                app_protocol: app_protocol.to_owned(),
            }],
            ..Service::default()
        };
        let listed = Endpoints {
            subsets: vec![Subset {
                addresses: vec![Address {
                    ip: address.ip().to_string(),
                }],
                not_ready_addresses: Vec::new(),
                ports: vec![Port {
                    name: port.to_owned(),
                    port: address.port(),
                }],
            }],
        };
        let services = &mut self.reconciler.services;
        services.apply_service(key(name), Some(service));
        services.apply_endpoints(key(name), name.to_owned(), Some(listed));
    }

    /// A Service in front of one address.
    pub(super) fn service_at(&mut self, name: &str, address: SocketAddr) {
        self.add_service(name, address, "http", "");
    }

    /// The Service stays, its pods are gone.
    pub(super) fn no_addresses(&mut self, name: &str) {
        let none = Some(Endpoints::default());
        let services = &mut self.reconciler.services;
        services.apply_endpoints(key(name), name.to_owned(), none);
        self.rebuild();
    }

    pub(super) fn remove_backend(&mut self, backend: &Backend) {
        let name = &backend.0.name;
        let services = &mut self.reconciler.services;
        services.apply_service(key(name), None);
        services.apply_endpoints(key(name), name.clone(), None);
        self.rebuild();
    }

    /// The public Service of a revision of the namespace `default`.
    pub(super) fn revision_service(&mut self, name: &str) {
        self.revision_service_on(name, "http");
    }

    /// The same with a port of that name, besides the one for TLS that each has.
    pub(super) fn revision_service_on(&mut self, name: &str, port_name: &str) {
        let port = |name: &str, number| services::Port {
            name: name.to_owned(),
            number,
            ..services::Port::default()
        };
        let service = Service {
            revision: Some(name.to_owned()),
            ports: vec![port(port_name, 80), port("https", 443)],
            ..Service::default()
        };
        let key = ("default".to_owned(), name.to_owned());
        self.reconciler.services.apply_service(key, Some(service));
    }

    pub(super) fn external_name(&mut self, name: &str, target: &str, port: u16) {
        let service = Service {
            external_name: Some(target.to_owned()),
            ports: vec![services::Port {
                name: "http2".to_owned(),
                number: port,
                ..services::Port::default()
            }],
            ..Service::default()
        };
        self.reconciler
            .services
            .apply_service(key(name), Some(service));
    }

    /// Sends back what it gets, with its name in front.
    pub(super) async fn websocket_backend(&mut self, name: &'static str) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.add_service(name, socket.local_addr().unwrap(), "http", "");
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                tokio::task::spawn_local(async move {
                    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                    while let Some(Ok(message)) = socket.next().await {
                        if let Ok(text) = message.to_text() {
                            let echo = format!("{name} {text}");
                            let _ = socket.send(echo.into()).await;
                        }
                    }
                });
            }
        });
    }

    /// A Secret with a certificate for `kn-user-default` and `data-plane.knative.dev`.
    pub(super) fn certificate(&mut self, name: &str) {
        let provider = ring::default_provider();
        let pair = tls::certified_key(CERTIFICATE.as_bytes(), KEY.as_bytes(), &provider).unwrap();
        let pair = Some(Arc::new(pair));
        self.reconciler.apply_certificate(key(name), pair);
    }

    /// A connection as a client makes it that prefers a protocol, or none.
    pub(super) async fn connect_tls(
        &self,
        host: &str,
        alpn: Option<&str>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(AUTHORITY.as_bytes()).unwrap();
        roots.add(authority).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.into_iter().map(Vec::from).collect();
        let stream = TcpStream::connect(self.secure).await?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    }

    /// What browsers do: HTTP/2, agreed upon by TLS.
    pub(super) async fn browse(&self, host: &str) -> SendRequest<BrowserBody> {
        let stream = self.connect_tls(host, Some("h2")).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A whole response through TLS.
    pub(super) async fn get_tls(&self, host: &str, path: &str) -> std::io::Result<String> {
        let mut stream = self.connect_tls(host, None).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    pub(super) async fn http2(&self) -> SendRequest<Full<Bytes>> {
        http2(self.external).await
    }

    pub(super) async fn http2_streams(&self) -> SendRequest<ChannelBody> {
        http2(self.external).await
    }
}

/// A backend, as the test sees it.
pub(super) struct Backend(Rc<BackendState>);

struct BackendState {
    name: String,
    seen: RefCell<Vec<Seen>>,
    failures: Cell<usize>,
    gate: Semaphore,
}

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) headers: HeaderMap,
    pub(super) version: Version,
    pub(super) uri: http::Uri,
}

// === impl Backend ===

impl Backend {
    pub(super) fn last(&self) -> Seen {
        self.0
            .seen
            .borrow()
            .last()
            .cloned()
            .expect("a request came")
    }

    pub(super) fn requests(&self) -> usize {
        self.0.seen.borrow().len()
    }

    /// Answers the next requests with 503.
    pub(super) fn fail(&self, count: usize) {
        self.0.failures.set(count);
    }

    /// Lets a held request go on.
    pub(super) fn release(&self) {
        self.0.gate.add_permits(1);
    }
}

struct BackendHandler(Rc<BackendState>);

impl Handler for BackendHandler {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        let state = &self.0;
        if header::probe_value(request.headers()) == header::PROBE_VALUE.as_bytes() {
            let hash = request.headers()[&header::HASH].clone();
            let mut response = Response::new(Body::empty(()));
            response.headers_mut().insert(&header::HASH, hash);
            return response;
        }
        state.seen.borrow_mut().push(Seen {
            headers: request.headers().clone(),
            version: request.version(),
            uri: request.uri().clone(),
        });
        let failures = state.failures.get();
        let path = request.uri().path().to_owned();
        let mut response = if path == "/echo" {
            Response::new(Body::incoming(request.into_body(), ()))
        } else {
            Response::new(Body::full(state.name.clone(), ()))
        };
        if path == "/held" {
            state.gate.acquire().await.unwrap().forget();
        }
        if failures > 0 {
            state.failures.set(failures - 1);
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let name = HeaderValue::try_from(&state.name).unwrap();
        response.headers_mut().insert("x-backend", name);
        // Begins a session, as a server of the Model Context Protocol does.
        if path == "/initialize" {
            let session = format!("{}-{}", state.name, state.seen.borrow().len());
            let session = HeaderValue::try_from(session).unwrap();
            response.headers_mut().insert("mcp-session-id", session);
        }
        response
    }
}
