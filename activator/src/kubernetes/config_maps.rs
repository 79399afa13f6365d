//! The three ConfigMaps: read at start, and watched for what applies live.
//!
//! Upstream: `knative.dev/pkg/configmap/informer`: a map that is missing at start is fatal, one that
//! is deleted later is ignored, and one with any invalid key changes nothing.

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serving::config::{Data, InvalidConfig, Logging, Network, Observability, network};
use serving::telemetry::LogLevel;

use crate::Activator;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigMapError {
    /// The API server did not give it, perhaps because there is none.
    #[error("cannot read ConfigMap {name}")]
    Unreadable {
        /// Its name.
        name: String,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// It breaks its rules.
    #[error("ConfigMap {name} is invalid")]
    Invalid {
        /// Its name.
        name: String,
        /// All that is wrong.
        source: InvalidConfig,
    },
}

/// The configuration at start.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// `config-logging`.
    pub logging: Logging,
    /// `config-network`.
    pub network: Network,
    /// `config-observability`.
    pub observability: Observability,
}

/// Reads all three; the names of two of them are configurable.
pub async fn read(
    client: &Client,
    namespace: &str,
    logging: &str,
    observability: &str,
) -> Result<Configuration, ConfigMapError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    Ok(Configuration {
        logging: get(&api, logging, Logging::parse).await?,
        network: get(&api, network::NAME, Network::parse).await?,
        observability: get(&api, observability, Observability::parse).await?,
    })
}

async fn get<T>(
    api: &Api<ConfigMap>,
    name: &str,
    parse: impl FnOnce(&Data) -> Result<T, InvalidConfig>,
) -> Result<T, ConfigMapError> {
    let map = api
        .get(name)
        .await
        .map_err(|error| ConfigMapError::Unreadable {
            name: name.to_owned(),
            source: Box::new(error),
        })?;
    parse(&map.data.unwrap_or_default()).map_err(|source| ConfigMapError::Invalid {
        name: name.to_owned(),
        source,
    })
}

/// The component's name in `config-logging`.
pub const COMPONENT: &str = "activator";

/// What is followed: the names of two maps, and the level that one of them sets.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The name of `config-observability`.
    pub observability: String,
    /// The name of `config-logging`.
    pub logging: String,
    /// The level of this process's log; `None` if something else decides it.
    pub level: Option<LogLevel>,
}

/// Applies changes of the maps of observability and logging as long as it is polled.
pub async fn follow(client: &Client, namespace: &str, followed: &Followed, activator: &Activator) {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let observability = changes(
        &api,
        &followed.observability,
        |data| match Observability::parse(data) {
            Ok(observability) => apply(&observability, activator),
            Err(error) => tracing::error!(%error, "config-observability is not used"),
        },
    );
    let logging = async {
        if let Some(level) = &followed.level {
            let name = &followed.logging;
            changes(&api, name, |data| level.follow(COMPONENT, name, data)).await;
        }
    };
    tokio::join!(observability, logging);
}

/// One map as it is, and whenever it changes. What is deleted goes on to hold.
async fn changes(api: &Api<ConfigMap>, name: &str, mut apply: impl FnMut(&Data)) {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(api.clone(), only).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) => apply(&map.data.unwrap_or_default()),
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => tracing::warn!(name, %error, "watch of a ConfigMap failed"),
        }
    }
}

/// Takes over what may change while the activator runs.
pub fn apply(observability: &Observability, activator: &Activator) {
    let template = &observability.request_log_template;
    let template = observability
        .enable_request_log
        .then_some(template.as_str());
    if let Err(error) = activator.set_request_log(template) {
        tracing::error!(%error, "request log template is not used");
    }
}

#[cfg(test)]
mod tests;
