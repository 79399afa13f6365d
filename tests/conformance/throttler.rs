//! Family `throttler`.

use std::collections::HashMap;
use std::sync::Arc;

use activator::capacity::{assign, capacity, infer_index};
use activator::endpoints::{Address, Endpoints, Port, Subset};
use activator::picker::{Candidate, Policy};
use activator::pod_tracker::PodTracker;
use activator::trackers::{Trackers, Usable};
use serde_json::{Value, json};

use super::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    let got = match case["kind"].as_str() {
        Some("capacity") => json!(capacity(
            number(&case["containerConcurrency"]) as u32,
            number(&case["backends"]),
            number(&case["trackers"]),
            // The reference has a case with a count below zero, which it treats as unknown.
            usize::try_from(case["activators"].as_i64().unwrap()).unwrap_or(0),
        )),
        Some("assign") => json!(
            assign(
                number(&case["trackers"]),
                usize::try_from(case["index"].as_i64().unwrap()).ok(),
                number(&case["activators"]),
            )
            .positions()
            .collect::<Vec<_>>()
        ),
        Some("inferIndex") => {
            let addresses: Vec<_> = texts(&case["addresses"]);
            index_or_minus_one(infer_index(&addresses, case["self"].as_str().unwrap()))
        }
        Some("endpoints") => endpoints(case),
        Some("sequence") => sequence(case),
        Some("lb") => lb(case),
        other => return Verdict::Missing(other.unwrap_or("throttler").to_owned()),
    };
    Verdict::of(case, got)
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

fn index_or_minus_one(index: Option<usize>) -> Value {
    index.map_or(json!(-1), |index| json!(index))
}

fn endpoints(case: &Value) -> Value {
    let endpoints: Endpoints = serde_json::from_value(case["endpoints"].clone()).unwrap();
    let port = case["portName"].as_str().unwrap();
    let found = endpoints.destinations(port);
    json!({
        "ready": found.ready,
        "notReady": found.not_ready,
        "healthyAddresses": endpoints.healthy_addresses(port),
    })
}

/// A revision throttler's destinations, without the waiting.
fn sequence(case: &Value) -> Value {
    let mut trackers = Trackers::new(number(&case["containerConcurrency"]) as u32);
    let mut held: Vec<Arc<PodTracker>> = Vec::new();
    let port = case["portName"].as_str().unwrap();
    let own = case["self"].as_str().unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let ops = case["ops"].as_array().unwrap();
    let states = ops.iter().map(|op| {
        let mut result = None;
        match op[0].as_str().unwrap() {
            "update" => trackers.update(&usable(&op[1], &op[2])),
            "activators" => {
                let addresses = activators(&op[1], &op[2]).healthy_addresses(port);
                let addresses: Vec<_> = addresses.into_iter().collect();
                trackers.public_endpoints(&addresses, own);
            }
            // The reference asks for a destination without asking the revision's breaker first.
            "acquire" => {
                let found = trackers.acquire_unchecked(|n| random.usize(..n));
                result = Some(found.as_ref().map_or(json!("none"), |tracker| {
                    json!([tracker.text(), tracker.is_cluster_ip()])
                }));
                held.extend(found);
            }
            "release" => held[number(&op[1])].release(),
            other => panic!("unknown op {other}"),
        }
        state(&trackers, number(&case["containerConcurrency"]), result)
    });
    Value::Array(states.collect())
}

fn usable(cluster_ip: &Value, dests: &Value) -> Usable {
    let dests: Vec<_> = texts(dests)
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    match cluster_ip.as_str().unwrap() {
        "" => Usable::Pods(dests),
        dest => Usable::ClusterIp {
            dest: dest.parse().unwrap(),
            backends: dests.len(),
        },
    }
}

fn activators(port_name: &Value, ips: &Value) -> Endpoints {
    let address = |ip: &&str| Address {
        ip: (*ip).to_owned(),
    };
    Endpoints {
        subsets: vec![Subset {
            addresses: texts(ips).iter().map(address).collect(),
            not_ready_addresses: Vec::new(),
            ports: vec![Port {
                name: port_name.as_str().unwrap().to_owned(),
                port: 8012,
            }],
        }],
    }
}

