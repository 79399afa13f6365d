//! The table of routes: built from all Ingresses at once, asked for every request, never changed.
//!
//! Pure: picking takes a number for the split and nothing else from outside. A host that two
//! Ingresses name belongs to the older one in the order of their keys; the other is told so
//! ([`Conflict`]). Where the specification is silent: a host that occurs in several rules of one
//! Ingress tries them in order, and an Ingress's rule without hosts is asked last of all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serving::header;

use crate::affinity::{self, Affinity};

use super::spec::{Ingress, Path, ServicePort, Split, Visibility};

/// The value that asks for the hash of what is served.
const OVERRIDE: &[u8] = header::HASH_VALUE_OVERRIDE.as_bytes();

/// What one entry serves.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<Box<str>, Vec<Arc<Route>>>,
    /// Of rules without hosts.
    any: Vec<Arc<Route>>,
}

/// Both entries.
#[derive(Debug, Default)]
pub struct RouteTables {
    /// Reached from anywhere.
    pub external: RouteTable,
    /// Reached from within the cluster.
    pub local: RouteTable,
}

/// The paths of one rule.
#[derive(Debug)]
pub struct Route {
    hash: HeaderValue,
    affinity: Option<Affinity>,
    redirects: bool,
    paths: Vec<RoutePath>,
}

#[derive(Debug)]
struct RoutePath {
    prefix: String,
    headers: Vec<(HeaderName, String)>,
    rewrite_host: Option<HeaderValue>,
    set: Vec<(HeaderName, HeaderValue)>,
    splits: Vec<RouteSplit>,
    /// Sum of all percents; 100 unless the Ingress breaks its rules.
    total: u32,
}

/// One backend of a path.
#[derive(Debug)]
pub struct RouteSplit {
    percent: u32,
    /// By which sessions remember it.
    pub part: u64,
    set: Vec<(HeaderName, HeaderValue)>,
    /// Where it leads.
    pub backend: BackendRef,
}

/// A Service's port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendRef {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: ServicePort,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Matched<'a> {
    /// 404.
    Nothing,
    /// 301 to the same with HTTPS.
    Redirect,
    /// Goes to a backend, after [`Picked::apply`].
    Picked(Picked<'a>),
}

/// A request's way.
#[derive(Debug)]
pub struct Picked<'a> {
    hash: &'a HeaderValue,
    path: &'a RoutePath,
    /// The share it belongs to.
    pub split: &'a RouteSplit,
}

/// What decides a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Evenly distributed; the same for all requests of a session.
    pub number: u32,
    /// The part that the session was given before.
    pub part: Option<u64>,
}

/// An Ingress that names a host of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Namespace and name of the one that is not served for the host.
    pub ingress: (String, String),
    /// The one that is.
    pub owner: (String, String),
    /// The host.
    pub host: String,
}

type Owners<'a> = HashMap<(Visibility, &'a str), &'a Ingress>;

// === impl RouteTables ===

impl RouteTables {
    /// Builds both tables of Ingresses in the order of precedence.
    pub fn build<'a>(ingresses: impl IntoIterator<Item = &'a Ingress>) -> (Self, Vec<Conflict>) {
        let mut tables = Self::default();
        let mut owners = Owners::new();
        let mut conflicts = Vec::new();
        for ingress in ingresses {
            tables.add(ingress, &mut owners, &mut conflicts);
        }
        (tables, conflicts)
    }

    fn add<'a>(
        &mut self,
        ingress: &'a Ingress,
        owners: &mut Owners<'a>,
        conflicts: &mut Vec<Conflict>,
    ) {
        let hash = HeaderValue::try_from(ingress.hash()).expect("hexadecimal digits");
        for rule in &ingress.spec.rules {
            let local = rule.visibility == Visibility::ClusterLocal;
            let route = Arc::new(Route {
                hash: hash.clone(),
                affinity: ingress.affinity.clone(),
                // As net-kourier has it; within the cluster nobody listens on 443.
                redirects: ingress.spec.redirects() && !local,
                paths: rule
                    .http
                    .iter()
                    .flat_map(|http| &http.paths)
                    .map(RoutePath::new)
                    .collect(),
            });
            let table = if local {
                &mut self.local
            } else {
                &mut self.external
            };
            let mut free = Vec::new();
            for host in &rule.hosts {
                let owner = owners.entry((rule.visibility, host)).or_insert(ingress);
                if std::ptr::eq(*owner, ingress) {
                    free.push(host.to_ascii_lowercase());
                } else {
                    conflicts.push(Conflict {
                        ingress: key(ingress),
                        owner: key(owner),
                        host: host.clone(),
                    });
                }
            }
            for host in free {
                let routes = table.hosts.entry(host.into()).or_default();
                routes.push(Arc::clone(&route));
            }
            if rule.hosts.is_empty() {
                table.any.push(route);
            }
        }
    }

    /// The table of an entry.
    pub fn entry(&self, local: bool) -> &RouteTable {
        if local { &self.local } else { &self.external }
    }
}

fn key(ingress: &Ingress) -> (String, String) {
    (ingress.namespace.clone(), ingress.name.clone())
}

// === impl RouteTable ===

