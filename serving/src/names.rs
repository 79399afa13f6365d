//! Every name that is ours and not Knative's: headers begin with `Pilotlight-`, annotations and
//! config keys with `pilotlight.dev/`. The operator documentation lists the same table.

/// On a request to a queue-proxy: the sender is our activator and understands the two headers below.
/// Removed before the app sees the request. Also on a probe that one activator sends to another, and
/// on the answer of one of ours.
pub const CAPABILITY_HEADER: &str = "pilotlight-capability";

/// Value of [`CAPABILITY_HEADER`]: no more than that.
pub const CAPABLE: &str = "1";

/// Value of [`CAPABILITY_HEADER`]: the request is to be refused as not started when there is no free
/// place, although there is room in the queue.
pub const CAPABLE_WITHOUT_WAITING: &str = "no-wait";

/// On a queue-proxy's 503: the queue is full (or waiting was not wanted) and the request was not started, so another pod may be
/// tried. Sent only in answer to a request with [`CAPABILITY_HEADER`], removed from what an app sends.
pub const NOT_STARTED_HEADER: &str = "pilotlight-not-started";

/// On a queue-proxy's answer: requests executing, a slash, and requests waiting, e.g. `10/3`.
/// Sent only in answer to a request with [`CAPABILITY_HEADER`], removed from what an app sends.
pub const LOAD_HEADER: &str = "pilotlight-load";

/// On an error that a proxy of ours made itself: why, in a few words.
pub const REASON_HEADER: &str = "pilotlight-reason";

/// On a request between replicas of an activator that is the cluster's gateway: `namespace/name` of
/// an Ingress whose hash the other one is asked for.
pub const INGRESS_HEADER: &str = "pilotlight-ingress";

/// On the response to a request that the activator held: for how many seconds. Behind a switch.
pub const HELD_HEADER: &str = "pilotlight-held";

/// Annotation on a revision template, or on a Route for its splits: how sessions are told apart.
pub const SESSION_AFFINITY_ANNOTATION: &str = "pilotlight.dev/session-affinity";

/// Environment variable of queue-proxy and activator: B3 trace headers are read and written too.
pub const B3_VARIABLE: &str = "PILOTLIGHT_B3";

/// Those that concern the activator.
pub const ACTIVATOR_ANNOTATIONS: [&str; 2] = [MAX_WAIT_ANNOTATION, SESSION_AFFINITY_ANNOTATION];

/// Annotation on a revision template: how long a request may wait in the activator (Go's syntax).
pub const MAX_WAIT_ANNOTATION: &str = "pilotlight.dev/max-wait";
/// On a request from one autoscaler of ours to another: the body holds windows that a leader hands
/// over, in the version that is named.
pub const HANDOVER_HEADER: &str = "pilotlight-handover";

/// What every annotation of ours begins with.
pub const ANNOTATION_PREFIX: &str = "pilotlight.dev/";

/// Annotation on a Service or its revision template: the command line that stands for an image when
/// the manifest runs on one machine.
pub const LOCAL_COMMAND_ANNOTATION: &str = "pilotlight.dev/local-command";

/// Annotation on a revision template: spare pods on top of every need above zero.
pub const SCALE_BUFFER_ANNOTATION: &str = "pilotlight.dev/scale-buffer";

/// Annotation on a revision template: the value per pod of the metric that is not the scaling
/// metric. Pods are then wanted for both, and the larger need wins.
pub const SECOND_TARGET_ANNOTATION: &str = "pilotlight.dev/second-target";

/// Annotation on a revision template: whether pods that are starting count as coming capacity.
pub const COUNT_STARTING_PODS_ANNOTATION: &str = "pilotlight.dev/count-starting-pods";

/// Annotation on a revision template: whether the autoscaler learns how long pods take to start, and
/// answers a burst by that. Includes [`COUNT_STARTING_PODS_ANNOTATION`].
pub const LEARN_START_TIME_ANNOTATION: &str = "pilotlight.dev/learn-start-time";

/// The annotations of a revision template that change how it is scaled.
pub const SCALING_ANNOTATIONS: [&str; 4] = [
    SCALE_BUFFER_ANNOTATION,
    SECOND_TARGET_ANNOTATION,
    COUNT_STARTING_PODS_ANNOTATION,
    LEARN_START_TIME_ANNOTATION,
];
