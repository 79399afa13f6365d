//! From a request to its answer.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use serving::AnchoredClock;
use tokio::time::Instant;

use super::body::{PieceMaker, Pieces};
use super::query::Query;
use super::{App, SampleBody, websocket};

/// Events that `/events` sends when no count is asked for.
const EVENTS: u64 = 5;

/// Pages are this large or larger; one byte in each makes the memory real.
const PAGE: usize = 4096;

pub(super) async fn answer(app: &Rc<App>, request: Request<Incoming>) -> Response<SampleBody> {
    let query = match request.uri().query().map(Query::parse).transpose() {
        Ok(query) => query.unwrap_or_default(),
        Err(message) => return text(StatusCode::BAD_REQUEST, format!("{message}\n")),
    };
    match request.uri().path() {
        "/ws" => return websocket::accept(app, request),
        "/events" => return events(&query),
        _ => {}
    }
    let held = work(&query).await;
    if let Some(code) = query.exit {
        // The point is to end as a crash does, without draining.
        std::process::exit(code);
    }
    let mut response = match request.uri().path() {
        "/echo" => Response::new(SampleBody::echo(request.into_body())),
        "/headers" => json_answer(&headers(&request)),
        "/env" => json_answer(&environment(app)),
        _ => content(app, &query),
    };
    if let Some(status) = query.status {
        match StatusCode::from_u16(status) {
            Ok(status) if status.as_u16() >= 200 => *response.status_mut() = status,
            _ => return text(StatusCode::BAD_REQUEST, "status: not a final one\n"),
        }
    }
    response.map(|body| body.holding(held))
}

/// Everything that happens before an answer; the memory to hold comes back.
async fn work(query: &Query) -> Vec<u8> {
    let mut held = Vec::new();
    if query.memory > 0 {
        held = vec![0; query.memory];
        for page in held.chunks_mut(PAGE) {
            page[0] = 1;
        }
    }
    if !query.sleep.is_zero() {
        tokio::time::sleep(query.sleep).await;
    }
    if !query.burn.is_zero() {
        let burn = query.burn;
        // Off the thread that serves, as a threaded app would.
        let _ = tokio::task::spawn_blocking(move || spin(burn)).await;
    }
    held
}

fn spin(burn: Duration) {
    let end = Instant::now() + burn;
    let mut number: u64 = 1;
    while Instant::now() < end {
        for _ in 0..1000 {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005));
        }
    }
}

fn content(app: &App, query: &Query) -> Response<SampleBody> {
    let piece = match query.size {
        None => Bytes::copy_from_slice(app.message.as_bytes()),
        Some(size) => Bytes::from(vec![b'x'; size]),
    };
    if query.stream.is_none() && !query.breaks {
        return plain(SampleBody::full(piece));
    }
    let count = query.stream.unwrap_or(1) + u64::from(query.breaks);
    let interval = query.interval.unwrap_or_default();
    let mut pieces = Pieces::new(count, interval, PieceMaker::Same(piece));
    pieces.breaks = query.breaks;
    plain(SampleBody::pieces(pieces))
}

fn events(query: &Query) -> Response<SampleBody> {
    let interval = query.interval.unwrap_or(Duration::from_secs(1));
    let pieces = Pieces::new(query.count.unwrap_or(EVENTS), interval, PieceMaker::Event);
    let mut response = Response::new(SampleBody::pieces(pieces));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn headers(request: &Request<Incoming>) -> Value {
    let mut headers = Map::new();
    for name in request.headers().keys() {
        let values = request
            .headers()
            .get_all(name)
            .iter()
            .map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())))
            .collect();
        headers.insert(name.to_string(), Value::Array(values));
    }
    json!({
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    })
}

fn environment(app: &App) -> Value {
    let mut environment = Map::new();
    for (name, value) in &app.identity {
        environment.insert((*name).to_owned(), value.as_str().into());
    }
    environment.insert("PORT".to_owned(), app.port.to_string().into());
    environment.insert("pid".to_owned(), std::process::id().into());
    for (name, time) in [
        ("startedAt", app.times.started),
        ("listeningAt", app.times.listening),
        ("connectedAt", app.connected.get().unwrap_or_default()),
        ("receivedAt", AnchoredClock::new().now()),
    ] {
        environment.insert(name.to_owned(), time.nanos().into());
    }
    Value::Object(environment)
}

fn json_answer(value: &Value) -> Response<SampleBody> {
    let mut response = Response::new(SampleBody::full(format!("{value}\n")));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn plain(body: SampleBody) -> Response<SampleBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<SampleBody> {
    let mut response = plain(SampleBody::full(text));
    *response.status_mut() = status;
    response
}
