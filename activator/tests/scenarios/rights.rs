//! The activator runs with the rights that the manifests give it, and uses each of them.

use std::rc::Rc;

use api_server::rights;

use super::{ACCOUNT, Cluster};

/// Of an activator that is a gateway as well.
pub(crate) const MANIFESTS: [&str; 2] = [
    include_str!("../../../deploy/activator/rbac.yaml"),
    include_str!("../../../deploy/activator-ingress/rbac.yaml"),
];
pub(crate) const UPSTREAM_MANIFEST: &str = include_str!("../support/upstream-rbac.yaml");

/// Rights that no scenario can need here, each with why.
const UNUSED: [&str; 1] = [
    // Only with system-internal-tls, which is read once at the start.
    "get secrets",
];

/// After all other scenarios: nothing was refused, and nothing was granted in vain.
pub(crate) async fn exactly_those_of_the_manifests(cluster: Rc<Cluster>) {
    rights::are_exactly(&cluster.server, ACCOUNT, &MANIFESTS, &UNUSED);
}
