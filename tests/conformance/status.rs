//! Family `status`.

use autoscaler::plan::compute_active;
use autoscaler::pod_autoscaler::{MetricStatus, ServerlessService, ServerlessServiceSpec};
use serde_json::{Value, json};
use serving::UnixTime;
use serving::condition::{ConditionSet, ConditionStatus, Conditions, READY};

use super::Verdict;
use super::decider::{pod_autoscaler, settings};

const IDLE_PERIOD_NS: i64 = 2_000_000_000;
const NETWORK_CONFIGURED: &str = "NetworkConfigured";
const LOAD_BALANCER_READY: &str = "LoadBalancerReady";
const INGRESS_CONDITIONS: ConditionSet =
    ConditionSet::living(&[NETWORK_CONFIGURED, LOAD_BALANCER_READY]);

pub(crate) fn replay(case: &Value) -> Verdict {
    let got = match case["kind"].as_str() {
        Some("podAutoscaler") => pod_autoscaler_states(case),
        Some("metric") => metric_states(case),
        Some("serverlessService") => serverless_service_states(case),
        Some("ingress") => ingress_states(case),
        other => Err(other.unwrap_or("status").to_owned()),
    };
    got.map_or_else(Verdict::Missing, |got| Verdict::of(case, got))
}

/// One operation: its name, its arguments, and the second at which it is executed.
struct Op<'a> {
    name: &'a str,
    arguments: &'a [Value],
    now: UnixTime,
}

impl Op<'_> {
    fn text(&self, index: usize) -> String {
        let argument = self.arguments.get(index).and_then(Value::as_str);
        argument.unwrap_or_default().to_owned()
    }

    fn number(&self, index: usize) -> i64 {
        let argument = self.arguments.get(index).and_then(Value::as_i64);
        argument.unwrap_or_default()
    }
}

/// Applies each operation and collects the state after it; the unknown one's name otherwise.
fn states(case: &Value, mut apply: impl FnMut(&Op<'_>) -> Option<Value>) -> Result<Value, String> {
    let ops = case["ops"].as_array().map_or(&[][..], Vec::as_slice);
    let mut got = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        let parts = op.as_array().map_or(&[][..], Vec::as_slice);
        let (name, arguments) = parts.split_first().ok_or("empty op")?;
        let op = Op {
            name: name.as_str().unwrap_or_default(),
            arguments,
            now: UnixTime::from_seconds(index as i64 + 1),
        };
        got.push(apply(&op).ok_or_else(|| format!("op {name}"))?);
    }
    Ok(Value::Array(got))
}

fn list(conditions: &Conditions) -> Value {
    conditions
        .iter()
        .map(|condition| {
            json!({
                "type": condition.type_,
                "status": condition.status.as_str(),
                "severity": condition.severity.as_str(),
                "reason": condition.reason,
                "message": condition.message,
                "ltt": condition.last_transition_time.seconds(),
            })
        })
        .collect()
}

fn pod_autoscaler_states(case: &Value) -> Result<Value, String> {
    let mut pod_autoscaler = pod_autoscaler(case);
    pod_autoscaler.generation = 0;
    pod_autoscaler.status = Default::default();
    let settings = settings(case, &pod_autoscaler);
    states(case, |op| {
        let status = &mut pod_autoscaler.status;
        match op.name {
            "InitializeConditions" => status.initialize_conditions(op.now),
            "MarkActive" => status.mark_active(op.now),
            "MarkActivating" => status.mark_activating(op.text(0), op.text(1), op.now),
            "MarkInactive" => status.mark_inactive(op.text(0), op.text(1), op.now),
            "MarkScaleTargetInitialized" => status.mark_scale_target_initialized(op.now),
            "MarkSKSReady" => status.mark_sks_ready(op.now),
            "MarkSKSNotReady" => status.mark_sks_not_ready(op.text(0), op.now),
            "MarkResourceNotOwned" => {
                status.mark_resource_not_owned(&op.text(0), &op.text(1), op.now);
            }
            "MarkResourceFailedCreation" => {
                status.mark_resource_failed_creation(&op.text(0), &op.text(1), op.now);
            }
            "SetGenerations" => {
                status.observed_generation = op.number(1);
                pod_autoscaler.generation = op.number(0);
            }
            "SetServiceName" => status.service_name = op.text(0),
            "ComputeActive" => compute_active(
                status,
                &settings,
                op.number(0) as i32,
                op.number(1) as u32,
                op.now,
            ),
            _ => return None,
        }
        let status = &pod_autoscaler.status;
        let since = |wanted| status.active_status_for_ns(wanted, op.now).unwrap_or(-1);
        Some(json!({
            "conditions": list(&status.conditions),
            "isReady": pod_autoscaler.is_ready(),
            "isActive": status.is_active(),
            "isActivating": status.is_activating(),
            "isInactive": status.is_inactive(),
            "isScaleTargetInitialized": status.is_scale_target_initialized(),
            "activeForNs": since(ConditionStatus::True),
            "inactiveForNs": since(ConditionStatus::False),
            "canFailActivation2s": status.can_fail_activation(op.now, IDLE_PERIOD_NS),
            "activeThreshold": settings.active_threshold(status.is_scale_target_initialized()),
        }))
    })
}

