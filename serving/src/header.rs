//! The HTTP headers by which Knative's parts talk to each other, and what they say about a request.
//!
//! Every proxy reads these on every request, so the readers cost a few lookups in the header map and
//! allocate nothing for an ordinary request. As in Go, "the value" of a header is its first one, and
//! an empty value is the same as none. Upstream: `knative.dev/networking/pkg/http/header`.

mod cookie;
mod forwarded;
mod marks;

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

pub use cookie::join_cookies;
pub use forwarded::{MAX_FORWARDED_BYTES, shim_forwarded};
pub use marks::Marks;

/// `HashKey`: which version of the networking configuration is deployed; echoed to ingress probes.
pub static HASH: HeaderName = HeaderName::from_static("k-network-hash");
/// `ProbeKey`: a probe of the network layer, naming whom it wants to reach.
pub static PROBE: HeaderName = HeaderName::from_static("k-network-probe");
/// `ProxyKey`: the request came through an activator.
pub static PROXY: HeaderName = HeaderName::from_static("k-proxy-request");
/// `OriginalHostKey`: the Host a client asked for, hidden from host-based routing on the way.
pub static ORIGINAL_HOST: HeaderName = HeaderName::from_static("k-original-host");
/// `KubeletProbeKey`: a kubelet's probe whose user agent a mesh may have rewritten.
pub static KUBELET_PROBE: HeaderName = HeaderName::from_static("k-kubelet-probe");
/// `RouteTagKey`: the tag of the route the ingress chose.
pub static ROUTE_TAG: HeaderName = HeaderName::from_static("knative-serving-tag");
/// `DefaultRouteKey`: `true` when a tagged request fell through to the default route.
pub static DEFAULT_ROUTE: HeaderName = HeaderName::from_static("knative-serving-default-route");
/// `PassthroughLoadbalancingKey`: load balancers on the way keep the request's destination.
pub static PASSTHROUGH_LOAD_BALANCING: HeaderName = HeaderName::from_static("k-passthrough-lb");
/// `RevisionHeaderName` (package `activator`): the name of the Revision a request is for.
pub static REVISION_NAME: HeaderName = HeaderName::from_static("knative-serving-revision");
/// `RevisionHeaderNamespace` (package `activator`): the namespace of that Revision.
pub static REVISION_NAMESPACE: HeaderName = HeaderName::from_static("knative-serving-namespace");
/// W3C trace context, read for request logs.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// B3 trace id, read for request logs when there is no trace context.
pub static B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
/// The client addresses that proxies on the way have noted.
pub static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The Host a client asked the first proxy for.
pub static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The scheme a client used towards the first proxy.
pub static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// `UserAgentKey`, spelled as upstream spells it.
pub const USER_AGENT_KEY: &str = "User-Agent";
/// `HashValueOverride`: asks an ingress to put its own hash into [`HASH`].
pub const HASH_VALUE_OVERRIDE: &str = "override";
/// `ProbeValue`: in [`PROBE`], a probe that any data plane part answers by echoing [`HASH`].
pub const PROBE_VALUE: &str = "probe";
/// `queue.Name`: in [`PROBE`], the probe is for queue-proxy; also the body of its answer.
pub const QUEUE_NAME: &str = "queue";
/// `activator.Name`: in [`PROBE`], the probe is for an activator; in [`PROXY`], one forwarded this.
pub const ACTIVATOR_NAME: &str = "activator";
/// `KubeProbeUAPrefix`: how a kubelet's user agent begins.
pub const KUBE_PROBE_USER_AGENT_PREFIX: &str = "kube-probe/";
/// `ActivatorUserAgent`: the activator's user agent in probes.
pub const ACTIVATOR_USER_AGENT: &str = "Knative-Activator-Probe";
/// `QueueProxyUserAgent`: queue-proxy's user agent in probes.
pub const QUEUE_PROXY_USER_AGENT: &str = "Knative-Queue-Proxy-Probe";
/// `IngressReadinessUserAgent`: an ingress controller's user agent in probes.
pub const INGRESS_READINESS_USER_AGENT: &str = "Knative-Ingress-Probe";
/// `AutoscalingUserAgent`: the autoscaler's user agent in probes.
pub const AUTOSCALING_USER_AGENT: &str = "Knative-Autoscaling-Probe";
/// `ProtobufMIMEType`: the exact content type of a [`crate::stat::Stat`] over HTTP.
pub const PROTOBUF_MIME_TYPE: &str = "application/protobuf";

