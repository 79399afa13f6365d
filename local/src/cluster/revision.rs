//! One revision on this machine: its objects as a cluster would hold them, and its replicas.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use activator::affinity::Affinity;
use autoscaler::pod_autoscaler::{
    ACTIVE, CONFIGURATION_LABEL, PodAutoscaler, PodAutoscalerSpec, PodAutoscalerStatus,
    REVISION_LABEL, Reachability, SERVICE_LABEL, ScaleTargetRef, ServerlessService,
    ServerlessServiceSpec, ServerlessServiceStatus,
};
use http::HeaderValue;
use serving::annotation::INITIAL_SCALE;
use serving::config::Autoscaler;
use serving::{RevisionId, UnixTime, names};
use tokio::sync::Notify;

use super::replica::Replica;
use crate::manifest::Template;
use crate::service;
use crate::supervisor::back_off::BackOff;

/// A revision; the cluster owns it, replicas and the gateway share it.
#[derive(Debug)]
pub struct Revision {
    /// Namespace and name.
    pub id: RevisionId,
    /// The Service it belongs to.
    pub service: String,
    /// What it is made of.
    pub template: Arc<Template>,
    /// `Knative-Serving-Namespace` and `-Revision` of its requests.
    pub headers: (HeaderValue, HeaderValue),
    /// How requests of a session find their replica; with that, all of them go through the
    /// activator, which knows.
    pub affinity: Option<Affinity>,
    /// Whether requests go through the activator.
    pub proxied: Cell<bool>,
    /// Where requests go otherwise, in no particular order.
    pub ready: RefCell<Vec<Rc<Replica>>>,
    /// Why requests wait or are refused.
    pub trouble: RefCell<Option<Trouble>>,
    /// Tells requests that wait about a change of [`Revision::trouble`].
    pub trouble_changed: Notify,
    /// How its PodAutoscaler is reached by traffic.
    pub reachability: Cell<service::Reachability>,
    /// What the autoscaler wants.
    pub wanted: Cell<u32>,
    /// Replicas by number, those that drain included.
    pub replicas: RefCell<BTreeMap<u64, Rc<Replica>>>,
    /// Exits in a row.
    pub back_off: RefCell<BackOff>,
    /// Whether its Service was removed.
    pub removed: Cell<bool>,
    pub(super) objects: RefCell<Objects>,
}

/// The objects that the autoscaler reads and writes.
#[derive(Debug)]
pub(super) struct Objects {
    generation: i64,
    pub(super) status: PodAutoscalerStatus,
    sks: Option<ServerlessService>,
}

/// What keeps a revision from serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For header, log and status.
    pub reason: String,
    /// Whether requests are refused rather than held.
    pub refuses: bool,
    /// Seconds until another try makes sense.
    pub retry_after: u64,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

// === impl Revision ===

impl Revision {
    /// A revision without replicas; `wanted` is what a controller would write into the Deployment.
    pub fn new(
        id: RevisionId,
        service: &str,
        template: Arc<Template>,
        reachability: service::Reachability,
        config: &Autoscaler,
    ) -> Self {
        let header = |text: &str| {
            HeaderValue::from_str(text).expect("names are DNS labels, which are header values")
        };
        let wanted = match reachability {
            service::Reachability::Unreachable => 0,
            _ => initial_scale(&template, config),
        };
        Self {
            headers: (header(&id.namespace), header(&id.name)),
            id,
            service: service.to_owned(),
            affinity: affinity(&template),
            template,
            proxied: Cell::new(true),
            ready: RefCell::default(),
            trouble: RefCell::default(),
            trouble_changed: Notify::new(),
            reachability: Cell::new(reachability),
            wanted: Cell::new(wanted),
            replicas: RefCell::default(),
            back_off: RefCell::default(),
            removed: Cell::new(false),
            objects: RefCell::new(Objects {
                generation: 1,
                status: PodAutoscalerStatus::default(),
                sks: None,
            }),
        }
    }

    /// The PodAutoscaler as it is now.
    pub fn pod_autoscaler(&self) -> PodAutoscaler {
        let objects = self.objects.borrow();
        let reachability = match self.reachability.get() {
            service::Reachability::Reachable => Reachability::Reachable,
            service::Reachability::Unknown => Reachability::Unknown,
            service::Reachability::Unreachable => Reachability::Unreachable,
        };
        PodAutoscaler {
            id: self.id.clone(),
            uid: self.uid(),
            generation: objects.generation,
            annotations: self.template.annotations.clone(),
            labels: self.labels(),
            spec: PodAutoscalerSpec {
                container_concurrency: i64::from(self.template.container_concurrency),
                scale_target_ref: self.scale_target(),
                reachability,
                protocol_type: self.template.container.protocol.as_str().to_owned(),
            },
            status: objects.status.clone(),
        }
    }

