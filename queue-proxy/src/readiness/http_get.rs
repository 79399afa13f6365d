//! HTTP readiness probes: a GET, redirects followed, 200 to 399 is ready.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::HttpGet;
use super::attempt::{ProbeError, USER_AGENT, connect};
use super::tls;

/// Redirects followed before giving up, as Go's client does.
const MAX_REDIRECTS: usize = 10;

/// How long, and how much of, the rest of an answer is read once its status is known: an app that
/// writes its answer should not find the connection gone.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
const DISCARD_BYTES: usize = 64 * 1024;

/// The HTTP version of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    /// h2c with prior knowledge.
    Http2,
}

/// Asks once whether the app is ready.
pub(super) async fn probe(get: &HttpGet, limit: Duration) -> Result<(), ProbeError> {
    if !get.detect_http2 {
        return ready(get, Version::Http1, true, limit).await;
    }
    // Detection asks without the probe's own headers, and nothing is remembered between attempts.
    if ready(get, Version::Http2, false, limit).await.is_ok() {
        return ready(get, Version::Http2, true, limit).await;
    }
    ready(get, Version::Http1, false, limit)
        .await
        .map_err(|error| ProbeError::Detection(Box::new(error)))
}

async fn ready(
    get: &HttpGet,
    version: Version,
    own_headers: bool,
    limit: Duration,
) -> Result<(), ProbeError> {
    let url = url(get)?;
    let headers = headers(get, own_headers)?;
    let status = timeout(limit, follow(&url, &headers, version))
        .await
        .map_err(|_| ProbeError::Http {
            url: url.to_string(),
            reason: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                .to_owned(),
        })??;
    if (200..400).contains(&status.as_u16()) {
        Ok(())
    } else {
        Err(ProbeError::Status(status.as_u16()))
    }
}

fn url(get: &HttpGet) -> Result<Uri, ProbeError> {
    let scheme = if get.https { "https" } else { "http" };
    let host = match get.host.as_str() {
        "" => "127.0.0.1".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    let path = get.path.strip_prefix('/').unwrap_or(&get.path);
    format!("{scheme}://{host}:{}/{path}", get.port)
        .parse()
        .map_err(|error: http::uri::InvalidUri| ProbeError::Request(error.to_string()))
}

/// The probe's headers. A `Host` among the configured ones has no effect and a second
/// `User-Agent` comes after ours, both as upstream.
fn headers(get: &HttpGet, own_headers: bool) -> Result<HeaderMap, ProbeError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let configured = get.headers.iter().filter(|_| own_headers);
    for (name, value) in configured {
        let name = HeaderName::try_from(name.as_str())
            .map_err(|error| ProbeError::Request(error.to_string()))?;
        let value = HeaderValue::try_from(value.as_str())
            .map_err(|error| ProbeError::Request(error.to_string()))?;
        if name != header::HOST && name != header::USER_AGENT {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// Requests `url` and where it redirects to, up to [`MAX_REDIRECTS`] times.
async fn follow(
    url: &Uri,
    headers: &HeaderMap,
    version: Version,
) -> Result<StatusCode, ProbeError> {
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let (status, location) = request(&url, headers, version).await?;
        let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        match location.filter(|_| redirects) {
            None => return Ok(status),
            Some(location) => {
                url = resolve(&url, &location).ok_or_else(|| ProbeError::Http {
                    url: url.to_string(),
                    reason: format!("failed to parse Location header {location:?}"),
                })?;
            }
        }
    }
    Err(ProbeError::Http {
        url: url.to_string(),
        reason: "stopped after 10 redirects".to_owned(),
    })
}

async fn request(
    url: &Uri,
    headers: &HeaderMap,
    version: Version,
) -> Result<(StatusCode, Option<String>), ProbeError> {
    let failed = |reason: &dyn std::fmt::Display| ProbeError::Http {
        url: url.to_string(),
        reason: reason.to_string(),
    };
    let https = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
    let bare_host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = connect(bare_host, port).await.map_err(|e| failed(&e))?;
    let response = if https {
        let stream = tls::connect(stream, bare_host)
            .await
            .map_err(|e| failed(&e))?;
        exchange(stream, url, headers, Version::Http1).await
    } else {
        exchange(stream, url, headers, version).await
    };
    let response = response.map_err(|error| failed(&Chain(&error)))?;
    let location = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let status = response.status();
    tokio::task::spawn_local(timeout(DISCARD_TIMEOUT, discard(response.into_body())));
    Ok((status, location))
}

/// Sends one request on a connection of its own, which ends with the response body.
async fn exchange<S>(
    stream: S,
    url: &Uri,
    headers: &HeaderMap,
    version: Version,
) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut request = Request::new(Empty::<Bytes>::new());
    request.headers_mut().clone_from(headers);
    let io = TokioIo::new(stream);
    match version {
        Version::Http1 => {
            if let Some(host) = url
                .authority()
                .and_then(|authority| HeaderValue::try_from(authority.as_str()).ok())
            {
                request.headers_mut().insert(header::HOST, host);
            }
            request
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
            *request.uri_mut() = origin_form(url);
            let (mut sender, connection) = http1::Builder::new()
                .title_case_headers(true)
                .handshake(io)
                .await?;
            // It ends with the exchange: the sender is dropped below and the body is bounded.
            tokio::task::spawn_local(connection);
            sender.send_request(request).await
        }
        Version::Http2 => {
            *request.uri_mut() = url.clone();
            let (mut sender, connection) = http2::handshake(super::grpc::LocalExecutor, io).await?;
            tokio::task::spawn_local(connection);
            sender.send_request(request).await
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn origin_form(url: &Uri) -> Uri {
    url.path_and_query()
        .map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()))
}

/// Where a `Location` leads from `base`: absolute, or relative to its host or directory.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?.as_str();
    let absolute = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.is_empty() || location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(path, _)| path);
        let path = without_dots(&format!("{directory}/{location}"));
        format!("{scheme}://{authority}{path}")
    };
    let url: Uri = absolute.parse().ok()?;
    matches!(url.scheme_str(), Some("http" | "https")).then_some(url)
}