/// `defaultTagName`: tag header routing is on and the request carried no tag.
pub const DEFAULT_TAG: &str = "kn:default";
/// `undefinedTagName`: the request carried a tag that no route has.
pub const UNDEFINED_TAG: &str = "kn:undefined";
/// `disabledTagName`: tag header routing is off.
pub const DISABLED_TAG: &str = "kn:disabled";

/// Besides a kubelet's, the user agents whose requests queue-proxy takes for health checks, by prefix.
const KNATIVE_PROBE_USER_AGENTS: [&str; 2] = [ACTIVATOR_USER_AGENT, AUTOSCALING_USER_AGENT];

/// What a request is to queue-proxy, by its headers alone; method and path never matter.
///
/// Upstream: the conditions in `pkg/network/handlers/drain.go`, `pkg/queue/handler.go` and the
/// filters of request log and metrics, which this puts into one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestClass<'a> {
    /// Nothing special: counted, admitted by the breaker, logged and measured.
    Ordinary,
    /// From a prober's user agent. It asks whether the app is ready if `probe` is [`QUEUE_NAME`],
    /// and is a mistake otherwise.
    HealthCheck {
        /// The value of [`PROBE`], empty when absent.
        probe: &'a [u8],
        /// The user agent is a kubelet's.
        kubelet: bool,
    },
    /// [`PROBE_VALUE`] from anyone else: to be answered with this value of [`HASH`], which must not
    /// be empty (it is when the header is absent). Says nothing about the app.
    NetworkProbe(&'a [u8]),
    /// A kubelet's probe by [`KUBELET_PROBE`] only: forwarded past statistics, breaker and Host
    /// restoration, and neither logged nor measured.
    KubeletStyle,
    /// Any other non-empty [`PROBE`]: forwarded, counted and admitted like an ordinary request, but
    /// neither logged nor measured.
    ForwardedProbe,
}

// === impl RequestClass ===

impl<'a> RequestClass<'a> {
    /// Classifies a request.
    pub fn of(headers: &'a HeaderMap) -> Self {
        Self::of_marked(headers, Marks::scan(headers))
    }

    /// [`RequestClass::of`] for a caller that has scanned the headers already.
    pub fn of_marked(headers: &'a HeaderMap, marks: Marks) -> Self {
        let agent = value(headers, &http::header::USER_AGENT);
        let probe = if marks.knative() {
            value(headers, &PROBE)
        } else {
            &[]
        };
        let kubelet = agent.starts_with(KUBE_PROBE_USER_AGENT_PREFIX.as_bytes());
        if kubelet
            || KNATIVE_PROBE_USER_AGENTS
                .iter()
                .any(|prefix| agent.starts_with(prefix.as_bytes()))
        {
            return Self::HealthCheck { probe, kubelet };
        }
        if !marks.knative() {
            return Self::Ordinary;
        }
        if probe == PROBE_VALUE.as_bytes() {
            return Self::NetworkProbe(value(headers, &HASH));
        }
        if !value(headers, &KUBELET_PROBE).is_empty() {
            return Self::KubeletStyle;
        }
        if probe.is_empty() {
            Self::Ordinary
        } else {
            Self::ForwardedProbe
        }
    }

    /// Whether request log, server metrics and traces leave the request out; [`is_probe`] without
    /// looking the headers up again.
    pub fn is_probe(&self) -> bool {
        match self {
            Self::Ordinary => false,
            Self::HealthCheck { probe, kubelet } => *kubelet || !probe.is_empty(),
            Self::NetworkProbe(_) | Self::KubeletStyle | Self::ForwardedProbe => true,
        }
    }
}

