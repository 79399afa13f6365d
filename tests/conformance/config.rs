//! Family `config`: ConfigMap data through the parsers of [`serving::config`].

use std::time::Duration;

use serde_json::{Map, Value, json};
use serving::config::{
    Autoscaler, Data, Deployment, Features, InvalidConfig, LeaderElection, Logging, Network,
    Observability,
};

use super::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    let data = data(&case["data"]);
    let kind = case["kind"].as_str().unwrap_or("?");
    let outcome = match kind {
        "autoscaler" => Autoscaler::parse(&data).map(|config| autoscaler(&config)),
        "leaderElection" => LeaderElection::parse(&data).map(|config| leader_election(&config)),
        "deployment" => Deployment::parse(&data).map(|config| deployment(&config)),
        "features" => Ok(features(&Features::parse(&data))),
        "network" => Network::parse(&data).map(|config| network(&config)),
        "observability" => Observability::parse(&data).map(|config| observability(&config)),
        "logging" => Logging::parse(&data).map(|config| logging(&config)),
        other => return Verdict::Missing(other.to_owned()),
    };
    Verdict::Replayed {
        expected: normalized(case["expected"].clone()),
        got: normalized(
            outcome.map_or_else(refused, |config| json!({ "config": config, "error": "" })),
        ),
    }
}

pub(crate) fn data(value: &Value) -> Data {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

fn refused(error: InvalidConfig) -> Value {
    json!({ "error": error.to_string() })
}

/// The JSON text for queue-proxy becomes JSON, and of the complaint about a template only the
/// template's name and the line are kept: the rest quotes Go's template package.
fn normalized(mut value: Value) -> Value {
    if let Some(text) = value["config"]["json"].as_str() {
        value["config"]["json"] = serde_json::from_str(text).unwrap_or(Value::Null);
    }
    if let Some(rest) = value["error"]
        .as_str()
        .and_then(|text| text.strip_prefix("template: "))
    {
        let place: Vec<_> = rest.splitn(3, ':').take(2).collect();
        value["error"] = json!(format!("template: {}", place.join(":")));
    }
    value
}

fn nanos(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_nanos()).expect("durations stay below 292 years"))
}

fn autoscaler(config: &Autoscaler) -> Value {
    json!({
        "activatorCapacity": config.activator_capacity,
        "allowZeroInitialScale": config.allow_zero_initial_scale,
        "containerConcurrencyTargetDefault": config.container_concurrency_target_default,
        "containerConcurrencyTargetFraction": config.container_concurrency_target_fraction,
        "enableScaleToZero": config.enable_scale_to_zero,
        "initialScale": config.initial_scale,
        "maxScale": config.max_scale,
        "maxScaleDownRate": config.max_scale_down_rate,
        "maxScaleLimit": config.max_scale_limit,
        "maxScaleUpRate": config.max_scale_up_rate,
        "minScale": config.min_scale,
        "panicThresholdPercentage": config.panic_threshold_percentage,
        "panicWindowPercentage": config.panic_window_percentage,
        "podAutoscalerClass": config.pod_autoscaler_class,
        "rpsTargetDefault": config.rps_target_default,
        "scaleDownDelayNs": nanos(config.scale_down_delay),
        "scaleToZeroGracePeriodNs": nanos(config.scale_to_zero_grace_period),
        "scaleToZeroPodRetentionPeriodNs": nanos(config.scale_to_zero_pod_retention_period),
        "stableWindowNs": nanos(config.stable_window),
        "targetBurstCapacity": config.target_burst_capacity,
        "targetUtilization": config.target_utilization,
    })
}

fn leader_election(config: &LeaderElection) -> Value {
    json!({
        "buckets": config.buckets,
        "leaseDurationNs": config.lease_duration,
        "leaseNamesPrefixMapping": config.lease_names_prefix_mapping,
        "renewDeadlineNs": config.renew_deadline,
        "retryPeriodNs": config.retry_period,
    })
}

fn deployment(config: &Deployment) -> Value {
    json!({
        "podIsAlwaysSchedulable": config.pod_is_always_schedulable,
        "progressDeadlineNs": nanos(config.progress_deadline),
        "queueSidecarImage": config.queue_sidecar_image,
        "queueSidecarRootCA": config.queue_sidecar_root_ca,
        "queueSidecarTLSCipherSuites": config.queue_sidecar_tls_cipher_suites,
        "queueSidecarTLSCurvePreferences": config.queue_sidecar_tls_curve_preferences,
        "queueSidecarTLSMaxVersion": config.queue_sidecar_tls_max_version,
        "queueSidecarTLSMinVersion": config.queue_sidecar_tls_min_version,
    })
}

fn features(config: &Features) -> Value {
    json!({
        "autoDetectHTTP2": config.auto_detect_http2.as_str(),
        "multiContainer": config.multi_container.as_str(),
        "multiContainerProbing": config.multi_container_probing.as_str(),
        "queueProxyMountPodInfo": config.queue_proxy_mount_pod_info.as_str(),
        "queueProxyResourceDefaults": config.queue_proxy_resource_defaults.as_str(),
        "securePodDefaults": config.secure_pod_defaults.as_str(),
        "tagHeaderBasedRouting": config.tag_header_based_routing.as_str(),
    })
}

fn network(config: &Network) -> Value {
    let tls = if config.system_internal_tls {
        "enabled"
    } else {
        "disabled"
    };
    json!({
        "enableMeshPodAddressability": config.enable_mesh_pod_addressability,
        "internalEncryption": config.internal_encryption,
        "meshCompatibilityMode": config.mesh_compatibility_mode.as_str(),
        "systemInternalTLS": tls,
        "systemInternalTLSEnabled": config.system_internal_tls,
    })
}

/// Written and read back, so that both directions are compared.
fn observability(config: &Observability) -> Value {
    let read = Observability::from_json(&config.to_json());
    match read {
        // An empty template is left out of the JSON, so it comes back as the default.
        Ok(read) if read == *config || config.request_log_template.is_empty() => {
            json!({ "json": config.to_json() })
        }
        other => json!({ "json": format!("{other:?}") }),
    }
}

fn logging(config: &Logging) -> Value {
    let levels: Map<_, _> = config
        .levels
        .iter()
        .map(|(component, level)| (component.clone(), json!(level.as_str())))
        .collect();
    json!({ "levels": levels, "loggingConfig": config.zap_config })
}
