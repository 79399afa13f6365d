//! What is written into an Ingress's status.
//!
//! Pure: the status as it is and what is known now go in, the status to write comes out, if it is
//! another one. All replicas come to the same text, so it does not matter who writes it. Upstream:
//! `ingress_lifecycle.go` of knative.dev/networking and `knative.dev/pkg/apis/condition_set.go`.

use serde::{Deserialize, Serialize};

const NETWORK_CONFIGURED: &str = "NetworkConfigured";
const LOAD_BALANCER_READY: &str = "LoadBalancerReady";
const READY: &str = "Ready";

/// What is known of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some replica does not serve it yet.
    Waiting,
    /// Every replica serves it.
    Ready,
    /// It cannot be served.
    Failed {
        /// In one word.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

/// `status` as far as it is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The generation it speaks of.
    pub observed_generation: i64,
    /// By type.
    pub conditions: Vec<Condition>,
    /// How it is reached from anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_load_balancer: Option<LoadBalancer>,
    /// How it is reached from within the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_load_balancer: Option<LoadBalancer>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// In one word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// RFC 3339.
    pub last_transition_time: String,
}

/// Where an entry is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Exactly one: a Route takes no more.
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One address of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// The entry's Service, by its name within the cluster.
    pub domain_internal: String,
}

/// The entries' Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// Reached from anywhere.
    pub public: String,
    /// Reached from within the cluster.
    pub private: String,
}

/// The status to write, unless `now_is` says it all already. `now` is RFC 3339.
pub fn next(
    now_is: &Status,
    generation: i64,
    verdict: &Verdict,
    entries: &Entries,
    now: &str,
) -> Option<Status> {
    let configured = ("True", "", String::new());
    let load_balancer = match verdict {
        Verdict::Ready => ("True", "", String::new()),
        Verdict::Waiting => {
            let message = "Waiting for load balancer to be ready";
            ("Unknown", "Uninitialized", message.to_owned())
        }
        Verdict::Failed { reason, message } => ("False", *reason, message.clone()),
    };
    // The other one is always fine, so this is the conjunction.
    let ready = load_balancer.clone();
    let all = [
        (LOAD_BALANCER_READY, load_balancer),
        (NETWORK_CONFIGURED, configured),
        (READY, ready),
    ];
    let conditions = all.map(|(kind, (status, reason, message))| {
        let mut condition = Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: now.to_owned(),
        };
        // The time is that of the last real change.
        let before = now_is.conditions.iter().find(|it| it.kind == kind);
        if let Some(before) = before {
            let time = std::mem::replace(
                &mut condition.last_transition_time,
                before.last_transition_time.clone(),
            );
            if condition != *before {
                condition.last_transition_time = time;
            }
        }
        condition
    });
    let at = |domain: &str| {
        Some(LoadBalancer {
            ingress: vec![LoadBalancerIngress {
                domain_internal: domain.to_owned(),
            }],
        })
    };
    let (public, private) = match verdict {
        Verdict::Ready => (at(&entries.public), at(&entries.private)),
        // Whoever uses them goes on doing so.
        _ => (
            now_is.public_load_balancer.clone(),
            now_is.private_load_balancer.clone(),
        ),
    };
    let next = Status {
        observed_generation: generation,
        conditions: conditions.into(),
        public_load_balancer: public,
        private_load_balancer: private,
    };
    (next != *now_is).then_some(next)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entries() -> Entries {
        Entries {
            public: "gateway.knative-serving.svc.cluster.local".to_owned(),
            private: "gateway-internal.knative-serving.svc.cluster.local".to_owned(),
        }
    }

    fn statuses(status: &Status) -> Vec<(&str, &str)> {
        let conditions = status.conditions.iter();
        conditions.map(|it| (&*it.kind, &*it.status)).collect()
    }

    #[test]
    fn from_nothing_to_ready_and_to_another_generation() {
        let waiting = next(&Status::default(), 1, &Verdict::Waiting, &entries(), "t1").unwrap();
        assert_eq!(
            statuses(&waiting),
            [
                ("LoadBalancerReady", "Unknown"),
                ("NetworkConfigured", "True"),
                ("Ready", "Unknown")
            ]
        );
        assert_eq!(waiting.conditions[0].reason, "Uninitialized");
        assert_eq!(next(&waiting, 1, &Verdict::Waiting, &entries(), "t2"), None);
        let ready = next(&waiting, 1, &Verdict::Ready, &entries(), "t3").unwrap();
        assert!(ready.conditions.iter().all(|it| it.status == "True"));
        let times: Vec<_> = ready
            .conditions
            .iter()
            .map(|it| &*it.last_transition_time)
            .collect();
        assert_eq!(times, ["t3", "t1", "t3"]);
        // A new generation is not ready until it is, and keeps its addresses meanwhile.
        let again = next(&ready, 2, &Verdict::Waiting, &entries(), "t4").unwrap();
        assert_eq!(again.observed_generation, 2);
        assert_eq!(again.conditions[2].status, "Unknown");
        assert_eq!(again.public_load_balancer, ready.public_load_balancer);
    }

    /// Edge case 68: one address in each list, or the Route has no Service.
    #[test]
    fn edge_case_68_one_address() {
        let ready = next(&Status::default(), 1, &Verdict::Ready, &entries(), "t1").unwrap();
        let json = serde_json::to_value(&ready).unwrap();
        assert_eq!(
            json["privateLoadBalancer"],
            json!({"ingress": [
                {"domainInternal": "gateway-internal.knative-serving.svc.cluster.local"}
            ]})
        );
        assert_eq!(
            json["publicLoadBalancer"]["ingress"][0]["domainInternal"],
            "gateway.knative-serving.svc.cluster.local"
        );
        assert_eq!(
            json["conditions"][0],
            json!({"type": "LoadBalancerReady", "status": "True", "lastTransitionTime": "t1"})
        );
    }

    #[test]
    fn what_cannot_be_served() {
        let failed = Verdict::Failed {
            reason: "HostConflict",
            message: "a belongs to ns/first".to_owned(),
        };
        let status = next(&Status::default(), 1, &failed, &entries(), "t1").unwrap();
        assert_eq!(status.conditions[2].status, "False");
        assert_eq!(status.conditions[2].reason, "HostConflict");
        assert_eq!(status.public_load_balancer, None);
    }
}
