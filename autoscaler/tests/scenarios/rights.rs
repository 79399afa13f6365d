//! The autoscaler runs with the rights that the manifests give it, and uses each of them.

use std::rc::Rc;

use api_server::rights;

use super::{ACCOUNT, Cluster};

pub(crate) const MANIFEST: &str = include_str!("../../../deploy/autoscaler/rbac.yaml");

/// Rights that no scenario can need here, each with why.
const UNUSED: [&str; 1] = [
    // Asked for by admission, not by us, where OwnerReferencesPermissionEnforcement is on.
    "update podautoscalers/finalizers.autoscaling.internal.knative.dev",
];

/// After all other scenarios: nothing was refused, and nothing was granted in vain.
pub(crate) async fn exactly_those_of_the_manifests(cluster: Rc<Cluster>) {
    rights::are_exactly(&cluster.server, ACCOUNT, &[MANIFEST], &UNUSED).await;
}
