//! Which of the other activators in a revision's path are ours: those share pods instead of
//! dividing them.
//!
//! Each is asked by a probe that any activator answers; one of ours adds its capability header.
//! One that does not answer counts as somebody else's, so that pods are divided as upstream does it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, StatusCode, header as http_header};
use serving::body::Body;
use serving::pool::{Protocol, Upstream, UpstreamOptions};
use serving::{RevisionId, header, names};
use tokio::task::JoinSet;

use super::World;

/// Between two questions to one activator.
const PERIOD: Duration = Duration::from_secs(30);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Activators that are asked; a path with more is divided as upstream does it.
const MAX_PEERS: usize = 1024;

static CAPABILITY: HeaderName = HeaderName::from_static(names::CAPABILITY_HEADER);

/// What is known of the other activators.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Whether each is ours; `None` until it has answered.
    known: HashMap<String, Option<bool>>,
    questions: JoinSet<(String, bool)>,
}

// === impl Peers ===

impl Peers {
    /// The next answer. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(String, bool)> {
        // Questions are not cancelled and do not panic.
        self.questions.join_next().await?.ok()
    }

    fn meet(&mut self, address: &str, port: u16) {
        if self.known.len() < MAX_PEERS && !self.known.contains_key(address) {
            self.known.insert(address.to_owned(), None);
            self.ask(address.to_owned(), port, Duration::ZERO);
        }
    }

    fn ask(&mut self, address: String, port: u16, delay: Duration) {
        self.questions.spawn_local(async move {
            tokio::time::sleep(delay).await;
            let ours = tokio::time::timeout(PATIENCE, is_ours(&address, port)).await;
            (address, ours.unwrap_or(false))
        });
    }

    fn is_ours(&self, address: &str) -> bool {
        self.known.get(address) == Some(&Some(true))
    }
}

// === impl World ===

impl World {
    /// The activators of a revision changed: asks those that are new.
    pub(super) fn meet_peers(&mut self, id: &RevisionId) {
        let options = &self.shared.options;
        let Some(public) = self.revisions.get(id).and_then(|it| it.public.as_ref()) else {
            return;
        };
        if public.addresses.contains(&options.pod_ip) {
            let others = public.addresses.iter();
            for other in others.filter(|it| **it != options.pod_ip) {
                self.peers.meet(other, options.peer_port);
            }
        }
        self.share(id);
    }

    /// Tells the revision whether all its activators are ours.
    fn share(&self, id: &RevisionId) {
        let own = &self.shared.options.pod_ip;
        if let Some(known) = self.revisions.get(id)
            && let (Some(live), Some(public)) = (&known.live, &known.public)
            && public.addresses.contains(own)
        {
            let mut all = public.addresses.iter();
            let ours = all.all(|it| it == own || self.peers.is_ours(it));
            live.entry.throttler.set_peers_share(ours);
        }
    }

    /// An activator answered, or did not.
    pub(super) fn peer_answered(&mut self, address: String, ours: bool) {
        let is_listed = |public: &crate::PublicEndpoints| public.addresses.contains(&address);
        let concerned: Vec<_> = self
            .revisions
            .iter()
            .filter(|(_, known)| known.public.as_ref().is_some_and(is_listed))
            .map(|(id, _)| id.clone())
            .collect();
        if concerned.is_empty() {
            self.peers.known.remove(&address);
            return;
        }
        let before = self.peers.known.insert(address.clone(), Some(ours));
        if before != Some(Some(ours)) {
            tracing::info!(address, ours, "another activator");
            concerned.iter().for_each(|id| self.share(id));
        }
        let port = self.shared.options.peer_port;
        self.peers.ask(address, port, PERIOD);
    }
}

async fn is_ours(address: &str, port: u16) -> bool {
    let Ok(ip) = address.parse::<IpAddr>() else {
        return false;
    };
    let upstream = Upstream::new(SocketAddr::new(ip, port), UpstreamOptions::default());
    let mut request = Request::new(Body::empty(()));
    *request.uri_mut() = http::Uri::from_static(serving::networking::HEALTHZ_PATH);
    let headers = request.headers_mut();
    headers.insert(http_header::HOST, upstream.host().clone());
    let question = HeaderValue::from_static(header::ACTIVATOR_NAME);
    headers.insert(&header::PROBE, question);
    headers.insert(&CAPABILITY, HeaderValue::from_static(names::CAPABLE));
    match upstream.send(request, Protocol::Http1).await {
        Ok(response) => {
            response.status() == StatusCode::OK && response.headers().contains_key(&CAPABILITY)
        }
        Err(_) => false,
    }
}