fn state(trackers: &Trackers, container_concurrency: usize, result: Option<Value>) -> Value {
    // The gate of an unlimited revision is open or closed.
    let capacity = match container_concurrency {
        0 => u64::from(trackers.capacity() > 0),
        _ => trackers.capacity(),
    };
    let mut state = json!({
        "capacity": capacity,
        "numActivators": trackers.activators(),
        "index": index_or_minus_one(trackers.index()),
        "backends": trackers.backends(),
        "clusterIP": trackers.cluster_ip().map_or("", |tracker| tracker.text()),
    });
    if trackers.cluster_ip().is_none() {
        let assigned = trackers.assigned();
        let names: Vec<_> = assigned.iter().map(|tracker| tracker.text()).collect();
        state["assigned"] = json!(names);
        // A pod without a limit counts as one in the reference's listing.
        let slots = |tracker: &Arc<PodTracker>| match tracker.capacity() {
            u32::MAX => 1,
            slots => slots,
        };
        state["trackerCapacity"] = json!(assigned.iter().map(slots).collect::<Vec<_>>());
    }
    if let Some(result) = result {
        state["result"] = result;
    }
    state
}

/// A tracker as the policies see it; its state outlives its place among the targets.
#[derive(Clone, Default)]
struct Target {
    name: String,
    used: usize,
    slots: Option<usize>,
    weight: u32,
}

impl Candidate for Target {
    fn has_free_slot(&self) -> bool {
        self.slots.is_none_or(|slots| self.used < slots)
    }

    fn weight(&self) -> u32 {
        self.weight
    }
}

fn lb(case: &Value) -> Value {
    let mut policy = match case["policy"].as_str().unwrap() {
        "firstAvailable" => Policy::FirstAvailable,
        "roundRobin" => Policy::RoundRobin { next: 0 },
        "randomChoice2" => Policy::RandomChoice2,
        other => panic!("unknown policy {other}"),
    };
    let by_weight = policy == Policy::RandomChoice2;
    let slots = match number(&case["trackerConcurrency"]) {
        0 => None,
        slots => Some(slots),
    };
    let mut known: HashMap<String, Target> = HashMap::new();
    let mut targets: Vec<String> = Vec::new();
    let mut picked: Vec<String> = Vec::new();
    let ops = case["ops"].as_array().unwrap();
    let answers = ops.iter().map(|op| {
        let named = |at: usize| op[at].as_str().unwrap().to_owned();
        match op[0].as_str().unwrap() {
            "targets" => {
                targets = texts(&op[1]).into_iter().map(str::to_owned).collect();
                for name in &targets {
                    known.entry(name.clone()).or_insert_with(|| Target {
                        name: name.clone(),
                        slots,
                        ..Target::default()
                    });
                }
            }
            "pick" => {
                let list: Vec<_> = targets.iter().map(|name| known[name].clone()).collect();
                let chosen = policy.pick(&list, |_| panic!("no vector has a random choice"));
                let Some(at) = chosen else { return json!("") };
                let name = list[at].name.clone();
                let target = known.get_mut(&name).unwrap();
                if by_weight {
                    target.weight += 1;
                } else {
                    target.used += 1;
                }
                picked.push(name.clone());
                return json!(name);
            }
            "release" => {
                let target = known.get_mut(&picked[number(&op[1])]).unwrap();
                if by_weight {
                    target.weight -= 1;
                } else {
                    target.used -= 1;
                }
            }
            "capacity" => known.get_mut(&named(1)).unwrap().slots = Some(number(&op[2])),
            "weight" => known.get_mut(&named(1)).unwrap().weight = number(&op[2]) as u32,
            other => panic!("unknown op {other}"),
        }
        Value::Null
    });
    Value::Array(answers.collect())
}
