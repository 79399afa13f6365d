//! From watched objects to updates. Synchronous: objects in, updates out.
//!
//! Pods are kept by revision with the few fields that matter, so that no decision lists a namespace.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{NotUsed, Object};
use serde::Deserialize;
use serving::{RevisionId, UnixTime};

use super::objects::id_of;
use crate::plan::ScaleTarget;
use crate::pod_autoscaler::{PodAutoscaler, REVISION_LABEL, ScaleTargetRef};
use crate::pods::{Pod, PodPhase};
use crate::world::{RevisionPod, Update};

/// The class annotation, which must name this autoscaler exactly.
pub(super) const CLASS_ANNOTATION: &str = "autoscaling.knative.dev/class";
const KPA: &str = "kpa.autoscaling.knative.dev";

/// A Pod as it is watched: what is not needed is not even kept for a moment.
pub(super) type PodObject = Object<NotUsed, PodStatus>;

/// `status` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    start_time: Option<Time>,
    conditions: Option<Vec<PodCondition>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

/// A scale target as it is watched.
pub(super) type TargetObject = Object<TargetSpec, NotUsed>;

/// `spec` of a scale target.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TargetSpec {
    pub(super) replicas: Option<i32>,
}

/// The pods of all revisions.
#[derive(Debug)]
pub(super) struct Pods {
    /// The port of a pod's statistics.
    port: u16,
    revisions: HashMap<RevisionId, BTreeMap<String, RevisionPod>>,
}

/// A kind of scale target. What is watched, is watched by kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TargetKind {
    pub(super) api_version: String,
    pub(super) kind: String,
}

/// Scale targets, and the revisions that scale them.
#[derive(Debug, Default)]
pub(super) struct Targets {
    kinds: HashMap<TargetKind, KnownTargets>,
    /// By kind, and namespace and name of the target.
    owners: HashMap<(TargetKind, RevisionId), RevisionId>,
    owned: HashMap<RevisionId, (TargetKind, RevisionId)>,
}

/// The targets of one kind.
#[derive(Debug, Default)]
struct KnownTargets {
    replicas: HashMap<RevisionId, Option<i32>>,
    /// Whether all have been listed, so that one that is not here does not exist.
    complete: bool,
}

/// Whether an object carries the class of this autoscaler. An absent annotation does not count,
/// although the class is the default.
pub(super) fn is_kpa(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(CLASS_ANNOTATION))
        .is_some_and(|class| class == KPA)
}

// === impl Pods ===

impl Pods {
    pub(super) fn new(port: u16) -> Self {
        Self {
            port,
            revisions: HashMap::new(),
        }
    }

    pub(super) fn apply(&mut self, pod: &PodObject) -> Option<Update> {
        let (revision, name) = place(&pod.metadata)?;
        let pods = self.revisions.entry(revision.clone()).or_default();
        let projected = project(pod, self.port);
        if pods.insert(name, projected) == Some(projected) {
            return None;
        }
        Some(Update::Pods(revision, pods.values().copied().collect()))
    }

    pub(super) fn delete(&mut self, metadata: &ObjectMeta) -> Option<Update> {
        let (revision, name) = place(metadata)?;
        let pods = self.revisions.get_mut(&revision)?;
        pods.remove(&name)?;
        let left = pods.values().copied().collect::<Vec<_>>();
        if left.is_empty() {
            self.revisions.remove(&revision);
        }
        Some(Update::Pods(revision, left))
    }

    /// Replaces everything, as after a watch that had to begin anew.
    pub(super) fn replace(&mut self, pods: &[PodObject]) -> Vec<Update> {
        let mut new = Self::new(self.port);
        for pod in pods {
            new.apply(pod);
        }
        let gone = self.revisions.keys();
        let gone = gone.filter(|revision| !new.revisions.contains_key(*revision));
        let mut updates: Vec<_> = gone
            .map(|revision| Update::Pods(revision.clone(), Vec::new()))
            .collect();
        for (revision, pods) in &new.revisions {
            if self.revisions.get(revision) != Some(pods) {
                let pods = pods.values().copied().collect();
                updates.push(Update::Pods(revision.clone(), pods));
            }
        }
        *self = new;
        updates
    }
}

/// The revision a pod belongs to, and the pod's name.
fn place(metadata: &ObjectMeta) -> Option<(RevisionId, String)> {
    let revision = metadata.labels.as_ref()?.get(REVISION_LABEL)?;
    let namespace = metadata.namespace.clone()?;
    Some((
        RevisionId::new(namespace, revision.clone()),
        metadata.name.clone()?,
    ))
}

