//! An API server that is silent, gone and started anew.

use std::rc::Rc;

use api_server::objects::{Kind, expired};
use api_server::proxy::{Link, Proxy};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};

use super::replica::{Replica, Settings};
use super::world::{Pod, Revision, World};
use super::{ACCOUNT, Cluster};

/// Requests go where they went before.
async fn goes_on(it: &World, activator: &Replica, pod: &Pod) {
    for _ in 0..20 {
        let answer = it.get(activator.address(), "/").await;
        assert_eq!(answer, (200, pod.name.to_owned()));
    }
}

/// Another pod takes over, and the old one is no longer listed.
async fn replace(it: &World, old: &Pod, new: &Pod) {
    it.slice(new, true).await;
    it.delete::<EndpointSlice>(&it.slice_of(old)).await;
}

async fn version<K: Kind>(it: &World) -> String {
    let list: Api<K> = it.api();
    let list = list.list(&ListParams::default()).await.unwrap();
    list.metadata.resource_version.unwrap()
}

/// While the API server cannot be heard, requests go where they went before; what was changed in the
/// meantime is found out, also from a server that no longer knows what was seen last.
pub(crate) async fn of_the_api_server(cluster: Rc<Cluster>) {
    let proxy = Proxy::start(cluster.server.address()).await;
    let activator = Settings::new(proxy.address, ACCOUNT).start().await;
    let address = activator.address();
    let it = World::create(&cluster.client, "outage-00001").await;
    let gone = World::create(&cluster.client, "gone-00001").await;
    let pods = [
        Pod::start("first").await,
        Pod::start("second").await,
        Pod::start("third").await,
        Pod::start("fourth").await,
    ];
    let [first, second, third, fourth] = &pods;
    it.slice(first, true).await;
    gone.slice(first, true).await;
    it.only(address, first).await;
    gone.only(address, first).await;

    proxy.set(Link::Silent);
    replace(&it, first, second).await;
    goes_on(&it, &activator, first).await;
    proxy.set(Link::Open);
    it.only(address, second).await;

    // What the watches saw last is too old for a server that starts afterwards.
    proxy.set(Link::Cut);
    let seen = (
        version::<Revision>(&it).await,
        version::<EndpointSlice>(&it).await,
    );
    replace(&it, second, third).await;
    gone.delete::<Revision>(gone.name).await;
    let new = World::create(&cluster.client, "new-00001").await;
    new.slice(first, true).await;
    cluster.server.kill_api_server();
    goes_on(&it, &activator, second).await;
    goes_on(&gone, &activator, first).await;
    cluster.server.start_api_server().await;
    expired(&it.api::<Revision>(), &seen.0).await;
    expired(&it.api::<EndpointSlice>(), &seen.1).await;
    goes_on(&it, &activator, second).await;
    proxy.set(Link::Open);
    it.only(address, third).await;
    gone.answers(address, 404).await;
    new.answers(address, 200).await;
    // The new watches work.
    replace(&it, third, fourth).await;
    it.only(address, fourth).await;
    activator.stop().await;
}