    /// Changes what the PodAutoscaler says of traffic; `true` when that is new.
    pub fn set_reachability(&self, reachability: service::Reachability) -> bool {
        if self.reachability.replace(reachability) == reachability {
            return false;
        }
        self.objects.borrow_mut().generation += 1;
        true
    }

    /// The ServerlessService, once the autoscaler asked for one.
    pub fn serverless_service(&self) -> Option<ServerlessService> {
        self.objects.borrow().sks.clone()
    }

    /// Creates the ServerlessService or changes its spec.
    pub fn set_serverless_service(&self, spec: ServerlessServiceSpec, now: UnixTime) {
        let mut objects = self.objects.borrow_mut();
        match &mut objects.sks {
            Some(sks) => {
                if sks.spec != spec {
                    sks.spec = spec;
                    sks.generation += 1;
                }
            }
            None => {
                let mut status = ServerlessServiceStatus::default();
                status.initialize_conditions(now);
                objects.sks = Some(ServerlessService {
                    id: self.id.clone(),
                    generation: 1,
                    controller_uid: Some(self.uid()),
                    spec,
                    status,
                });
            }
        }
        drop(objects);
        self.reconcile_serverless_service(now);
    }

    /// What the ServerlessService controller does: puts pods or activators in the path and says so.
    /// `true` when something changed.
    pub fn reconcile_serverless_service(&self, now: UnixTime) -> bool {
        use autoscaler::pod_autoscaler::OperationMode;
        let mut objects = self.objects.borrow_mut();
        let Some(sks) = &mut objects.sks else {
            return false;
        };
        let before = sks.status.clone();
        let any_ready = !self.ready.borrow().is_empty();
        let proxied = sks.spec.mode != Some(OperationMode::Serve) || !any_ready;
        let status = &mut sks.status;
        status.service_name.clone_from(&self.id.name);
        status.private_service_name = activator::private_service::private_service(&self.id.name);
        status.mark_activator_endpoints_populated(proxied, now);
        if any_ready {
            status.mark_endpoints_ready(now);
        } else {
            status.mark_endpoints_not_ready("NoHealthyBackends", now);
        }
        status.observed_generation = sks.generation;
        self.proxied.set(proxied);
        before != sks.status
    }

    /// The PodAutoscaler's condition `Active` in words.
    pub fn active(&self) -> String {
        let objects = self.objects.borrow();
        match objects.status.conditions.get(ACTIVE) {
            None => "Unknown".to_owned(),
            Some(condition) if condition.reason.is_empty() => condition.status.as_str().to_owned(),
            Some(condition) => format!("{} {}", condition.status.as_str(), condition.reason),
        }
    }

    /// Replicas that are not on their way out.
    pub fn living(&self) -> Vec<Rc<Replica>> {
        self.replicas
            .borrow()
            .values()
            .filter(|replica| !replica.is_draining())
            .map(Rc::clone)
            .collect()
    }

    /// Whether requests are refused now, and why.
    pub fn refusal(&self) -> Option<Trouble> {
        let trouble = self.trouble.borrow();
        trouble
            .as_ref()
            .filter(|trouble| trouble.refuses && self.ready.borrow().is_empty())
            .cloned()
    }

    /// Replaces what is known about trouble and tells requests that wait.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        if *self.trouble.borrow() != trouble {
            *self.trouble.borrow_mut() = trouble;
            self.trouble_changed.notify_waiters();
        }
    }

    fn scale_target(&self) -> ScaleTargetRef {
        ScaleTargetRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            name: format!("{}-deployment", self.id.name),
        }
    }

    fn uid(&self) -> String {
        format!("local/{}", self.id)
    }

    /// The labels that the controller gives its objects.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.template.labels.clone();
        for (label, value) in [
            (SERVICE_LABEL, &self.service),
            (CONFIGURATION_LABEL, &self.service),
            (REVISION_LABEL, &self.id.name),
        ] {
            labels.insert(label.to_owned(), value.clone());
        }
        labels
    }
}

