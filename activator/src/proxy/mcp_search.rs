//! The search for the pod that has an MCP session.
//!
//! The app gives the session's id out, so nothing of the id leads to a pod. An activator remembers
//! what it has seen; for the rest it asks one pod after the other, for as long as they say that they
//! do not have the session. A pod that is known to have it may have had no room; once another one has
//! said that it does not have the session, the known one is waited for. How often one request is sent
//! is bounded by its redispatches, and how many searches there are by the revision's budget of retries.

use std::net::SocketAddr;

use http::StatusCode;
use tokio::time::Instant;

use crate::affinity::Session;
use crate::table::Entry;

/// A request of an app's session, of which not every activator knows where it is.
pub(super) struct Search {
    key: u64,
    /// The pod that has it, as far as this activator has seen.
    known: Option<SocketAddr>,
    /// Those that do not.
    asked: Vec<SocketAddr>,
}

// === impl Search ===

impl Search {
    /// Boxed: few requests have one.
    pub(super) fn of(entry: &Entry, session: Option<Session>) -> Option<Box<Self>> {
        let Session { key, pod, .. } = session?;
        entry.sessions.as_ref()?;
        Some(Box::new(Self {
            key,
            known: pod,
            asked: Vec::new(),
        }))
    }

    /// Whether this pod may not have the session, and the request may have to go on.
    pub(super) fn may_go_on_from(&self, pod: SocketAddr) -> bool {
        self.known != Some(pod)
    }

    /// Where to go on after this answer; `None` if it is the one for the client. An app answers 404
    /// to a session that it does not have (Model Context Protocol, "Session Management"), and has
    /// done nothing then.
    pub(super) fn after(
        &mut self,
        entry: &Entry,
        pod: SocketAddr,
        status: StatusCode,
        may_go_on: bool,
    ) -> Option<Session> {
        let is_elsewhere = |known: &SocketAddr| *known != pod && !entry.throttler.uses(*known);
        if self.known.as_ref().is_some_and(is_elsewhere) {
            // It is gone, and the session may be anywhere or nowhere.
            self.known = None;
        }
        if self.known.is_none()
            && status.is_success()
            && let Some(sessions) = &entry.sessions
        {
            sessions.lock().learn(self.key, pod);
        }
        if status != StatusCode::NOT_FOUND || self.known == Some(pod) || !may_go_on {
            return None;
        }
        self.asked.push(pod);
        if let Some(session) = self.once_more() {
            return Some(session);
        }
        let next = entry.throttler.next_to_ask(self.key, &self.asked)?;
        let session = Session::new(self.key, Some(next));
        // Anybody can make sessions up.
        let may_retry = entry.throttler.may_retry(Instant::now());
        may_retry.then_some(session)
    }

    /// The known pod, once another one has said that it does not have the session: also for a request
    /// that the known one did not start, or lost. It takes nothing of the budget: an activator that
    /// knows a session was told of it by a pod, and each way to another pod ends with this one.
    pub(super) fn once_more(&self) -> Option<Session> {
        let known = self.known.filter(|_| !self.asked.is_empty())?;
        Some(Session::only_at(self.key, known))
    }
}
