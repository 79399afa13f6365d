//! The activator runs with the rights that the manifests give it, and uses each of them.

use std::rc::Rc;

use api_server::objects::{create, patch};
use api_server::rights;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::replica::Settings;
use super::world::World;
use super::{ACCOUNT, ALONE, Cluster, SYSTEM};

/// Of an activator that is a gateway as well.
pub(crate) const MANIFESTS: [&str; 2] = [
    include_str!("../../../deploy/activator/rbac.yaml"),
    include_str!("../../../deploy/activator-ingress/rbac.yaml"),
];
pub(crate) const UPSTREAM_MANIFEST: &str = include_str!("../support/upstream-rbac.yaml");

const NETWORK: &str = "config-network";
/// What `system-internal-tls` reads and follows.
const CERTIFICATES: &str = "routing-serving-certs";

/// The first of the manifests once more, for an account that has nothing else.
pub(crate) fn of_the_activator_alone() -> String {
    MANIFESTS[0].replace("pilotlight-activator", "pilotlight-activator-alone")
}

/// With `system-internal-tls`, which is all that Secrets are for without Ingresses, an activator
/// does with its own roles: what a gateway may read in all namespaces does not stand in for them.
pub(crate) async fn of_an_activator_alone(cluster: Rc<Cluster>) {
    let client = &cluster.client;
    let data = json!({
        "ca.crt": include_str!("../certificates/first-ca.crt"),
        "tls.crt": include_str!("../certificates/routing.crt"),
        "tls.key": include_str!("../certificates/routing.key")
    });
    let secret = json!({"metadata": {"name": CERTIFICATES}, "stringData": data});
    create::<Secret>(client, SYSTEM, secret).await;
    let enabled = json!({"system-internal-tls": "enabled"});
    World::configure(client, NETWORK, enabled).await;
    let address = cluster.server.address();
    let alone = Settings::new(address, ALONE).start().await;
    let mut settings = Settings::new(address, ACCOUNT);
    settings.ingress = Some(("secured.example.com", "secured-internal"));
    let gateway = settings.start().await;
    // It is read at the start.
    World::configure(client, NETWORK, json!({ "system-internal-tls": null })).await;
    let rubbish = json!({"stringData": {"tls.crt": "rubbish"}});
    patch::<Secret>(client, SYSTEM, CERTIFICATES, rubbish).await;
    for activator in [&alone, &gateway] {
        let log = &activator.log;
        log.says("new certificate cannot be served").await;
    }
    let manifest = of_the_activator_alone();
    rights::are_exactly(&cluster.server, ALONE, &[&manifest], &[]).await;
    alone.stop().await;
    gateway.stop().await;
}

/// After all other scenarios: nothing was refused, and nothing was granted in vain.
pub(crate) async fn exactly_those_of_the_manifests(cluster: Rc<Cluster>) {
    rights::are_exactly(&cluster.server, ACCOUNT, &MANIFESTS, &[]).await;
}
