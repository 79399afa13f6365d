//! Hands windows to the other replicas when this one ends.
//!
//! To all of them, because nobody knows which one takes a Lease next, and before the Leases are
//! released, so that the next owner has them when it begins. A replica that does not understand, as
//! Go's, refuses the first message and is left alone. Nothing here delays the end of the process for
//! longer than a few seconds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use serving::names::HANDOVER_HEADER;

use crate::driver::Handle;
use crate::handover::VERSION;
use crate::http_client::{self, Connection};

/// Which Pods are replicas, ours or Go's: the selector of the Service `autoscaler`.
const REPLICAS: &str = "app=autoscaler";
/// Most replicas that are handed something.
const MAX_REPLICAS: u32 = 10;
/// All of it takes no longer.
const LIMIT: Duration = Duration::from_secs(3);

/// The replicas that may lead next.
#[derive(Clone)]
pub(super) struct Successors {
    pub(super) client: Client,
    /// The system namespace.
    pub(super) namespace: String,
    pub(super) own_ip: String,
    /// Of the stat server, the same for every replica.
    pub(super) port: u16,
}

// === impl Successors ===

impl Successors {
    /// Hands over what `handle`'s driver has collected.
    pub(super) async fn hand_over(&self, handle: &Handle) {
        let all = async {
            let messages = handle.hand_over().await;
            if messages.is_empty() {
                return;
            }
            match self.addresses().await {
                Ok(addresses) => send(&addresses, &messages).await,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot list replicas to hand windows to");
                }
            }
        };
        if tokio::time::timeout(LIMIT, all).await.is_err() {
            tracing::warn!("handing over took too long");
        }
    }

    async fn addresses(&self) -> kube::Result<Vec<SocketAddr>> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let parameters = ListParams::default().labels(REPLICAS).limit(MAX_REPLICAS);
        let pods = api.list(&parameters).await?;
        let address = |pod: &Pod| {
            let ip = pod.status.as_ref()?.pod_ip.as_deref()?;
            let going = pod.metadata.deletion_timestamp.is_some();
            let ip: IpAddr = ip.parse().ok().filter(|_| !going && ip != self.own_ip)?;
            Some(SocketAddr::new(ip, self.port))
        };
        Ok(pods.items.iter().filter_map(address).collect())
    }
}

/// Sends every message to every address, to all at the same time.
async fn send(addresses: &[SocketAddr], messages: &[Bytes]) {
    join_all(
        addresses
            .iter()
            .map(async |address| match send_to(*address, messages).await {
                Ok(true) => tracing::info!(%address, "handed windows over"),
                Ok(false) => tracing::debug!(%address, "a replica does not take windows"),
                Err(error) => tracing::warn!(%address, %error, "cannot hand windows over"),
            }),
    )
    .await;
}

/// Whether all of it was taken.
async fn send_to(address: SocketAddr, messages: &[Bytes]) -> anyhow::Result<bool> {
    let mut connection = Connection::over(http_client::connect(address).await?);
    for message in messages {
        let host = address.to_string();
        let headers = [(HANDOVER_HEADER, VERSION)];
        let mut request = http_client::post("/", &host, &headers, message.len())?;
        request.extend_from_slice(message);
        let answer = connection.exchange(&request, 0).await?;
        if answer.status != StatusCode::NO_CONTENT {
            return Ok(false);
        }
        if !answer.reusable {
            connection = Connection::over(http_client::connect(address).await?);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::stat_server;

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A replica of Go's: it refuses what is no WebSocket, and is asked once.
    #[tokio::test]
    async fn each_replica_is_served_whatever_the_others_do() {
        let (ours, our_address) = listen().await;
        let (handovers, mut taken) = mpsc::channel(4);
        let (frames, _frames) = mpsc::channel(1);
        let options = stat_server::Options {
            frames,
            bucket_owner: None,
            handovers: Some(handovers),
        };
        let stop = CancellationToken::new();
        let server = tokio::spawn(stat_server::serve(ours, options, stop.clone()));

        let (go, go_address) = listen().await;
        let asked = tokio::spawn(async move {
            let (mut stream, _) = go.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\n\r\nBad Request\n";
            stream.write_all(refusal).await.unwrap();
            // Nothing follows on this connection.
            let more = stream.read(&mut request).await.unwrap();
            (length, more)
        });
        let (silent, silent_address) = listen().await;
        let (gone, gone_address) = listen().await;
        drop(gone);

        let messages = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let addresses = [our_address, go_address, silent_address, gone_address];
        let sending = tokio::spawn(async move { send(&addresses, &messages).await });
        assert_eq!(taken.recv().await.unwrap(), "one");
        assert_eq!(taken.recv().await.unwrap(), "two");
        let (length, more) = asked.await.unwrap();
        assert!(length > 0 && more == 0);
        // The silent one holds up nobody but the whole, which has its own limit.
        assert!(!sending.is_finished());
        sending.abort();
        drop(silent);
        stop.cancel();
        server.await.unwrap();
    }
}
