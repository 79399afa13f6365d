//! What an Endpoints object says about destinations, from plain data.
//!
//! The Kubernetes shell turns its objects into these types (they deserialize from the same JSON);
//! nothing here watches anything. Upstream: `endpointsToDests` and `healthyAddresses` in
//! `pkg/activator/net/helpers.go`.

use std::collections::BTreeSet;

use serde::Deserialize;

/// The part of an Endpoints object that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub struct Endpoints {
    /// Groups of addresses with common ports.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub subsets: Vec<Subset>,
}

/// Addresses that share a list of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// Addresses of ready pods.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub addresses: Vec<Address>,
    /// Addresses of pods that are not ready.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub not_ready_addresses: Vec<Address>,
    /// The ports of all these addresses.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ports: Vec<Port>,
}

/// One address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub struct Address {
    /// The IP as Kubernetes spells it; replicas compare this text.
    pub ip: String,
}

/// One named port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub struct Port {
    /// The name; empty for the only port of a service.
    #[serde(default)]
    pub name: String,
    /// The number.
    pub port: u16,
}

/// `ip:port` of each destination, sorted by bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Of ready pods.
    pub ready: BTreeSet<String>,
    /// Of pods that are not ready.
    pub not_ready: BTreeSet<String>,
}

// === impl Endpoints ===

impl Endpoints {
    /// The destinations behind the port called `port_name`; subsets without it say nothing.
    /// An address that is listed as both ready and not ready is in both sets.
    pub fn destinations(&self, port_name: &str) -> Destinations {
        let mut found = Destinations::default();
        for subset in &self.subsets {
            let Some(port) = subset.port(port_name) else {
                continue;
            };
            let join = |address: &Address| join_host_port(&address.ip, port);
            found.ready.extend(subset.addresses.iter().map(join));
            found
                .not_ready
                .extend(subset.not_ready_addresses.iter().map(join));
        }
        found
    }

    /// The ready addresses behind the port called `port_name`, without it, sorted by bytes.
    pub fn healthy_addresses(&self, port_name: &str) -> BTreeSet<String> {
        self.subsets
            .iter()
            .filter(|subset| subset.port(port_name).is_some())
            .flat_map(|subset| subset.addresses.iter().map(|address| address.ip.clone()))
            .collect()
    }
}

// === impl Subset ===

impl Subset {
    fn port(&self, name: &str) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| port.name == name)
            .map(|port| port.port)
    }
}

/// Go's `net.JoinHostPort`: an address with a colon gets brackets.
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Endpoints {
        serde_json::from_str(json).unwrap()
    }

    /// Edge cases 24 and 25: brackets around IPv6, no port of the name means no destinations.
    #[test]
    fn edge_cases_24_and_25() {
        let endpoints = parse(
            r#"{"subsets":[
                {"addresses":[{"ip":"fd00::4"}],"notReadyAddresses":[{"ip":"10.0.1.0"}],
                 "ports":[{"name":"http","port":8012},{"name":"http2","port":8013}]},
                {"addresses":[{"ip":"10.0.0.7"}],"ports":[{"name":"metrics","port":9090}]}]}"#,
        );
        let found = endpoints.destinations("http2");
        assert_eq!(found.ready, BTreeSet::from(["[fd00::4]:8013".to_owned()]));
        assert_eq!(
            found.not_ready,
            BTreeSet::from(["10.0.1.0:8013".to_owned()])
        );
        assert_eq!(
            endpoints.healthy_addresses("http"),
            BTreeSet::from(["fd00::4".to_owned()])
        );
    }

    #[test]
    fn null_lists_are_empty() {
        assert_eq!(parse(r#"{"subsets":null}"#), Endpoints::default());
        assert_eq!(parse("{}"), Endpoints::default());
    }
}
