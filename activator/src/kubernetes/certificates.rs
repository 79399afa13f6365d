//! The Secret and the trust bundles of system-internal TLS: read at the start, then watched.
//!
//! Upstream: `pkg/activator/certificate/cache.go`. A Secret that is deleted, usually to be issued
//! anew, leaves the certificates that were read last.

use std::collections::{BTreeMap, HashSet};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};

use super::process::StartError;
use crate::internal_tls::{AUTHORITIES, CertificateSecret, InternalTls};

/// The Secret of the data plane's routing side (`networking.RoutingCertsName`).
const SECRET: &str = "routing-serving-certs";
/// The label of ConfigMaps with further authorities.
const BUNDLE_LABEL: &str = "networking.knative.dev/trust-bundle";

/// Reads everything once.
///
/// # Errors
/// The Secret is absent or cannot be used, or the API server refuses.
pub async fn read(client: &Client, namespace: &str) -> Result<InternalTls, StartError> {
    let unreadable = |error| StartError::Certificates(Box::new(error));
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets.get(SECRET).await.map_err(unreadable)?;
    let tls = InternalTls::new(&content(&secret))?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let labelled = ListParams::default().labels(BUNDLE_LABEL);
    for map in maps.list(&labelled).await.map_err(unreadable)? {
        apply_bundle(&tls, &map);
    }
    Ok(tls)
}

/// Takes over changes for as long as it is polled.
pub async fn follow(client: &Client, namespace: &str, tls: &InternalTls) {
    tokio::join!(
        follow_secret(client, namespace, tls),
        follow_bundles(client, namespace, tls),
    );
}

async fn follow_secret(client: &Client, namespace: &str, tls: &InternalTls) {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
    let mut events = watcher(api, only).default_backoff().boxed();
    let mut last = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                let content = content(&secret);
                if last.as_ref() != Some(&content) {
                    tls.apply_secret(&content);
                    last = Some(content);
                }
            }
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => tracing::warn!(%error, "watch of the certificates failed"),
        }
    }
}

async fn follow_bundles(client: &Client, namespace: &str, tls: &InternalTls) {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let labelled = watcher::Config::default().labels(BUNDLE_LABEL);
    let mut events = watcher(api, labelled).default_backoff().boxed();
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(map)) => {
                apply_bundle(tls, &map);
                listed.insert(map.name_any());
            }
            Ok(Event::InitDone) => {
                let all = tls.bundles().into_iter();
                for gone in all.filter(|name| !listed.contains(name)) {
                    forget_bundle(tls, &gone);
                }
            }
            Ok(Event::Apply(map)) => apply_bundle(tls, &map),
            Ok(Event::Delete(map)) => forget_bundle(tls, &map.name_any()),
            Err(error) => tracing::warn!(%error, "watch of the trust bundles failed"),
        }
    }
}

fn content(secret: &Secret) -> CertificateSecret {
    let value = |key: &str| {
        let data = secret.data.as_ref();
        data.and_then(|data| data.get(key))
            .map_or_else(Vec::new, |bytes| bytes.0.clone())
    };
    CertificateSecret {
        authorities: value(AUTHORITIES),
        certificate: value(serving::tls::CERTIFICATE),
        key: value(serving::tls::KEY),
    }
}

fn apply_bundle(tls: &InternalTls, map: &ConfigMap) {
    let none = BTreeMap::new();
    let data = map.data.as_ref().unwrap_or(&none);
    let texts = data.iter().map(|(key, text)| (&**key, &**text));
    tls.apply_bundle(&map.name_any(), Some(texts));
}

fn forget_bundle(tls: &InternalTls, name: &str) {
    tls.apply_bundle(name, None::<std::iter::Empty<(&str, &str)>>);
}

#[cfg(test)]
mod tests;
