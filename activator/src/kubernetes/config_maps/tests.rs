//! Reading and following, against a small API server.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use serving::body::Body;
use serving::forward::error_response;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use serving::telemetry::{LineWriter, LogLayer, LogSettings};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;

use super::*;
use crate::{Options, UPDATES_CAPACITY};

/// Has the three maps, but for one that is missing.
struct ApiServer {
    missing: Cell<&'static str>,
    asked: RefCell<Vec<String>>,
}

impl Handler for ApiServer {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        let uri = request.uri().to_string();
        self.asked.borrow_mut().push(uri.clone());
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        if query.contains("watch=true") {
            std::future::pending::<()>().await;
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let answer = if name == "configmaps" {
            let only = query
                .split('&')
                .find_map(|it| it.strip_prefix("fieldSelector=metadata.name%3D"));
            json!({"metadata": {"resourceVersion": "1"}, "items": [map(only.unwrap_or_default())]})
        } else if name == self.missing.get() {
            return error_response(StatusCode::NOT_FOUND, "no such ConfigMap", ());
        } else {
            map(name)
        };
        Response::new(Body::full(answer.to_string(), ()))
    }
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "knative-serving"},
        "data": {"loglevel.activator": "debug"}})
}

async fn start() -> (Rc<ApiServer>, Client) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", socket.local_addr().expect("bound"));
    let api_server = Rc::new(ApiServer {
        missing: Cell::new(""),
        asked: RefCell::default(),
    });
    tokio::task::spawn_local(server::serve(
        vec![Listener::plain(socket)],
        Rc::clone(&api_server),
        ServerOptions::default(),
        Shutdown::new(),
    ));
    let config = kube::Config::new(url.parse().expect("a URL"));
    (api_server, Client::try_from(config).expect("a client"))
}

/// Edge case 74: a map that is missing stops the start, whichever it is.
#[test]
fn edge_case_74_missing_maps() {
    crate::tests::run(async {
        let (api_server, client) = start().await;
        let (logging, observability) = ("config-logging", "config-observability");
        let read = || read(&client, "knative-serving", logging, observability);
        assert!(read().await.is_ok());
        for missing in [logging, observability, "config-network"] {
            api_server.missing.set(missing);
            let error = read().await.expect_err("missing");
            assert_eq!(
                error.to_string(),
                format!("cannot read ConfigMap {missing}")
            );
        }
    });
}

/// Edge case 38: what `config-network` says counts from the start to the end; the maps of
/// observability and logging are followed.
#[test]
fn edge_case_38_the_network_is_not_followed() {
    crate::tests::run(async {
        let (api_server, client) = start().await;
        let (_updates, received) = mpsc::channel(UPDATES_CAPACITY);
        let options = Options::new("activator-0", "10.1.0.1");
        let (activator, _driver) = crate::new(options, received, &mut Registry::default());
        let (settings, _) = LogSettings::read("", "info");
        let writer = LineWriter::new(std::io::sink()).expect("a writer");
        let level = LogLayer::new(settings, COMPONENT, &[], writer).level();
        assert_eq!(level.get(), LevelFilter::INFO);
        let followed = Followed {
            observability: "config-observability".to_owned(),
            logging: "config-logging".to_owned(),
            level: Some(level.clone()),
        };
        tokio::task::spawn_local(async move {
            follow(&client, "knative-serving", &followed, &activator).await;
        });
        let watches = || {
            let asked = api_server.asked.borrow();
            asked
                .iter()
                .filter(|uri| uri.contains("watch=true"))
                .count()
        };
        while watches() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(level.get(), LevelFilter::DEBUG, "what it says now");
        let asked = api_server.asked.borrow();
        let about = |name: &str| asked.iter().filter(|uri| uri.contains(name)).count();
        let (observability, logging) = (about("config-observability"), about("config-logging"));
        assert!(observability > 0 && logging > 0, "{asked:?}");
        assert_eq!(observability + logging, asked.len(), "{asked:?}");
    });
}