fn project(pod: &PodObject, port: u16) -> RevisionPod {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let is_ready =
        |condition: &PodCondition| condition.type_ == "Ready" && condition.status == "True";
    let ip = status
        .and_then(|status| status.pod_ip.as_deref())
        .and_then(|ip| ip.parse::<IpAddr>().ok());
    RevisionPod {
        pod: Pod {
            phase: status
                .and_then(|status| status.phase.as_deref())
                .map_or(PodPhase::Pending, PodPhase::parse),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            ready: conditions.is_some_and(|all| all.iter().any(is_ready)),
            start_time: status
                .and_then(|status| status.start_time.as_ref())
                .map(|time| UnixTime::from_seconds(time.0.as_second())),
            ip,
        },
        stats: ip.map(|ip| SocketAddr::new(ip, port)),
    }
}

// === impl TargetKind ===

impl TargetKind {
    pub(super) fn of(target: &ScaleTargetRef) -> Self {
        Self {
            api_version: target.api_version.clone(),
            kind: target.kind.clone(),
        }
    }

    /// Group and version.
    pub(super) fn group_version(&self) -> (&str, &str) {
        self.api_version
            .split_once('/')
            .unwrap_or(("", &self.api_version))
    }

    /// The resource's name in paths, by the rule that Knative uses for any kind
    /// (`meta.UnsafeGuessKindToResource`).
    pub(super) fn plural(&self) -> String {
        let lower = self.kind.to_lowercase();
        let ending = if lower.ends_with('s') { "es" } else { "s" };
        lower + ending
    }
}

// === impl Targets ===

impl Targets {
    /// Notes what a PodAutoscaler scales. Returns the kind if nobody watches it yet, and what is
    /// known of the target.
    pub(super) fn own(&mut self, object: &PodAutoscaler) -> (Option<TargetKind>, Option<Update>) {
        let target = &object.spec.scale_target_ref;
        let kind = TargetKind::of(target);
        let name = RevisionId::new(object.id.namespace.clone(), target.name.clone());
        let place = (kind.clone(), name);
        if self.owned.get(&object.id) == Some(&place) {
            return (None, None);
        }
        self.disown(&object.id);
        self.owners.insert(place.clone(), object.id.clone());
        self.owned.insert(object.id.clone(), place.clone());
        match self.kinds.get(&kind) {
            Some(known) if known.complete => (None, Some(known.update(&object.id, &place.1))),
            Some(_) => (None, None),
            None => {
                self.kinds.insert(kind.clone(), KnownTargets::default());
                (Some(kind), None)
            }
        }
    }

    /// The PodAutoscaler is gone.
    pub(super) fn disown(&mut self, id: &RevisionId) -> Option<Update> {
        let place = self.owned.remove(id)?;
        self.owners.remove(&place);
        Some(Update::ScaleTarget(id.clone(), None))
    }

    pub(super) fn apply(
        &mut self,
        kind: &TargetKind,
        metadata: &ObjectMeta,
        replicas: Option<i32>,
    ) -> Option<Update> {
        let name = id_of(metadata);
        let known = self.kinds.entry(kind.clone()).or_default();
        if known.replicas.insert(name.clone(), replicas) == Some(replicas) {
            return None;
        }
        self.update(kind, name)
    }

    pub(super) fn delete(&mut self, kind: &TargetKind, metadata: &ObjectMeta) -> Option<Update> {
        let name = id_of(metadata);
        self.kinds.get_mut(kind)?.replicas.remove(&name)?;
        self.update(kind, name)
    }

    /// Replaces all targets of a kind; everybody who scales one is told.
    pub(super) fn replace<'a>(
        &mut self,
        kind: &TargetKind,
        targets: impl Iterator<Item = (&'a ObjectMeta, Option<i32>)>,
    ) -> Vec<Update> {
        let known = KnownTargets {
            replicas: targets
                .map(|(metadata, replicas)| (id_of(metadata), replicas))
                .collect(),
            complete: true,
        };
        let owners = self.owners.iter().filter(|((of, _), _)| of == kind);
        let updates = owners
            .map(|((_, name), owner)| known.update(owner, name))
            .collect();
        self.kinds.insert(kind.clone(), known);
        updates
    }

