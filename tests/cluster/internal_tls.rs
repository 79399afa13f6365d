//! `system-internal-tls`: the activator talks TLS to queue-proxies, and to the right ones only.
//!
//! The certificates are those of the activator's own tests, made for the namespace `default`.

use std::rc::Rc;

use http::StatusCode;
use serde_json::{Value, json};

use super::Cluster;
use super::api::{Api, CONFIG_MAPS, PODS, SECRETS, eventually};
use super::revision::{Revision, Spec};
use super::serving_stand_in::{SYSTEM, forget, note_log, pod_of};

const NAMESPACE: &str = "default";
/// What the activator presents and trusts.
const ROUTING: &str = "routing-serving-certs";

macro_rules! certificate {
    ($name:literal) => {
        (
            include_str!(concat!(
                "../../activator/tests/certificates/",
                $name,
                ".crt"
            )),
            include_str!(concat!(
                "../../activator/tests/certificates/",
                $name,
                ".key"
            )),
        )
    };
}

const FIRST_AUTHORITY: &str = include_str!("../../activator/tests/certificates/first-ca.crt");
const SECOND_AUTHORITY: &str = include_str!("../../activator/tests/certificates/second-ca.crt");

/// A certificate of the right names is taken, one of other names is not; both sides' certificates
/// and the authority are replaced while requests go on; the kubelet's plain probes go on as well.
pub(crate) async fn names_and_rotation(cluster: Rc<Cluster>) {
    let api = &cluster.api;
    secret(
        api,
        SYSTEM,
        ROUTING,
        FIRST_AUTHORITY,
        certificate!("routing"),
    )
    .await;
    let right = "pilotlight-test-certs";
    let wrong = "pilotlight-test-wrong-certs";
    secret(
        api,
        NAMESPACE,
        right,
        FIRST_AUTHORITY,
        certificate!("queue-proxy"),
    )
    .await;
    secret(
        api,
        NAMESPACE,
        wrong,
        FIRST_AUTHORITY,
        certificate!("no-namespace"),
    )
    .await;
    encrypt(&cluster, Some("enabled")).await;

    let with = |secret| Spec {
        certificates: Some(secret),
        ..Spec::default()
    };
    let good = Revision::create_in(&cluster, NAMESPACE, "tls", with(right)).await;
    let bad = Revision::create_in(&cluster, NAMESPACE, "tls-wrong", with(wrong)).await;
    let plain = Revision::create_in(&cluster, NAMESPACE, "tls-none", Spec::default()).await;
    // The kubelet asks without TLS.
    for revision in [&good, &bad, &plain] {
        revision.ready(1).await;
    }
    eventually("an answer over TLS", async || {
        let answer = good.ask_activator("/").await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;

    // Both authorities are trusted while the pods take their new certificate, which the kubelet
    // brings within a minute or two. Not one request fails in between.
    let both = format!("{FIRST_AUTHORITY}{SECOND_AUTHORITY}");
    secret(api, SYSTEM, ROUTING, &both, certificate!("routing-rotated")).await;
    secret(api, NAMESPACE, right, &both, certificate!("rotated")).await;
    let pod = good.ready(1).await.remove(0);
    eventually("the new certificate in the pod", async || {
        let answer = good.ask_activator("/").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let log = api.log(NAMESPACE, &pod, "queue-proxy").await;
        log.contains("were reloaded").then_some(())
    })
    .await;
    // Then the first authority goes, and what it signed with it.
    secret(
        api,
        SYSTEM,
        ROUTING,
        SECOND_AUTHORITY,
        certificate!("routing-rotated"),
    )
    .await;
    for _ in 0..10 {
        let answer = good.ask_activator("/").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    // Neither another namespace's certificate nor none is good enough: no pod is usable, so that
    // requests wait until somebody gives up.
    for revision in [&bad, &plain] {
        let asked = revision.ask_activator("/");
        let waited = tokio::time::timeout(std::time::Duration::from_secs(5), asked).await;
        let refused = waited.map_or(true, |answer| {
            answer.is_ok_and(|it| it.status != StatusCode::OK)
        });
        assert!(refused, "{} was answered", revision.name);
    }
    encrypt(&cluster, None).await;
    eventually("an answer without TLS", async || {
        let answer = plain.ask_activator("/").await.ok()?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    forget(api, NAMESPACE).await;
}

/// Creates a Secret, or replaces what is in it.
async fn secret(api: &Api, namespace: &str, name: &str, authority: &str, own: (&str, &str)) {
    let data = json!({"ca.crt": authority, "tls.crt": own.0, "tls.key": own.1});
    let labels = json!({super::serving_stand_in::LABEL: "certificates"});
    let object = json!({"metadata": {"name": name, "labels": labels}, "stringData": data});
    api.create(SECRETS, namespace, object).await;
    api.patch(SECRETS, namespace, name, json!({"stringData": data}))
        .await;
}

/// Changes the setting, which is read at the start, and replaces the activator.
async fn encrypt(cluster: &Cluster, value: Option<&str>) {
    let api = &cluster.api;
    let data: Value = json!({"system-internal-tls": value});
    let patch = json!({ "data": data });
    api.patch(CONFIG_MAPS, SYSTEM, "config-network", patch)
        .await;
    let before = pod_of(api, "activator").await;
    note_log(cluster, "activator", &before).await;
    api.delete(PODS, SYSTEM, &before, Some(0)).await;
    eventually("another activator", async || {
        (pod_of(api, "activator").await != before).then_some(())
    })
    .await;
}