/// The first value of a header as bytes; empty when there is none.
pub fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a [u8] {
    headers.get(name).map_or(&[], HeaderValue::as_bytes)
}

/// `GetKnativeProbeValue`: the value of [`PROBE`], empty when absent.
pub fn probe_value(headers: &HeaderMap) -> &[u8] {
    value(headers, &PROBE)
}

/// `GetKnativeProxyValue`: the value of [`PROXY`], empty when absent.
pub fn proxy_value(headers: &HeaderMap) -> &[u8] {
    value(headers, &PROXY)
}

/// Whether an activator forwarded the request, so that it counts as proxied.
pub fn is_proxied(headers: &HeaderMap) -> bool {
    proxy_value(headers) == ACTIVATOR_NAME.as_bytes()
}

/// `IsKubeletProbe`: a kubelet's user agent, or a non-empty [`KUBELET_PROBE`].
pub fn is_kubelet_probe(headers: &HeaderMap) -> bool {
    value(headers, &http::header::USER_AGENT).starts_with(KUBE_PROBE_USER_AGENT_PREFIX.as_bytes())
        || !value(headers, &KUBELET_PROBE).is_empty()
}

/// `IsProbe`: a kubelet's probe, or a non-empty [`PROBE`].
pub fn is_probe(headers: &HeaderMap) -> bool {
    is_kubelet_probe(headers) || !probe_value(headers).is_empty()
}

/// `GetRouteTagNameFromRequest`: the route tag that metrics and spans carry.
///
/// Borrowed unless the tag is not UTF-8, which a metric label cannot hold.
pub fn route_tag(headers: &HeaderMap) -> Cow<'_, str> {
    let tag = value(headers, &ROUTE_TAG);
    let default_route = value(headers, &DEFAULT_ROUTE);
    match (tag.is_empty(), default_route) {
        (true, b"") => Cow::Borrowed(DISABLED_TAG),
        (true, _) => Cow::Borrowed(DEFAULT_TAG),
        (false, b"true") => Cow::Borrowed(UNDEFINED_TAG),
        (false, _) => String::from_utf8_lossy(tag),
    }
}

/// `ExtractTraceID`: the trace id that request logs show; empty when the client sent none.
pub fn trace_id(headers: &HeaderMap) -> &[u8] {
    let mut parts = value(headers, &TRACEPARENT).split(|&byte| byte == b'-');
    match (parts.next(), parts.next()) {
        (Some(_), Some(id)) => id,
        _ => value(headers, &B3_TRACE_ID),
    }
}

/// The Host of a request as received: the authority of the target (HTTP/2, absolute form), else the
/// Host header; empty when there is neither. Go's `Request.Host`.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a [u8] {
    match uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => value(headers, &http::header::HOST),
    }
}

/// `RewriteHostIn`, the activator's half: moves `host`, the request's Host, into [`ORIGINAL_HOST`]
/// unless that header already has a value, and removes the Host header. The caller addresses the
/// request by its destination.
pub fn hide_host(headers: &mut HeaderMap, host: HeaderValue) {
    headers.remove(http::header::HOST);
    if value(headers, &ORIGINAL_HOST).is_empty() {
        headers.insert(ORIGINAL_HOST.clone(), host);
    }
}

/// `RewriteHostOut`, queue-proxy's half: takes the Host that the app is to see out of
/// [`ORIGINAL_HOST`] and removes the Host header. `None`, and nothing touched, when there is none.
pub fn restore_host(headers: &mut HeaderMap) -> Option<HeaderValue> {
    if value(headers, &ORIGINAL_HOST).is_empty() {
        return None;
    }
    headers.remove(http::header::HOST);
    headers.remove(&ORIGINAL_HOST)
}

#[cfg(test)]
mod tests;