    fn update(&self, kind: &TargetKind, name: RevisionId) -> Option<Update> {
        let known = self.kinds.get(kind).filter(|known| known.complete)?;
        let owner = self.owners.get(&(kind.clone(), name.clone()))?;
        Some(known.update(owner, &name))
    }
}

// === impl KnownTargets ===

impl KnownTargets {
    fn update(&self, owner: &RevisionId, name: &RevisionId) -> Update {
        let replicas = self.replicas.get(name);
        let target = replicas.map(|replicas| ScaleTarget {
            replicas: *replicas,
        });
        Update::ScaleTarget(owner.clone(), target)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ready: &str, ip: &str) -> PodObject {
        serde_json::from_value(json!({
            "spec": {},
            "metadata": {
                "namespace": "default", "name": name,
                "labels": {"serving.knative.dev/revision": "hello-00001"}
            },
            "status": {
                "phase": "Running", "podIP": ip, "startTime": "2026-08-01T10:00:00Z",
                "conditions": [{"type": "Ready", "status": ready}]
            }
        }))
        .unwrap()
    }

    fn pods_of(update: Option<Update>) -> Vec<RevisionPod> {
        match update {
            Some(Update::Pods(revision, pods)) => {
                assert_eq!(revision, RevisionId::new("default", "hello-00001"));
                pods
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pods_are_told_by_revision_and_only_when_something_matters() {
        let mut index = Pods::new(9090);
        let told = pods_of(index.apply(&pod("a", "False", "10.0.0.1")));
        assert!(!told[0].pod.is_ready());
        assert_eq!(told[0].stats, Some("10.0.0.1:9090".parse().unwrap()));
        assert!(index.apply(&pod("a", "False", "10.0.0.1")).is_none());
        assert!(
            pods_of(index.apply(&pod("a", "True", "10.0.0.1")))[0]
                .pod
                .is_ready()
        );
        assert_eq!(pods_of(index.apply(&pod("b", "True", "fd00::1"))).len(), 2);
        assert_eq!(
            pods_of(index.delete(&pod("a", "True", "").metadata)).len(),
            1
        );
        assert!(index.delete(&pod("a", "True", "").metadata).is_none());
        let updates = index.replace(&[]);
        assert_eq!(updates.len(), 1);
        assert_eq!(pods_of(updates.into_iter().next()), []);
    }

    #[test]
    fn resources_are_named_by_the_simple_rule() {
        let plural = |kind: &str| {
            TargetKind {
                api_version: "apps/v1".to_owned(),
                kind: kind.to_owned(),
            }
            .plural()
        };
        assert_eq!(plural("Deployment"), "deployments");
        assert_eq!(plural("Compass"), "compasses");
    }

    #[test]
    fn a_target_is_told_to_whoever_scales_it_in_either_order() {
        let mut object = PodAutoscaler {
            id: RevisionId::new("default", "hello-00001"),
            uid: String::new(),
            generation: 1,
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            spec: Default::default(),
            status: Default::default(),
        };
        object.spec.scale_target_ref = ScaleTargetRef {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: "d".to_owned(),
        };
        let kind = TargetKind::of(&object.spec.scale_target_ref);
        let mut targets = Targets::default();
        let (to_watch, update) = targets.own(&object);
        assert_eq!((to_watch, update.is_none()), (Some(kind.clone()), true));
        let metadata = ObjectMeta {
            namespace: Some("default".to_owned()),
            name: Some("d".to_owned()),
            ..ObjectMeta::default()
        };
        let replicas = |update: Option<Update>| match update {
            Some(Update::ScaleTarget(id, target)) => {
                assert_eq!(id, RevisionId::new("default", "hello-00001"));
                target.map(|target| target.replicas)
            }
            other => panic!("{other:?}"),
        };
        // Until all are listed, one that is missing may exist.
        assert!(targets.apply(&kind, &metadata, Some(2)).is_none());
        let told = targets.replace(&kind, std::iter::empty());
        assert_eq!(replicas(told.into_iter().next()), None);
        assert_eq!(
            replicas(targets.apply(&kind, &metadata, Some(3))),
            Some(Some(3))
        );
        assert!(targets.apply(&kind, &metadata, Some(3)).is_none());
        assert_eq!(replicas(targets.disown(&object.id)), None);
        let (to_watch, update) = targets.own(&object);
        assert_eq!(to_watch, None);
        assert_eq!(replicas(update), Some(Some(3)));
        assert_eq!(replicas(targets.delete(&kind, &metadata)), None);
    }
}
