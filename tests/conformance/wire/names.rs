//! Kind `constants`.

use serde_json::{Value, json};
use serving::{header, networking};

use super::canonical;
use crate::conformance::Verdict;

pub(super) fn constants(case: &Value) -> Verdict {
    Verdict::of(
        case,
        json!({
            "header": header_names(),
            "labels": {
                "configuration": networking::CONFIGURATION_LABEL,
                "revision": networking::REVISION_LABEL,
                "revisionUID": networking::REVISION_UID_LABEL,
                "service": networking::SERVICE_LABEL,
                "serviceType": networking::SERVICE_TYPE_LABEL,
                "sks": networking::SERVERLESS_SERVICE_LABEL,
                "typePrivate": networking::SERVICE_TYPE_PRIVATE,
                "typePublic": networking::SERVICE_TYPE_PUBLIC,
            },
            "names": {
                "activator": header::ACTIVATOR_NAME,
                "activatorService": networking::ACTIVATOR_SERVICE,
                "bucketPrefix": serving::hash::BUCKET_PREFIX,
                "queue": header::QUEUE_NAME,
                "servingCert": networking::SERVING_CERT,
            },
            "paths": {
                "certDirectory": networking::CERT_DIRECTORY,
                "drain": networking::DRAIN_PATH,
                "healthz": networking::HEALTHZ_PATH,
                "podInfoAnnotationsFilename": networking::POD_INFO_ANNOTATIONS_FILENAME,
                "podInfoDirectory": networking::POD_INFO_DIRECTORY,
                "tokenDirectory": networking::TOKEN_DIRECTORY,
            },
            "portNames": {
                "h2c": networking::PORT_NAME_H2C,
                "http1": networking::PORT_NAME_HTTP1,
            },
            "ports": {
                "autoscalingQueueMetrics": networking::AUTOSCALING_QUEUE_METRICS_PORT,
                "http": networking::BACKEND_HTTP_PORT,
                "http2": networking::BACKEND_HTTP2_PORT,
                "https": networking::BACKEND_HTTPS_PORT,
                "queueAdmin": networking::QUEUE_ADMIN_PORT,
                "userQueueMetrics": networking::USER_QUEUE_METRICS_PORT,
            },
        }),
    )
}

fn header_names() -> Value {
    json!({
        "ActivatorUserAgent": header::ACTIVATOR_USER_AGENT,
        "AutoscalingUserAgent": header::AUTOSCALING_USER_AGENT,
        "DefaultRouteKey": canonical(&header::DEFAULT_ROUTE),
        "HashKey": canonical(&header::HASH),
        "HashValueOverride": header::HASH_VALUE_OVERRIDE,
        "IngressReadinessUserAgent": header::INGRESS_READINESS_USER_AGENT,
        "KubeProbeUAPrefix": header::KUBE_PROBE_USER_AGENT_PREFIX,
        "KubeletProbeKey": canonical(&header::KUBELET_PROBE),
        "OriginalHostKey": canonical(&header::ORIGINAL_HOST),
        "PassthroughLoadbalancingKey": canonical(&header::PASSTHROUGH_LOAD_BALANCING),
        "ProbeKey": canonical(&header::PROBE),
        "ProbeValue": header::PROBE_VALUE,
        "ProtobufMIMEType": header::PROTOBUF_MIME_TYPE,
        "ProxyKey": canonical(&header::PROXY),
        "QueueProxyUserAgent": header::QUEUE_PROXY_USER_AGENT,
        "RevisionHeaderName": canonical(&header::REVISION_NAME),
        "RevisionHeaderNamespace": canonical(&header::REVISION_NAMESPACE),
        "RouteTagKey": canonical(&header::ROUTE_TAG),
        "UserAgentKey": header::USER_AGENT_KEY,
    })
}