/// Removes `.` and `..` segments of the path, leaving a query alone.
fn without_dots(target: &str) -> String {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut result = format!("/{}", segments.join("/"));
    if let Some(query) = query {
        result.push('?');
        result.push_str(query);
    }
    result
}

/// An error with its causes, since hyper's errors show only their own level.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_resolve_as_in_a_browser() {
        let base: Uri = "http://127.0.0.1:8080/a/b?x=1".parse().expect("valid");
        for (location, expected) in [
            ("/c", "http://127.0.0.1:8080/c"),
            ("c?y=2#part", "http://127.0.0.1:8080/a/c?y=2"),
            ("../c", "http://127.0.0.1:8080/c"),
            ("./d/../c", "http://127.0.0.1:8080/a/c"),
            ("?z=3", "http://127.0.0.1:8080/a/b?z=3"),
            ("//other:1/c", "http://other:1/c"),
            ("https://other/c", "https://other/c"),
        ] {
            let resolved = resolve(&base, location).expect("resolves");
            assert_eq!(resolved.to_string(), expected, "{location}");
        }
        assert_eq!(resolve(&base, "http://"), None);
    }

    #[test]
    fn row_39_host_and_user_agent_of_the_probe_are_ignored() {
        let get = HttpGet {
            https: false,
            host: String::new(),
            port: 8080,
            path: "ready?deep=1".to_owned(),
            headers: vec![
                ("Host".to_owned(), "example.com".to_owned()),
                ("User-Agent".to_owned(), "mine".to_owned()),
                ("X-One".to_owned(), "1".to_owned()),
            ],
            detect_http2: false,
        };
        assert_eq!(
            url(&get).expect("valid").to_string(),
            "http://127.0.0.1:8080/ready?deep=1"
        );
        let headers = headers(&get, true).expect("valid");
        assert!(!headers.contains_key(header::HOST));
        assert_eq!(headers[header::USER_AGENT], USER_AGENT);
        assert_eq!(headers["x-one"], "1");
    }
}
