//! Which revision a request goes to: by `Host`, by tag, by percent.
//!
//! Driven by the gateway once per request. Pure: the random number is a parameter.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use serving::RevisionId;

#[cfg(test)]
mod tests;

/// The domain of every host here; resolvers answer it with the loopback address (RFC 6761).
pub const DOMAIN: &str = "localhost";

/// The routes of all Services.
#[derive(Clone, Debug, Default)]
pub struct RoutingTable {
    services: Vec<ServiceRoutes>,
    hosts: HashMap<String, (usize, Option<usize>)>,
    tag_header: bool,
}

/// The routes of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRoutes {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where its own host leads.
    pub split: Split,
    /// Where its tag hosts lead.
    pub tags: Vec<(String, RevisionId)>,
}

/// Revisions with their shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Each revision with the sum of the shares up to and including its own.
    cumulative: Vec<(RevisionId, u32)>,
}

/// Where a request goes, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The revision.
    pub revision: &'a RevisionId,
    /// The rule.
    pub by: RouteBy<'a>,
}

/// The rule that chose a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteBy<'a> {
    /// The Service's own host and the percentages.
    Split,
    /// A host with a tag.
    TagHost(&'a str),
    /// The `Knative-Serving-Tag` header.
    TagHeader(&'a str),
}

/// No Service has this host, or nothing is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownHost;

// === impl Split ===

impl Split {
    /// A split of revisions and percentages; entries of the same revision may repeat.
    pub fn new(shares: Vec<(RevisionId, u32)>) -> Self {
        let mut sum = 0;
        let cumulative = shares
            .into_iter()
            .map(|(revision, share)| {
                sum += share;
                (revision, sum)
            })
            .collect();
        Self { cumulative }
    }

    /// The revision for a random number; every number below the sum of the shares is as good.
    fn choose(&self, random: u32) -> Option<&RevisionId> {
        let (last, sum) = self.cumulative.last()?;
        if *sum == 0 {
            return Some(last);
        }
        let number = random % sum;
        self.cumulative
            .iter()
            .find(|(_, up_to)| number < *up_to)
            .map(|(revision, _)| revision)
    }
}

// === impl RoutingTable ===

impl RoutingTable {
    /// A table of all Services; `tag_header` is the feature `tag-header-based-routing`.
    pub fn new(services: Vec<ServiceRoutes>, tag_header: bool) -> Self {
        let mut hosts = HashMap::new();
        // Services come before tags: a Service `blue-hello` is not shadowed by a tag of `hello`,
        // and the namespace `default` before the others.
        let mut order: Vec<usize> = (0..services.len()).collect();
        order.sort_by_key(|index| services[*index].namespace != "default");
        for &index in &order {
            let service = &services[index];
            for host in hosts_of(&service.name, &service.namespace) {
                hosts.entry(host).or_insert((index, None));
            }
        }
        for &index in &order {
            let service = &services[index];
            for (tag, (name, _)) in service.tags.iter().enumerate() {
                let label = format!("{name}-{}", service.name);
                for host in hosts_of(&label, &service.namespace) {
                    hosts.entry(host).or_insert((index, Some(tag)));
                }
            }
        }
        Self {
            services,
            hosts,
            tag_header,
        }
    }

    /// Whether tag headers are looked at.
    pub fn tag_header(&self) -> bool {
        self.tag_header
    }

    /// Chooses the revision for a request. `random` is a uniform number of the full range.
    pub fn route(
        &self,
        host: Option<&str>,
        tag_header: Option<&str>,
        random: u32,
    ) -> Result<Route<'_>, UnknownHost> {
        let found = host
            .map(bare_host)
            .and_then(|host| self.hosts.get(host.as_ref()).copied());
        let (index, tag) = match found {
            Some(found) => found,
            None if self.services.len() == 1 => (0, None),
            None => return Err(UnknownHost),
        };
        let service = &self.services[index];
        if let Some(tag) = tag {
            let (name, revision) = &service.tags[tag];
            return Ok(Route {
                revision,
                by: RouteBy::TagHost(name),
            });
        }
        // A header that names no tag falls back to the split, as upstream's test/e2e/tagheader.
        if self.tag_header
            && let Some(wanted) = tag_header
            && let Some((name, revision)) = service.tags.iter().find(|(name, _)| name == wanted)
        {
            return Ok(Route {
                revision,
                by: RouteBy::TagHeader(name),
            });
        }
        let revision = service.split.choose(random).ok_or(UnknownHost)?;
        Ok(Route {
            revision,
            by: RouteBy::Split,
        })
    }

    /// The hosts to tell a lost client, sorted, each Service and tag once.
    pub fn known_hosts(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut hosts: Vec<&String> = self.hosts.keys().collect();
        hosts.sort_by_key(|host| (host.len(), host.as_str()));
        let mut known: Vec<String> = hosts
            .into_iter()
            .filter(|host| seen.insert(self.hosts[host.as_str()]))
            .cloned()
            .collect();
        known.sort();
        known
    }
}

fn hosts_of(label: &str, namespace: &str) -> [String; 2] {
    [
        format!("{label}.{DOMAIN}"),
        format!("{label}.{namespace}.{DOMAIN}"),
    ]
}

/// A host without its port and final dot, in lower case.
fn bare_host(host: &str) -> Cow<'_, str> {
    let host = match host.rsplit_once(':') {
        // Within brackets a colon belongs to the address.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}
