//! Where the addresses of pods come from, and Revisions that come and go.

use std::rc::Rc;

use serde_json::json;

use super::world::{Pod, Revision, World};
use super::{ACCOUNT, Cluster, UPSTREAM};

/// With the right to list them it reads EndpointSlices. A pod that terminates gets nothing new,
/// although it still serves, and finishes what it has.
pub(crate) async fn from_endpoint_slices(cluster: Rc<Cluster>) {
    let activator = cluster.activator(ACCOUNT).await;
    assert_eq!(activator.log.count("addresses come from"), 1);
    assert_eq!(activator.log.count("addresses come from EndpointSlices"), 1);
    let it = World::create(&cluster.client, "sliced-00001").await;
    let (first, second) = (Pod::start("first").await, Pod::start("second").await);
    let waiting = activator.hold(&it).await;
    it.slice(&first, true).await;
    assert_eq!(waiting.await.unwrap(), (200, "first".to_owned()));
    let held = it.background(activator.address(), "/hold");
    first.asked(2).await;
    it.slice(&second, true).await;
    it.slice(&first, false).await;
    it.only(activator.address(), &second).await;
    assert!(!held.is_finished());
    first.release();
    assert_eq!(held.await.unwrap(), (200, "first".to_owned()));
    // Now that it has nothing to do it would be the next.
    it.only(activator.address(), &second).await;
    let before = first.requests.get();
    for _ in 0..20 {
        it.get(activator.address(), "/").await;
    }
    assert_eq!(first.requests.get(), before);
    activator.stop().await;
}

/// With upstream's roles it reads Endpoints, says so once, and asks for nothing that is refused.
pub(crate) async fn from_endpoints_without_the_right(cluster: Rc<Cluster>) {
    let activator = cluster.activator(UPSTREAM).await;
    assert_eq!(activator.log.count("addresses come from"), 1);
    assert_eq!(activator.log.count("addresses come from Endpoints\""), 1);
    let it = World::create(&cluster.client, "listed-00001").await;
    let (first, second) = (Pod::start("first").await, Pod::start("second").await);
    let unseen = Pod::start("unseen").await;
    it.slice(&unseen, true).await;
    it.endpoints(&[&first]).await;
    it.only(activator.address(), &first).await;
    it.endpoints(&[&second]).await;
    it.only(activator.address(), &second).await;
    assert_eq!(unseen.requests.get(), 0);
    let refused = cluster.server.audit(UPSTREAM);
    let refused = refused
        .iter()
        .find(|event| event["responseStatus"]["code"] == 403);
    assert_eq!(refused, None);
    activator.stop().await;
}

/// Who waits for a Revision that is deleted is told. One that is created under the same name is a new
/// one: its settings apply, and it is reached where the old one was.
pub(crate) async fn of_a_revision_that_comes_back(cluster: Rc<Cluster>) {
    let activator = cluster.activator(ACCOUNT).await;
    let address = activator.address();
    let it = World::create(&cluster.client, "twice-00001").await;
    let waiting = activator.hold(&it).await;
    it.delete::<Revision>(it.name).await;
    assert_eq!(waiting.await.unwrap().0, 500);
    it.answers(address, 404).await;
    it.revision(json!({"timeoutSeconds": 1})).await;
    // Nobody is there, and it waits no longer than it may.
    it.answers(address, 504).await;
    let pod = Pod::start("pod").await;
    it.slice(&pod, true).await;
    it.only(address, &pod).await;
    activator.stop().await;
}
