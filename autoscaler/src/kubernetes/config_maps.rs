//! The config maps: read once at start, where a missing or invalid one is fatal, and watched for
//! what applies live, where an invalid one is logged and the last good value stays.
//!
//! Upstream: `knative.dev/pkg/configmap/informer`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher;
use kube::{Api, Client};
use serving::config::{
    Autoscaler, Data, Deployment, InvalidConfig, LeaderElection, Logging, Network, Observability,
    autoscaler, deployment, network,
};
use serving::telemetry::LogLevel;
use tokio::sync::{mpsc, oneshot};

use super::COMPONENT;
use super::config::Config;
use super::watches::{Change, DriverEnded, unmanaged, watch};
use crate::world::{ClusterConfig, Update};

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
    /// What decisions depend on.
    pub cluster: ClusterConfig,
    /// The mesh settings are frozen here.
    pub network: Network,
    /// `config-observability`.
    pub observability: Observability,
    /// `config-logging`.
    pub logging: Logging,
    /// `config-leader-election`.
    pub leader_election: LeaderElection,
}

/// Reads all of them. Only `config-leader-election` may be missing.
pub async fn read(client: &Client, config: &Config) -> Result<Configuration, ConfigMapError> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), &config.system_namespace);
    let leader_election = match get(&api, &config.config_leader_election).await? {
        Some(data) => parse(&config.config_leader_election, LeaderElection::parse(&data))?,
        None => LeaderElection::default(),
    };
    let autoscaler = required(&api, autoscaler::NAME, Autoscaler::parse).await?;
    let deployment = required(&api, deployment::NAME, Deployment::parse).await?;
    Ok(Configuration {
        cluster: ClusterConfig {
            autoscaler,
            progress_deadline: deployment.progress_deadline,
        },
        network: required(&api, network::NAME, Network::parse).await?,
        observability: required(&api, &config.config_observability, Observability::parse).await?,
        logging: required(&api, &config.config_logging, Logging::parse).await?,
        leader_election,
    })
}

async fn get(api: &Api<ConfigMap>, name: &str) -> Result<Option<Data>, ConfigMapError> {
    let map = api
        .get_opt(name)
        .await
        .map_err(|error| unreadable(name, error))?;
    Ok(map.map(|map| map.data.unwrap_or_default()))
}

async fn required<T>(
    api: &Api<ConfigMap>,
    name: &str,
    parse_data: impl FnOnce(&Data) -> Result<T, InvalidConfig>,
) -> Result<T, ConfigMapError> {
    let map = api
        .get(name)
        .await
        .map_err(|error| unreadable(name, error))?;
    parse(name, parse_data(&map.data.unwrap_or_default()))
}

fn unreadable(name: &str, error: kube::Error) -> ConfigMapError {
    ConfigMapError::Unreadable {
        name: name.to_owned(),
        source: Box::new(error),
    }
}

fn parse<T>(name: &str, parsed: Result<T, InvalidConfig>) -> Result<T, ConfigMapError> {
    parsed.map_err(|source| ConfigMapError::Invalid {
        name: name.to_owned(),
        source,
    })
}

/// Follows the maps of a namespace, and tells the driver when what decisions depend on changes.
pub(super) async fn follow(
    client: Client,
    namespace: String,
    mut live: Live,
    updates: mpsc::Sender<Update>,
) {
    let api = Api::<ConfigMap>::namespaced(client, &namespace);
    let (synced, _) = oneshot::channel();
    let config = watcher::Config::default();
    watch(api, config, unmanaged, synced, async |change| {
        let maps = match change {
            Change::Apply(map) => vec![map],
            Change::Replace(maps) => maps,
            // What was deleted goes on to hold.
            Change::Delete(_) => Vec::new(),
        };
        let mut changed = false;
        for map in maps {
            let name = map.metadata.name.unwrap_or_default();
            changed |= live.apply(&name, &map.data.unwrap_or_default());
        }
        if changed {
            let update = Update::Config(Arc::new(live.config.clone()));
            updates.send(update).await.map_err(|_| DriverEnded)?;
        }
        Ok(())
    })
    .await;
}

/// The last good values.
#[derive(Debug)]
pub(super) struct Live {
    config: ClusterConfig,
    /// The name of `config-logging`.
    logging: String,
    log_level: Option<LogLevel>,
}

// === impl Live ===

impl Live {
    pub(super) fn new(config: ClusterConfig, logging: String, log_level: Option<LogLevel>) -> Self {
        Self {
            config,
            logging,
            log_level,
        }
    }

    /// Takes in a map; true when something that decisions depend on has changed.
    fn apply(&mut self, name: &str, data: &BTreeMap<String, String>) -> bool {
        if name == self.logging {
            if let Some(level) = &self.log_level {
                level.follow(COMPONENT, name, data);
            }
            return false;
        }
        let mut next = self.config.clone();
        let parsed = match name {
            autoscaler::NAME => Autoscaler::parse(data).map(|config| next.autoscaler = config),
            deployment::NAME => Deployment::parse(data)
                .map(|config| next.progress_deadline = config.progress_deadline),
            _ => return false,
        };
        if let Err(error) = parsed {
            tracing::error!(name, %error, "the config map is invalid, the last good value stays");
            return false;
        }
        let changed = next != self.config;
        self.config = next;
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serving::telemetry::{LineWriter, LogLayer, LogSettings};
    use tracing::level_filters::LevelFilter;

    use super::*;

    fn data(key: &str, value: &str) -> Data {
        Data::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn an_invalid_map_leaves_the_last_good_value() {
        let first = ClusterConfig {
            autoscaler: Autoscaler::default(),
            progress_deadline: Duration::from_secs(600),
        };
        let mut live = Live::new(first, "config-logging".to_owned(), None);
        assert!(live.apply(autoscaler::NAME, &data("min-scale", "3")));
        assert!(!live.apply(autoscaler::NAME, &data("min-scale", "3")));
        assert!(!live.apply(autoscaler::NAME, &data("min-scale", "many")));
        assert_eq!(live.config.autoscaler.min_scale, 3);
        assert!(live.apply(autoscaler::NAME, &Data::new()));
        assert_eq!(live.config.autoscaler.min_scale, 0);
        // The whole map must be valid for one key of it to count.
        let deadline = data("progress-deadline", "30s");
        assert!(!live.apply(deployment::NAME, &deadline));
        let mut whole = deadline;
        whole.insert("queue-sidecar-image".to_owned(), "image".to_owned());
        assert!(live.apply(deployment::NAME, &whole));
        assert_eq!(live.config.progress_deadline, Duration::from_secs(30));
        assert!(!live.apply("config-features", &Data::new()));
    }

    #[test]
    fn the_log_level_is_followed() {
        let (settings, _) = LogSettings::read("", "info");
        let writer = LineWriter::new(std::io::sink()).unwrap();
        let layer = LogLayer::new(settings, COMPONENT, &[], writer);
        let first = ClusterConfig {
            autoscaler: Autoscaler::default(),
            progress_deadline: Duration::from_secs(600),
        };
        let name = "config-logging";
        let mut live = Live::new(first, name.to_owned(), Some(layer.level()));
        assert!(!live.apply(name, &data("loglevel.autoscaler", "debug")));
        assert_eq!(layer.level().get(), LevelFilter::DEBUG);
        assert!(!live.apply(name, &data("zap-logger-config", "{")));
        assert_eq!(layer.level().get(), LevelFilter::DEBUG);
        assert!(!live.apply(name, &data("loglevel.activator", "error")));
        assert_eq!(layer.level().get(), LevelFilter::INFO);
    }
}
