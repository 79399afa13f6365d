//! Ports, paths, names and labels on which the programs and their installation agree.
//!
//! Upstream: `pkg/networking/constants.go`, `pkg/queue/constants.go`, `pkg/apis/serving/register.go`.

/// `BackendHTTPPort`: where queue-proxy serves revisions that speak HTTP/1, and the activator too.
pub const BACKEND_HTTP_PORT: u16 = 8012;
/// `BackendHTTP2Port`: the same for revisions whose port is named `h2c`.
pub const BACKEND_HTTP2_PORT: u16 = 8013;
/// `BackendHTTPSPort`: where both serve TLS.
pub const BACKEND_HTTPS_PORT: u16 = 8112;
/// `QueueAdminPort`: queue-proxy's lifecycle hook.
pub const QUEUE_ADMIN_PORT: u16 = 8022;
/// `AutoscalingQueueMetricsPort`: where the autoscaler scrapes a queue-proxy's Stat.
pub const AUTOSCALING_QUEUE_METRICS_PORT: u16 = 9090;
/// `UserQueueMetricsPort`: queue-proxy's metrics for operators.
pub const USER_QUEUE_METRICS_PORT: u16 = 9091;

/// `ServicePortNameHTTP1`: the port name of Services for revisions that speak HTTP/1.
pub const PORT_NAME_HTTP1: &str = "http";
/// `ServicePortNameH2C`: the port name of Services for revisions that speak HTTP/2 in the clear.
pub const PORT_NAME_H2C: &str = "http2";

/// `ActivatorServiceName`: the Kubernetes Service of the activator.
pub const ACTIVATOR_SERVICE: &str = "activator-service";
/// `ServingCertName`: the Secret with the certificate of a namespace's queue-proxies.
pub const SERVING_CERT: &str = "serving-certs";

/// `RequestQueueDrainPath`: answered by queue-proxy once it is drained.
pub const DRAIN_PATH: &str = "/wait-for-drain";
/// The path on which Knative's components probe each other; no receiver looks at it.
pub const HEALTHZ_PATH: &str = "/healthz";
/// `CertDirectory`: where that Secret is mounted.
pub const CERT_DIRECTORY: &str = "/var/lib/knative/certs";
/// `PodInfoDirectory`: where the downward API's files are mounted.
pub const POD_INFO_DIRECTORY: &str = "/etc/podinfo";
/// `PodInfoAnnotationsFilename`: the file with the pod's annotations in it.
pub const POD_INFO_ANNOTATIONS_FILENAME: &str = "annotations";
/// `TokenDirectory`: where projected service account tokens are mounted.
pub const TOKEN_DIRECTORY: &str = "/var/run/secrets/tokens";

/// `serving.ServiceLabelKey`: the Service a Revision belongs to.
pub const SERVICE_LABEL: &str = "serving.knative.dev/service";
/// `serving.ConfigurationLabelKey`: the Configuration a Revision belongs to.
pub const CONFIGURATION_LABEL: &str = "serving.knative.dev/configuration";
/// `serving.RevisionLabelKey`: the Revision an object belongs to.
pub const REVISION_LABEL: &str = "serving.knative.dev/revision";
/// `serving.RevisionUID`: that Revision's uid.
pub const REVISION_UID_LABEL: &str = "serving.knative.dev/revisionUID";
/// `SKSLabelKey`: the ServerlessService that controls an object.
pub const SERVERLESS_SERVICE_LABEL: &str = "networking.internal.knative.dev/serverlessservice";
/// `ServiceTypeKey`: whether a Service is a revision's private or public one.
pub const SERVICE_TYPE_LABEL: &str = "networking.internal.knative.dev/serviceType";
/// `ServiceTypePrivate`: the Service that selects a revision's pods.
pub const SERVICE_TYPE_PRIVATE: &str = "Private";
/// `ServiceTypePublic`: the Service with pods or activators behind it.
pub const SERVICE_TYPE_PUBLIC: &str = "Public";
