//! Services and their revisions in memory: what the controller keeps in a cluster.
//!
//! Driven by the platform: documents come in, readiness is reported, routes go out. Pure: starts
//! nothing and reads no clock.

use std::collections::BTreeSet;
use std::sync::Arc;

use serving::RevisionId;

use crate::manifest::{Finding, ServiceDocument, Template, TrafficTarget};
use crate::router::{RoutingTable, ServiceRoutes, Split};

#[cfg(test)]
mod tests;

/// Revisions of one Service that are kept though no traffic names them, so that a later manifest
/// can go back to them by name; upstream's `min-non-active-revisions`.
pub const MAX_IDLE_REVISIONS: usize = 20;

/// All Services of a run.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    services: Vec<Service>,
}

/// One Service with its versions.
#[derive(Clone, Debug)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Oldest first; never empty.
    pub revisions: Vec<Revision>,
    /// What the last document asked for.
    pub traffic: Vec<TrafficTarget>,
    /// What is routed now; keeps its targets until all of `traffic`'s are ready.
    active: Vec<Assigned>,
    generation: u64,
    documents: Vec<Template>,
}

/// One version of a Service.
#[derive(Clone, Debug)]
pub struct Revision {
    /// Namespace and name.
    pub id: RevisionId,
    /// What it is made of.
    pub template: Arc<Template>,
    /// Whether it was ready once; stays true at scale zero.
    pub ready: bool,
}

/// A traffic target with its revision found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The revision.
    pub revision: RevisionId,
    /// Share of the requests.
    pub percent: u32,
    /// A host of its own.
    pub tag: Option<String>,
    /// Whether it follows the latest ready revision.
    pub latest: bool,
}

/// Whether traffic may come to a revision; `spec.reachability` of its PodAutoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Traffic names it.
    Reachable,
    /// Not yet known: a new revision on its way to readiness.
    Unknown,
    /// Nothing names it; it may go to zero at once.
    Unreachable,
}

/// What applying documents changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Revisions that are new.
    pub created: Vec<RevisionId>,
    /// Revisions that are gone with their Service.
    pub removed: Vec<RevisionId>,
}

// === impl Catalog ===

impl Catalog {
    /// All Services, in order of first appearance.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Makes the documents true. A Service that is no longer named is removed. Nothing changes
    /// when a problem is found.
    pub fn apply(&mut self, documents: &[ServiceDocument]) -> Result<Changes, Vec<Finding>> {
        let mut next = self.clone();
        let mut changes = Changes::default();
        let mut problems = Vec::new();
        let mut named: Vec<(&str, &str)> = Vec::new();
        for document in documents {
            let key = (document.namespace.as_str(), document.name.as_str());
            if !named.contains(&key) {
                named.push(key);
            }
        }
        for (namespace, name) in &named {
            let versions: Vec<_> = documents
                .iter()
                .filter(|document| document.namespace == *namespace && document.name == *name)
                .collect();
            next.apply_service(&versions, &mut changes, &mut problems);
        }
        next.services.retain(|service| {
            let kept = named.contains(&(service.namespace.as_str(), service.name.as_str()));
            if !kept {
                let ids = service.revisions.iter().map(|revision| revision.id.clone());
                changes.removed.extend(ids);
            }
            kept
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        for service in &mut next.services {
            changes.removed.extend(service.forget_idle());
            service.settle();
        }
        *self = next;
        Ok(changes)
    }

    fn apply_service(
        &mut self,
        versions: &[&ServiceDocument],
        changes: &mut Changes,
        problems: &mut Vec<Finding>,
    ) {
        let Some(last) = versions.last() else { return };
        let position = self
            .services
            .iter()
            .position(|service| service.namespace == last.namespace && service.name == last.name);
        let service = match position {
            Some(position) => &mut self.services[position],
            None => {
                self.services
                    .push(Service::new(&last.namespace, &last.name));
                self.services.last_mut().expect("one was just pushed")
            }
        };
        // Documents that are as they were are history already made.
        let unchanged = service
            .documents
            .iter()
            .zip(versions)
            .take_while(|(template, document)| **template == document.template)
            .count();
        // Fewer documents than before: the last one left is what should be true now.
        let shortened = unchanged == versions.len() && unchanged < service.documents.len();
        for document in &versions[unchanged - usize::from(shortened)..] {
            match service.next_revision(&document.template) {
                Ok(created) => changes.created.extend(created),
                Err(rule) => problems.push(finding(document, "spec.template.metadata.name", rule)),
            }
        }
        service.documents = versions
            .iter()
            .map(|document| document.template.clone())
            .collect();
        service.traffic.clone_from(&last.traffic);
        for target in &last.traffic {
            if let Some(name) = &target.revision_name
                && service.find(name).is_none()
            {
                let known: Vec<_> = service
                    .revisions
                    .iter()
                    .map(|revision| revision.id.name.as_str())
                    .collect();
                problems.push(finding(
                    last,
                    &format!("{}.revisionName", target.path),
                    format!("unknown revision {name:?}; known: {}", known.join(", ")),
                ));
            }
        }
    }

    /// Marks a revision as ready; `true` when that moved traffic or reachability.
    pub fn mark_ready(&mut self, id: &RevisionId) -> bool {
        for service in &mut self.services {
            if let Some(revision) = service
                .revisions
                .iter_mut()
                .find(|revision| revision.id == *id)
            {
                if revision.ready {
                    return false;
                }
                revision.ready = true;
                service.settle();
                return true;
            }
        }
        false
    }

    /// The Service and the revision of an id.
    pub fn find(&self, id: &RevisionId) -> Option<(&Service, &Revision)> {
        self.services.iter().find_map(|service| {
            let revision = service
                .revisions
                .iter()
                .find(|revision| revision.id == *id)?;
            Some((service, revision))
        })
    }

    /// Whether traffic may come to a revision.
    pub fn reachability(&self, id: &RevisionId) -> Reachability {
        self.find(id)
            .map_or(Reachability::Unreachable, |(service, revision)| {
                service.reachability(revision)
            })
    }

    /// The table that the gateway routes by.
    pub fn routes(&self, tag_header: bool) -> RoutingTable {
        RoutingTable::new(
            self.services.iter().map(Service::routes).collect(),
            tag_header,
        )
    }
}

fn finding(document: &ServiceDocument, path: &str, rule: String) -> Finding {
    Finding {
        file: document.file.clone(),
        path: path.to_owned(),
        rule,
        missing_command: false,
    }
}

// === impl Service ===

impl Service {
    fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            revisions: Vec::new(),
            traffic: Vec::new(),
            active: Vec::new(),
            generation: 0,
            documents: Vec::new(),
        }
    }