impl RouteTable {
    /// Finds the way of a request. `draw` decides the split, with whatever the route says about
    /// sessions; `tls` says whether the client came by HTTPS.
    pub fn find(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        tls: bool,
        draw: impl FnOnce(Option<&Affinity>) -> Draw,
    ) -> Matched<'_> {
        let host = header::host(uri, headers);
        let host = std::str::from_utf8(host).unwrap_or_default();
        let host = without_port(host).to_ascii_lowercase();
        let of_host = self.hosts.get(host.as_str()).into_iter().flatten();
        for route in of_host.chain(&self.any) {
            let Some(path) = route.paths.iter().find(|it| it.matches(uri, headers)) else {
                continue;
            };
            if route.redirects && !tls {
                return Matched::Redirect;
            }
            return match path.split(draw(route.affinity.as_ref())) {
                Some(split) => Matched::Picked(Picked {
                    hash: &route.hash,
                    path,
                    split,
                }),
                None => Matched::Nothing,
            };
        }
        Matched::Nothing
    }

    /// Every backend that a request could take.
    pub fn backends(&self) -> impl Iterator<Item = &BackendRef> {
        let routes = self.hosts.values().flatten().chain(&self.any);
        let paths = routes.flat_map(|route| &route.paths);
        paths.flat_map(|path| path.splits.iter().map(|split| &split.backend))
    }
}

/// The name in a Host; brackets of an IPv6 address stay.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            if port.bytes().all(|byte| byte.is_ascii_digit()) {
                name
            } else {
                host
            }
        }
        _ => host,
    }
}

// === impl RoutePath ===

impl RoutePath {
    fn new(path: &Path) -> Self {
        let splits: Vec<_> = path.splits.iter().map(RouteSplit::new).collect();
        Self {
            prefix: path.path.clone(),
            headers: path
                .headers
                .iter()
                .filter_map(|(name, expected)| {
                    let name = HeaderName::try_from(name.as_str()).ok()?;
                    Some((name, expected.exact.clone()))
                })
                .collect(),
            rewrite_host: (!path.rewrite_host.is_empty())
                .then(|| HeaderValue::try_from(&path.rewrite_host).ok())
                .flatten(),
            set: headers_to_set(&path.append_headers),
            total: splits
                .iter()
                .fold(0, |sum, split| sum.saturating_add(split.percent)),
            splits,
        }
    }

    fn matches(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        uri.path().starts_with(&self.prefix)
            && self
                .headers
                .iter()
                .all(|(name, expected)| header::value(headers, name) == expected.as_bytes())
    }

    /// The part that the session has, while it has a share at all; otherwise the number decides.
    fn split(&self, draw: Draw) -> Option<&RouteSplit> {
        let part = draw.part.and_then(|part| {
            let mut all = self.splits.iter();
            all.find(|split| split.part == part && split.percent > 0)
        });
        if part.is_some() {
            return part;
        }
        let mut left = draw.number % self.total.max(1);
        self.splits.iter().find(|split| {
            let is_it = left < split.percent;
            left = left.saturating_sub(split.percent);
            is_it
        })
    }
}

// === impl RouteSplit ===

impl RouteSplit {
    fn new(split: &Split) -> Self {
        let name = format!("{}/{}", split.service_namespace, split.service_name);
        Self {
            percent: split.percent,
            // 0 stands for no part.
            part: affinity::hash(name.as_bytes()).max(1),
            set: headers_to_set(&split.append_headers),
            backend: split.into(),
        }
    }
}

impl From<&Split> for BackendRef {
    fn from(split: &Split) -> Self {
        Self {
            namespace: split.service_namespace.clone(),
            name: split.service_name.clone(),
            port: split.service_port.clone(),
        }
    }
}

/// Those that can be sent.
fn headers_to_set(all: &BTreeMap<String, String>) -> Vec<(HeaderName, HeaderValue)> {
    let pair = |(name, value): (&String, &String)| {
        let name = HeaderName::try_from(name.as_str()).ok()?;
        Some((name, HeaderValue::try_from(value.as_str()).ok()?))
    };
    all.iter().filter_map(pair).collect()
}

// === impl Picked ===

impl Picked<'_> {
    /// Sets the headers of the path and then those of the split, and answers the question for the
    /// hash. The Host for the backend, if it is another one, is returned.
    ///
    /// A client's own `Knative-Serving-Revision` and `-Namespace` do not count, and from outside
    /// neither does its `K-Original-Host`; from within, that is the mark of a DomainMapping which
    /// sent the request on.
    pub fn apply(&self, headers: &mut HeaderMap, local: bool) -> Option<HeaderValue> {
        headers.remove(&header::REVISION_NAME);
        headers.remove(&header::REVISION_NAMESPACE);
        if !local {
            headers.remove(&header::ORIGINAL_HOST);
        }
        if header::value(headers, &header::HASH) == OVERRIDE {
            headers.insert(&header::HASH, self.hash.clone());
        }
        for (name, value) in self.path.set.iter().chain(&self.split.set) {
            headers.insert(name, value.clone());
        }
        self.path.rewrite_host.clone()
    }
}

#[cfg(test)]
mod tests;