/// Replicas that a new revision begins with; upstream: `GetInitialScale` of
/// `pkg/reconciler/autoscaling/resources/initial_scale.go`.
fn initial_scale(template: &Template, config: &Autoscaler) -> u32 {
    let scale = INITIAL_SCALE
        .int(&template.annotations)
        .filter(|scale| *scale > 0 || (*scale == 0 && config.allow_zero_initial_scale))
        .unwrap_or(config.initial_scale);
    u32::try_from(scale).unwrap_or(0)
}

/// The manifest was refused if it cannot be read.
fn affinity(template: &Template) -> Option<Affinity> {
    let annotation = names::SESSION_AFFINITY_ANNOTATION;
    Affinity::parse(template.annotations.get(annotation)?).ok()
}

#[cfg(test)]
mod tests {
    use autoscaler::pod_autoscaler::OperationMode;

    use super::*;
    use crate::manifest::settings::Defaults;

    fn revision(annotations: &[(&str, &str)], config: &Autoscaler) -> Revision {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let template =
            Template::from_command(vec!["app".into()], annotations, &Defaults::default());
        Revision::new(
            RevisionId::new("default", "hello-00001"),
            "hello",
            Arc::new(template),
            service::Reachability::Reachable,
            config,
        )
    }

    /// The scenarios of upstream's `TestGetInitialScale` (initial_scale_test.go).
    #[test]
    fn the_initial_scale_is_the_annotations_when_the_cluster_allows_it() {
        let allowed = Autoscaler {
            allow_zero_initial_scale: true,
            ..Autoscaler::default()
        };
        let key = INITIAL_SCALE.name;
        assert_eq!(revision(&[], &allowed).wanted.get(), 1);
        assert_eq!(revision(&[(key, "3")], &allowed).wanted.get(), 3);
        assert_eq!(revision(&[(key, "0")], &allowed).wanted.get(), 0);
        let forbidden = Autoscaler::default();
        assert_eq!(revision(&[(key, "0")], &forbidden).wanted.get(), 1);
        assert_eq!(revision(&[(key, "x")], &forbidden).wanted.get(), 1);
    }

    #[test]
    fn a_change_of_reachability_is_a_new_generation() {
        let revision = revision(&[], &Autoscaler::default());
        assert_eq!(revision.pod_autoscaler().generation, 1);
        assert!(!revision.set_reachability(service::Reachability::Reachable));
        assert!(revision.set_reachability(service::Reachability::Unreachable));
        let object = revision.pod_autoscaler();
        assert_eq!(object.generation, 2);
        assert_eq!(object.spec.reachability, Reachability::Unreachable);
        assert_eq!(object.labels[REVISION_LABEL], "hello-00001");
    }

    /// Without a ready pod the activator stays in the path whatever the spec says, as upstream's
    /// ServerlessService controller has it.
    #[test]
    fn the_path_follows_mode_and_pods() {
        let revision = revision(&[], &Autoscaler::default());
        let at = UnixTime::from_seconds;
        assert!(
            !revision.reconcile_serverless_service(at(0)),
            "there is none yet"
        );
        let spec = |mode| ServerlessServiceSpec {
            mode: Some(mode),
            ..ServerlessServiceSpec::default()
        };
        revision.set_serverless_service(spec(OperationMode::Serve), at(1));
        assert!(revision.proxied.get());
        let sks = revision.serverless_service().expect("one");
        assert_eq!(sks.status.observed_generation, sks.generation);
        assert_eq!(sks.status.private_service_name, "hello-00001-private");
        assert_eq!(sks.status.proxy_for_ns(at(4)), 3_000_000_000);
        assert!(!sks.is_ready());
        assert!(
            !revision.reconcile_serverless_service(at(9)),
            "nothing changed"
        );
        revision.set_serverless_service(spec(OperationMode::Proxy), at(9));
        let sks = revision.serverless_service().expect("one");
        assert_eq!(sks.generation, 2);
        assert_eq!(sks.status.proxy_for_ns(at(11)), 10_000_000_000);
    }

    #[test]
    fn only_trouble_that_refuses_refuses() {
        let revision = revision(&[], &Autoscaler::default());
        let trouble = |refuses| Trouble {
            reason: "the app ended".into(),
            refuses,
            retry_after: 1,
        };
        assert_eq!(revision.refusal(), None);
        revision.set_trouble(Some(trouble(false)));
        assert_eq!(revision.refusal(), None);
        revision.set_trouble(Some(trouble(true)));
        assert_eq!(revision.refusal(), Some(trouble(true)));
        revision.set_trouble(None);
        assert_eq!(revision.refusal(), None);
    }
}
