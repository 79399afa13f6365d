//! One probe of one destination: asks a queue-proxy whether its app is ready.
//!
//! When to probe, and what an answer means, is [`crate::backends`]'s to say. Probes are HTTP/1.1,
//! also towards an h2c port, and use the destination's own pool. Upstream: `probe` in
//! `pkg/activator/net/revision_backends.go`. A connection is tried once for each probe (upstream
//! begins anew after 50 ms and so on, so that no probe passes where round trips take longer than
//! some hundred).

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header as http_header};
use http_body_util::{BodyExt, Limited};
use serving::body::Body;
use serving::header;
use serving::pool::Upstream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backends::{Answer, Probe};

/// Probes of all revisions at once; more wait their turn.
pub(crate) const MAX_CONCURRENT_PROBES: usize = 1024;

/// The health check path, whatever the app's own is.
const PATH: &str = "/healthz";

/// Longer bodies are not a queue-proxy's.
const MAX_BODY: usize = 64;

/// Makes one probe, its delay first, and says how long the answer took. `passthrough` is the private
/// Service's host when pods are reached through a mesh.
pub(crate) async fn make(
    upstream: Rc<Upstream>,
    probe: Probe,
    passthrough: Option<HeaderValue>,
    slots: Rc<Semaphore>,
) -> (Answer, Duration) {
    if !probe.delay.is_zero() {
        tokio::time::sleep(probe.delay).await;
    }
    let Ok(_slot) = slots.acquire().await else {
        return (Answer::Fail, Duration::ZERO);
    };
    let start = Instant::now();
    let ask = ask(&upstream, passthrough);
    let answer = match tokio::time::timeout(probe.timeout, ask).await {
        Ok(answer) => answer,
        Err(_) => Answer::TimedOut,
    };
    (answer, Instant::now().duration_since(start))
}

async fn ask(upstream: &Rc<Upstream>, passthrough: Option<HeaderValue>) -> Answer {
    let request = request(upstream, passthrough);
    let response = match upstream.send_dialling_once(request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::trace!(destination = %upstream.address(), %error, "probe failed");
            return Answer::Fail;
        }
    };
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY);
    let body = body.collect().await.map(|body| body.to_bytes());
    match status {
        StatusCode::OK if body.is_ok_and(|body| body == header::QUEUE_NAME) => Answer::Pass,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Answer::Fail,
        _ => Answer::NotMesh,
    }
}

fn request(upstream: &Upstream, passthrough: Option<HeaderValue>) -> Request<Body> {
    let mut request = Request::new(Body::empty(()));
    *request.uri_mut() = http::Uri::from_static(PATH);
    let headers = request.headers_mut();
    let host = upstream.host().clone();
    headers.insert(&header::PROBE, HeaderValue::from_static(header::QUEUE_NAME));
    headers.insert(
        http_header::USER_AGENT,
        HeaderValue::from_static(header::ACTIVATOR_USER_AGENT),
    );
    if passthrough.is_some() {
        let passes = HeaderValue::from_static("true");
        headers.insert(&header::PASSTHROUGH_LOAD_BALANCING, passes);
    }
    headers.insert(http_header::HOST, passthrough.unwrap_or(host));
    request
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serving::pool::UpstreamOptions;
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;
    use crate::backends::Target;

    /// A probe's own time is the only one that ends its dial: a dial of several attempts would be
    /// begun anew by each probe, and none would get through a long round trip.
    #[tokio::test(start_paused = true)]
    async fn a_probe_dials_for_as_long_as_it_may_take() {
        // A listener whose queue is full answers no handshake.
        let socket = TcpSocket::new_v4().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).unwrap();
        let listener = socket.listen(0).unwrap();
        let dest = listener.local_addr().unwrap();
        let _filling = TcpStream::connect(dest).await.unwrap();
        // More than the pool's own patience.
        let timeout = Duration::from_secs(60);
        let probe = Probe {
            target: Target::Pod(dest),
            number: 1,
            delay: Duration::from_secs(5),
            timeout,
        };
        let upstream = Upstream::new(dest, UpstreamOptions::default());
        let made = make(upstream, probe, None, Rc::new(Semaphore::new(1))).await;
        assert_eq!(made, (Answer::TimedOut, timeout));
    }
}
