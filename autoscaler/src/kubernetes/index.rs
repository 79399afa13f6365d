//! From watched objects to updates. Synchronous: objects in, updates out.
//!
//! Pods are kept by revision with the few fields that matter, so that no decision lists a namespace.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{NotUsed, Object};
use serde::Deserialize;
use serving::{RevisionId, UnixTime};
use smallvec::SmallVec;

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
    revisions: HashMap<RevisionId, NamedPods>,
}

/// The pods of one revision, by name; mostly there is one.
#[derive(Debug, Default, PartialEq)]
struct NamedPods(SmallVec<[(Box<str>, RevisionPod); 1]>);

/// A kind of scale target. What is watched, is watched by kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TargetKind {
    pub(super) api_version: String,
    pub(super) kind: String,
}

/// Scale targets, and the revisions that scale them.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// One or two.
    kinds: Vec<(TargetKind, KnownTargets)>,
    /// By revision: the position of the kind, and the target's name.
    owned: HashMap<RevisionId, (usize, Box<str>)>,
}

/// The targets of one kind.
#[derive(Debug, Default)]
struct KnownTargets {
    /// By namespace and name; those that exist or are scaled.
    targets: HashMap<RevisionId, KnownTarget>,
    /// Whether all have been listed, so that one that is not here does not exist.
    complete: bool,
}

#[derive(Debug, Default)]
struct KnownTarget {
    /// The name of the revision that scales it, which is of the same namespace.
    owner: Option<Box<str>>,
    /// `None` while it does not exist.
    observed: Option<ScaleTarget>,
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
        let projected = project(pod, self.port);
        let pods = self.revisions.entry(revision.clone()).or_default();
        if pods.insert(name, projected) == Some(projected) {
            return None;
        }
        Some(Update::Pods(revision, pods.all()))
    }

    pub(super) fn delete(&mut self, metadata: &ObjectMeta) -> Option<Update> {
        let (revision, name) = place(metadata)?;
        let pods = self.revisions.get_mut(&revision)?;
        pods.remove(&name)?;
        let left = pods.all();
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
                updates.push(Update::Pods(revision.clone(), pods.all()));
            }
        }
        *self = new;
        updates
    }
}

// === impl NamedPods ===

impl NamedPods {
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(of, _)| (**of).cmp(name))
    }

    /// Returns what was there before.
    fn insert(&mut self, name: String, pod: RevisionPod) -> Option<RevisionPod> {
        match self.position(&name) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, pod)),
            Err(at) => {
                self.0.insert(at, (name.into(), pod));
                None
            }
        }
    }

    fn remove(&mut self, name: &str) -> Option<RevisionPod> {
        let at = self.position(name).ok()?;
        Some(self.0.remove(at).1)
    }

    fn all(&self) -> Vec<RevisionPod> {
        self.0.iter().map(|(_, pod)| *pod).collect()
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
        let reference = &object.spec.scale_target_ref;
        let kind = TargetKind::of(reference);
        let present = self.position(&kind);
        let owned = self.owned.get(&object.id);
        if owned.is_some_and(|(at, name)| Some(*at) == present && **name == *reference.name) {
            return (None, None);
        }
        self.disown(&object.id);
        let at = present.unwrap_or_else(|| {
            self.kinds.push((kind.clone(), KnownTargets::default()));
            self.kinds.len() - 1
        });
        let name = reference.name.clone().into_boxed_str();
        self.owned.insert(object.id.clone(), (at, name));
        let known = &mut self.kinds[at].1;
        let place = RevisionId::new(object.id.namespace.clone(), reference.name.clone());
        let target = known.targets.entry(place).or_default();
        target.owner = Some(object.id.name.clone().into());
        let update = Update::ScaleTarget(object.id.clone(), target.observed);
        let update = known.complete.then_some(update);
        (present.is_none().then_some(kind), update)
    }

    /// The PodAutoscaler is gone.
    pub(super) fn disown(&mut self, id: &RevisionId) -> Option<Update> {
        let (at, name) = self.owned.remove(id)?;
        let place = RevisionId::new(id.namespace.clone(), name.into_string());
        let targets = &mut self.kinds[at].1.targets;
        if let Some(target) = targets.get_mut(&place)
            && target.owner.as_deref() == Some(&id.name)
        {
            target.owner = None;
            if target.observed.is_none() {
                targets.remove(&place);
            }
        }
        Some(Update::ScaleTarget(id.clone(), None))
    }

    pub(super) fn apply(
        &mut self,
        kind: &TargetKind,
        metadata: &ObjectMeta,
        replicas: Option<i32>,
    ) -> Option<Update> {
        self.observe(kind, id_of(metadata), Some(ScaleTarget { replicas }))
    }

    pub(super) fn delete(&mut self, kind: &TargetKind, metadata: &ObjectMeta) -> Option<Update> {
        self.observe(kind, id_of(metadata), None)
    }

    /// Replaces all targets of a kind; everybody who scales one is told.
    pub(super) fn replace<'a>(
        &mut self,
        kind: &TargetKind,
        targets: impl Iterator<Item = (&'a ObjectMeta, Option<i32>)>,
    ) -> Vec<Update> {
        let Some(at) = self.position(kind) else {
            return Vec::new();
        };
        let known = &mut self.kinds[at].1;
        known.complete = true;
        known.targets.retain(|_, target| {
            target.observed = None;
            target.owner.is_some()
        });
        for (metadata, replicas) in targets {
            let target = known.targets.entry(id_of(metadata)).or_default();
            target.observed = Some(ScaleTarget { replicas });
        }
        let targets = known.targets.iter();
        targets
            .filter_map(|(place, target)| target.update(&place.namespace))
            .collect()
    }

    /// Notes what there is of a target now; its owner is told of a change.
    fn observe(
        &mut self,
        kind: &TargetKind,
        place: RevisionId,
        observed: Option<ScaleTarget>,
    ) -> Option<Update> {
        let at = self.position(kind)?;
        let known = &mut self.kinds[at].1;
        let target = known.targets.entry(place.clone()).or_default();
        let changed = std::mem::replace(&mut target.observed, observed) != observed;
        let update = target.update(&place.namespace);
        if target.owner.is_none() && observed.is_none() {
            known.targets.remove(&place);
        }
        update.filter(|_| changed && known.complete)
    }

    fn position(&self, kind: &TargetKind) -> Option<usize> {
        self.kinds.iter().position(|(of, _)| of == kind)
    }
}

// === impl KnownTarget ===

impl KnownTarget {
    /// What its owner is to be told, if it has one.
    fn update(&self, namespace: &str) -> Option<Update> {
        let owner = RevisionId::new(namespace.to_owned(), self.owner.as_deref()?.to_owned());
        Some(Update::ScaleTarget(owner, self.observed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