    /// The routes in force.
    pub fn active(&self) -> &[Assigned] {
        &self.active
    }

    /// The newest revision, ready or not.
    pub fn latest_created(&self) -> Option<&Revision> {
        self.revisions.last()
    }

    /// The newest revision that was ready once.
    pub fn latest_ready(&self) -> Option<&Revision> {
        self.revisions.iter().rev().find(|revision| revision.ready)
    }

    fn find(&self, name: &str) -> Option<&Revision> {
        self.revisions
            .iter()
            .find(|revision| revision.id.name == name)
    }

    /// Makes a revision of a template that differs from the latest one.
    fn next_revision(&mut self, template: &Template) -> Result<Option<RevisionId>, String> {
        if self
            .latest_created()
            .is_some_and(|latest| *latest.template == *template)
        {
            return Ok(None);
        }
        if let Some(name) = &template.name
            && let Some(at) = self
                .revisions
                .iter()
                .position(|revision| revision.id.name == *name)
        {
            if *self.revisions[at].template != *template {
                return Err(format!(
                    "the revision {name} exists with another template; a changed template needs another name"
                ));
            }
            // Going back to a named revision makes it the latest again.
            let revision = self.revisions.remove(at);
            self.revisions.push(revision);
            return Ok(None);
        }
        self.generation += 1;
        let name = match &template.name {
            Some(name) => name.clone(),
            None => {
                let mut name = format!("{}-{:05}", self.name, self.generation);
                while self.find(&name).is_some() {
                    self.generation += 1;
                    name = format!("{}-{:05}", self.name, self.generation);
                }
                name
            }
        };
        let id = RevisionId::new(self.namespace.clone(), name);
        self.revisions.push(Revision {
            id: id.clone(),
            template: Arc::new(template.clone()),
            ready: false,
        });
        Ok(Some(id))
    }

    /// What `traffic` means now, and whether every revision in it is ready.
    fn wanted(&self) -> (Vec<Assigned>, bool) {
        let latest = self.latest_ready().or_else(|| self.latest_created());
        let mut all_ready = true;
        let wanted = self
            .traffic
            .iter()
            .filter_map(|target| {
                let revision = match &target.revision_name {
                    Some(name) => self.find(name)?,
                    None => latest?,
                };
                all_ready &= revision.ready;
                Some(Assigned {
                    revision: revision.id.clone(),
                    percent: target.percent,
                    tag: target.tag.clone(),
                    latest: target.revision_name.is_none(),
                })
            })
            .collect();
        (wanted, all_ready)
    }

    /// Moves traffic when all its targets are ready, or when there is nothing to keep.
    fn settle(&mut self) {
        let (wanted, all_ready) = self.wanted();
        if all_ready || self.active.is_empty() {
            self.active = wanted;
        }
    }

    fn reachability(&self, revision: &Revision) -> Reachability {
        let names = |list: &[Assigned]| list.iter().any(|target| target.revision == revision.id);
        if names(&self.active) {
            return Reachability::Reachable;
        }
        let follows_latest = self
            .traffic
            .iter()
            .any(|target| target.revision_name.is_none());
        let is_newest = self
            .latest_created()
            .is_some_and(|latest| latest.id == revision.id);
        if names(&self.wanted().0) || (follows_latest && is_newest && !revision.ready) {
            return Reachability::Unknown;
        }
        Reachability::Unreachable
    }

    /// Drops the oldest revisions that nothing names, beyond [`MAX_IDLE_REVISIONS`].
    fn forget_idle(&mut self) -> Vec<RevisionId> {
        let wanted = self.wanted().0;
        let named: BTreeSet<&RevisionId> = wanted
            .iter()
            .chain(&self.active)
            .map(|target| &target.revision)
            .chain(self.latest_created().map(|revision| &revision.id))
            .chain(self.latest_ready().map(|revision| &revision.id))
            .collect();
        let idle: Vec<RevisionId> = self
            .revisions
            .iter()
            .map(|revision| &revision.id)
            .filter(|id| !named.contains(id))
            .cloned()
            .collect();
        let excess = idle.len().saturating_sub(MAX_IDLE_REVISIONS);
        let forgotten = &idle[..excess];
        self.revisions
            .retain(|revision| !forgotten.contains(&revision.id));
        forgotten.to_vec()
    }

    fn routes(&self) -> ServiceRoutes {
        let tags = self
            .active
            .iter()
            .filter_map(|target| Some((target.tag.clone()?, target.revision.clone())))
            .collect();
        let split = self
            .active
            .iter()
            .filter(|target| target.percent > 0)
            .map(|target| (target.revision.clone(), target.percent))
            .collect();
        ServiceRoutes {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            split: Split::new(split),
            tags,
        }
    }
}
