//! `/ws`: accepts a WebSocket and sends every message back.

use std::rc::Rc;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::answer::text;
use super::{App, Open, SampleBody};

pub(super) fn accept(app: &Rc<App>, mut request: Request<Incoming>) -> Response<SampleBody> {
    let wants = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let Some(key) = key.filter(|_| wants) else {
        return text(
            StatusCode::UPGRADE_REQUIRED,
            "connect with a WebSocket client\n",
        );
    };
    let accepted = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    let open = Open::new(Rc::clone(app));
    tokio::task::spawn_local(async move {
        // The connection ends with its last message; there is nobody to tell an error.
        if let Ok(upgraded) = upgrade.await {
            echo(TokioIo::new(upgraded)).await;
        }
        drop(open);
    });
    let mut response = Response::new(SampleBody::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accepted) = HeaderValue::try_from(accepted) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    }
    response
}

async fn echo(stream: TokioIo<hyper::upgrade::Upgraded>) {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}
