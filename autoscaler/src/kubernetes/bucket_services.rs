//! Follows the Leases of the buckets: they say where stats go. A bucket that becomes this replica's
//! gets its Service and EndpointSlice pointed here, for those who know it only by name.
//!
//! Upstream: `pkg/autoscaler/statforwarder/leases.go`.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use kube::{Client, Error};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::watches::{Change, unmanaged, watch};
use crate::stat_forwarder::{Addressing, Assignments};

/// Between two attempts to write a Service or EndpointSlice.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The pause grows to this. Upstream gives up after three seconds and ends the process; stats still
/// reach the owner by its address meanwhile.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(10);
const PORT_NAME: &str = "http";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Follows Leases for ever.
pub(super) async fn follow_leases(
    client: Client,
    assignments: Assignments,
    addressing: Addressing,
) {
    let api = Api::<Lease>::namespaced(client.clone(), &addressing.namespace);
    let mut writers = JoinSet::new();
    let (synced, _) = oneshot::channel();
    let config = watcher::Config::default();
    watch(api, config, unmanaged, synced, async |change| {
        let leases = match change {
            Change::Apply(lease) => vec![lease],
            Change::Replace(leases) => leases,
            // Until there is a new holder the old one goes on.
            Change::Delete(_) => Vec::new(),
        };
        for lease in leases {
            let bucket = lease.metadata.name.unwrap_or_default();
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            let holder = holder.unwrap_or_default();
            let changed = assignments.assign_to_holder(&bucket, &holder, &addressing);
            if !changed {
                continue;
            }
            tracing::info!(bucket, holder, "stats of the bucket go to its new holder");
            if assignments.is_local(&bucket) {
                let (client, addressing) = (client.clone(), addressing.clone());
                let assignments = assignments.clone();
                writers.spawn(point_here(client, bucket, addressing, assignments));
            }
        }
        while writers.try_join_next().is_some() {}
        Ok(())
    })
    .await;
}

/// Writes until it has succeeded or the bucket is another replica's.
async fn point_here(
    client: Client,
    bucket: String,
    addressing: Addressing,
    assignments: Assignments,
) {
    let mut pause = RETRY_INTERVAL;
    while assignments.is_local(&bucket) {
        match write(&client, &bucket, &addressing).await {
            Ok(()) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(bucket, error, "failed to point the bucket's Service here");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY_INTERVAL);
    }
}

async fn write(client: &Client, bucket: &str, addressing: &Addressing) -> kube::Result<()> {
    let parameters = PostParams::default();
    let services = Api::<Service>::namespaced(client.clone(), &addressing.namespace);
    exists_or(
        services
            .create(&parameters, &service(bucket, addressing.port))
            .await,
    )?;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &addressing.namespace);
    let wanted = slice(bucket, addressing);
    match slices.get_opt(bucket).await? {
        Some(present) => {
            let slice = EndpointSlice {
                endpoints: wanted.endpoints,
                ..present
            };
            slices.replace(bucket, &parameters, &slice).await.map(drop)
        }
        None => slices.create(&parameters, &wanted).await.map(drop),
    }
}

fn exists_or<T>(created: kube::Result<T>) -> kube::Result<()> {
    match created {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error),
    }
}

fn service(bucket: &str, port: u16) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some(bucket.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: i32::from(port),
                target_port: Some(
                    k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(i32::from(port)),
                ),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn slice(bucket: &str, addressing: &Addressing) -> EndpointSlice {
    let family = match addressing.own_ip.parse() {
        Ok(IpAddr::V6(_)) => "IPv6",
        _ => "IPv4",
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(bucket.to_owned()),
            labels: Some([(SERVICE_NAME_LABEL.to_owned(), bucket.to_owned())].into()),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![addressing.own_ip.clone()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                serving: Some(true),
                terminating: Some(false),
            }),
            ..Endpoint::default()
        }],
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(i32::from(addressing.port)),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What clients and Go replicas expect of a bucket's Service.
    #[test]
    fn a_bucket_has_a_service_without_selector_and_a_slice_with_one_endpoint() {
        let addressing = Addressing {
            own_ip: "fd00::1".to_owned(),
            namespace: "knative-serving".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            port: 8080,
        };
        let out = serde_json::to_value(service("b", 8080)).unwrap();
        let ports = json!([{"name": "http", "port": 8080, "targetPort": 8080}]);
        assert_eq!(out["spec"], json!({"ports": ports}));
        let out = serde_json::to_value(slice("b", &addressing)).unwrap();
        let expected = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "b", "labels": {"kubernetes.io/service-name": "b"}},
            "addressType": "IPv6",
            "endpoints": [{
                "addresses": ["fd00::1"],
                "conditions": {"ready": true, "serving": true, "terminating": false}
            }],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
        });
        assert_eq!(out, expected);
    }
}
