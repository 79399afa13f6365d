//! The activator as a gateway, over real sockets: every case of upstream's conformance suite
//! (`test/conformance/ingress` of knative.dev/networking), named `conformance_*` after it. The case
//! `ingressclass` needs an API server and is with the watches.

mod cluster;
mod exchanges;
mod gateway;
mod matching;
mod names;
mod protocols;

use super::*;

fn get(host: &str, path: &str) -> http::request::Builder {
    Request::get(path).header("host", host)
}

async fn ask(address: SocketAddr, request: http::request::Builder) -> Answer {
    send(address, request.body(Empty::new()).unwrap()).await
}

async fn status(address: SocketAddr, host: &str, path: &str) -> u16 {
    ask(address, get(host, path)).await.status.as_u16()
}

/// Who answered.
fn backend(answer: &Answer) -> String {
    answer.headers["x-backend"].to_str().unwrap().to_owned()
}
