//! How an activator starts, when the API server is slow or not there yet, and ends.

use std::rc::Rc;
use std::time::Duration;

use api_server::eventually;
use api_server::proxy::{Link, Proxy};

use super::replica::{Program, Settings};
use super::world::{Pod, World};
use super::{ACCOUNT, Cluster, UPSTREAM};

/// The program asks again for as long as there is nobody, and then goes on.
pub(crate) async fn waits_for_the_api_server(cluster: Rc<Cluster>) {
    let proxy = Proxy::start(cluster.server.address()).await;
    proxy.set(Link::Cut);
    let asked = proxy.connections();
    let mut program = Program::start(ACCOUNT, proxy.address, &[]);
    eventually("second question", async || {
        (proxy.connections() >= asked + 2).then_some(())
    })
    .await;
    assert!(program.runs(), "{}", program.output.text());
    proxy.set(Link::Open);
    program
        .output
        .says("addresses come from EndpointSlices")
        .await;
}

/// The program has nothing to go on with, and says what is missing.
pub(crate) async fn ends_without_a_config_map(cluster: Rc<Cluster>) {
    let missing = ("CONFIG_OBSERVABILITY_NAME", "config-missing");
    let mut program = Program::start(UPSTREAM, cluster.server.address(), &[missing]);
    assert_eq!(program.ended().await, Some(1), "{}", program.output.text());
    program.output.says("ConfigMap config-missing").await;
}

/// However long the lists take, whoever is let in finds everything there.
pub(crate) async fn serves_once_all_is_listed(cluster: Rc<Cluster>) {
    let it = World::create(&cluster.client, "early-00001").await;
    let pod = Pod::start("pod").await;
    it.slice(&pod, true).await;
    let proxy = Proxy::start(cluster.server.address()).await;
    proxy.set(Link::Slow(Duration::from_millis(100)));
    let activator = Settings::new(proxy.address, ACCOUNT).begin();
    activator.serves().await;
    let first = it.get(activator.address(), "/").await;
    assert_eq!(first, (200, "pod".to_owned()));
    let scrape = activator.scrape().await;
    let target = scrape.lines().find(|it| it.starts_with("target_info{"));
    assert!(
        target.is_some_and(|it| it.contains("service_name=\"activator\"")),
        "{scrape}"
    );
    activator.stop().await;
}

/// Told to end, it finishes what it has.
pub(crate) async fn ends_in_order(cluster: Rc<Cluster>) {
    let activator = cluster.activator(ACCOUNT).await;
    let it = World::create(&cluster.client, "ending-00001").await;
    let pod = Pod::start("pod").await;
    it.slice(&pod, true).await;
    it.only(activator.address(), &pod).await;
    let held = it.background(activator.address(), "/hold");
    pod.asked(pod.requests.get() + 1).await;
    let address = activator.address();
    let stopped = tokio::task::spawn_local(activator.stop());
    eventually("closed port", async || {
        let connected = tokio::net::TcpStream::connect(address).await;
        connected.is_err().then_some(())
    })
    .await;
    assert!(!held.is_finished());
    pod.release();
    assert_eq!(held.await.unwrap(), (200, "pod".to_owned()));
    stopped.await.unwrap();
}
