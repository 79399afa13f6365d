//! The whole loop with real time: from a frame that wakes a revision to the batch that scales it.

use super::*;

/// Takes one revision through sleep and wake-up again and again. The figure is printed and not
/// judged: it is only as good as the machine is idle.
#[tokio::test]
async fn a_stat_becomes_a_scale_action_without_a_timer() {
    let (updates, update_receiver) = mpsc::channel(64);
    let (action_sender, mut actions) = mpsc::channel(64);
    let world = World {
        updates: update_receiver,
        actions: action_sender,
    };
    let options = Options::new(scraper::Options::default(), probe_targets());
    let (autoscaler, handle) = Autoscaler::new(options, world, &mut Registry::default());
    let shutdown = CancellationToken::new();
    let driver = tokio::spawn(autoscaler.run(shutdown.clone()));

    updates.send(cluster_config()).await.unwrap();
    let ids: Vec<_> = (0..200)
        .map(|number| RevisionId::new("default", format!("revision-{number:05}")))
        .collect();
    for id in &ids {
        // Nothing is scraped, so that silence is a decision for zero, and the object is idle.
        let mut object = revision(&[("autoscaling.knative.dev/target-burst-capacity", "-1")]);
        object.id = id.clone();
        let now = UnixTime::from_seconds(1_000);
        object.status.initialize_conditions(now);
        object.status.mark_inactive("NoTraffic", "idle", now);
        object.status.mark_scale_target_initialized(now);
        let sks = ServerlessService {
            id: id.clone(),
            generation: 1,
            controller_uid: Some("uid".to_owned()),
            spec: Default::default(),
            status: ServerlessServiceStatus {
                private_service_name: "private".to_owned(),
                ..ServerlessServiceStatus::default()
            },
        };
        let target = ScaleTarget { replicas: Some(0) };
        for update in [
            Update::ScaleTarget(id.clone(), Some(target)),
            Update::ServerlessService(id.clone(), Some(Box::new(sks))),
            Update::PodAutoscaler(Box::new(object)),
        ] {
            updates.send(update).await.unwrap();
            while actions.try_recv().is_ok() {}
        }
    }
    // The first tick, two seconds after creation, decides for zero.
    let decided = async {
        loop {
            while actions.try_recv().is_ok() {}
            let snapshots = handle.snapshot().await.unwrap();
            if snapshots.len() == ids.len() && snapshots.iter().all(|it| it.desired == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), decided)
        .await
        .expect("every revision is decided");
    while actions.try_recv().is_ok() {}

    let frames = handle.frames();
    let mut latencies = Vec::new();
    for id in &ids {
        let sent = Instant::now();
        frames.send(frame(&[(id, 1.0)]).into()).await.unwrap();
        let scaled = async {
            loop {
                let batch = actions.recv().await.unwrap();
                let wakes = |action: &Action| matches!(action, Action::Scale { revision, replicas: 1, .. } if revision == id);
                if batch.actions.iter().any(wakes) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), scaled)
            .await
            .expect("a stat wakes its revision");
        latencies.push(Instant::now().duration_since(sent));
    }
    latencies.sort();
    println!(
        "stat to scale action: p50 {:?}, p99 {:?}",
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100]
    );
    shutdown.cancel();
    driver.await.unwrap();
}