fn metric_states(case: &Value) -> Result<Value, String> {
    let mut status = MetricStatus::default();
    let mut generation = 0;
    states(case, |op| {
        match op.name {
            "InitializeConditions" => status.initialize_conditions(op.now),
            "MarkMetricReady" => status.mark_ready(op.now),
            "MarkMetricNotReady" => status.mark_not_ready(op.text(0), op.text(1), op.now),
            "MarkMetricFailed" => status.mark_failed(op.text(0), op.text(1), op.now),
            "SetGenerations" => {
                generation = op.number(0);
                status.observed_generation = op.number(1);
            }
            _ => return None,
        }
        Some(json!({
            "conditions": list(&status.conditions),
            "isReady": status.is_ready(generation),
        }))
    })
}

fn serverless_service_states(case: &Value) -> Result<Value, String> {
    let mut sks = ServerlessService {
        id: serving::RevisionId::new("default", "sks"),
        generation: 0,
        controller_uid: None,
        spec: ServerlessServiceSpec::default(),
        status: Default::default(),
    };
    states(case, |op| {
        let status = &mut sks.status;
        match op.name {
            "InitializeConditions" => status.initialize_conditions(op.now),
            "MarkEndpointsReady" => status.mark_endpoints_ready(op.now),
            "MarkEndpointsNotReady" => status.mark_endpoints_not_ready(op.text(0), op.now),
            "MarkEndpointsNotOwned" => {
                status.mark_endpoints_not_owned(&op.text(0), &op.text(1), op.now);
            }
            "MarkActivatorEndpointsPopulated" => {
                status.mark_activator_endpoints_populated(true, op.now);
            }
            "MarkActivatorEndpointsRemoved" => {
                status.mark_activator_endpoints_populated(false, op.now);
            }
            "SetGenerations" => {
                status.observed_generation = op.number(1);
                sks.generation = op.number(0);
            }
            _ => return None,
        }
        Some(json!({
            "conditions": list(&sks.status.conditions),
            "isReady": sks.is_ready(),
            "proxyForNs": sks.status.proxy_for_ns(op.now),
        }))
    })
}

fn ingress_states(case: &Value) -> Result<Value, String> {
    const SET: ConditionSet = INGRESS_CONDITIONS;
    let mut conditions = Conditions::new();
    let (mut generation, mut observed_generation) = (0, 0);
    let (mut public, mut private) = (None, None);
    states(case, |op| {
        let (list_of, now) = (&mut conditions, op.now);
        match op.name {
            "InitializeConditions" => SET.initialize(list_of, now),
            "MarkNetworkConfigured" => SET.mark_true(list_of, NETWORK_CONFIGURED, now),
            "MarkResourceNotOwned" => {
                let (kind, name) = (op.text(0), op.text(1));
                let message = format!("There is an existing {kind} {name:?} that we do not own.");
                SET.mark_false(list_of, NETWORK_CONFIGURED, "NotOwned", message, now);
            }
            "MarkLoadBalancerReady" => {
                (public, private) = (Some(op.text(0)), Some(op.text(1)));
                SET.mark_true(list_of, LOAD_BALANCER_READY, now);
            }
            "MarkLoadBalancerNotReady" => {
                let message = "Waiting for load balancer to be ready";
                SET.mark_unknown(list_of, LOAD_BALANCER_READY, "Uninitialized", message, now);
            }
            "MarkLoadBalancerFailed" => {
                let (reason, message) = (op.text(0), op.text(1));
                SET.mark_false(list_of, LOAD_BALANCER_READY, reason, message, now);
            }
            "MarkIngressNotReady" => {
                SET.mark_unknown(list_of, READY, op.text(0), op.text(1), now);
            }
            "SetGenerations" => {
                (generation, observed_generation) = (op.number(0), op.number(1));
            }
            _ => return None,
        }
        Some(json!({
            "conditions": list(&conditions),
            "isReady": generation == observed_generation && conditions.is_true(READY),
            "publicLoadBalancer": public,
            "privateLoadBalancer": private,
        }))
    })
}
