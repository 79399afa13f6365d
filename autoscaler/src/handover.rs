//! Windows that a leader on its way out hands to those who may lead next, so that a restart is not a
//! cold start.
//!
//! The old leader sends what it has collected to every other replica; whoever becomes the leader of a
//! revision fills its new collection with it. Both sides are bounded in size and time, and what is
//! handed over never stands for data: a collection that has heard nothing itself still says so.
//!
//! Pure; `stat_server` receives messages, `kubernetes` sends them, the driver keeps them. Upstream
//! has nothing like it: replicas that do not know it refuse the request and go on as ever.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serving::RevisionId;
use tokio::time::Instant;

/// The version of the messages, in the header `Pilotlight-Handover`.
pub const VERSION: &str = "1";
/// Most bytes of one message.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Most seconds of one revision; those of a longer window that are older are lost.
pub const MAX_SECONDS: usize = 600;
/// Most seconds of all revisions together: 32 MiB, a minute of thirty thousand revisions.
pub const MAX_TOTAL_SECONDS: usize = 2_000_000;
/// How long what was handed over waits for this replica to become a leader. A released Lease is
/// taken within twice the retry period and a little, 22 s by default.
pub const KEPT: Duration = Duration::from_secs(60);

/// What a message may be long at most besides the values: names and lengths.
const OVERHEAD_BYTES: usize = 600;

/// The body of one message.
#[derive(Clone, PartialEq, prost::Message)]
struct Handover {
    #[prost(message, repeated, tag = "1")]
    revisions: Vec<Windows>,
}

/// The last seconds of one revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Windows {
    /// Namespace of the revision.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Name of the revision.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The Unix second of the first of the values.
    #[prost(int64, tag = "3")]
    pub newest: i64,
    /// Requests at once, second by second, newest first.
    #[prost(double, repeated, tag = "4")]
    pub concurrency: Vec<f64>,
    /// Requests per second, likewise.
    #[prost(double, repeated, tag = "5")]
    pub requests: Vec<f64>,
}

/// Why a message is refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidHandover {
    /// It is not the protobuf message.
    #[error("hand-over is malformed")]
    Malformed(#[from] prost::DecodeError),
    /// The two columns of a revision differ in length, or are too long.
    #[error("hand-over of {0} has columns of different or excessive length")]
    Columns(RevisionId),
}

/// What waits to be claimed.
#[derive(Debug, Default)]
pub struct HandedOver {
    windows: HashMap<RevisionId, Windows>,
    seconds: usize,
    until: Option<Instant>,
}

// === impl Windows ===

impl Windows {
    /// Whose they are.
    pub fn id(&self) -> RevisionId {
        RevisionId::new(&self.namespace, &self.name)
    }

    /// Second, concurrency and requests of each second, oldest first.
    pub fn seconds(&self) -> impl Iterator<Item = (i64, f64, f64)> {
        let values = self.concurrency.iter().zip(&self.requests).enumerate();
        values.rev().map(|(age, (concurrency, requests))| {
            (self.newest - age as i64, *concurrency, *requests)
        })
    }

    fn is_sound(&self) -> bool {
        self.concurrency.len() == self.requests.len() && self.requests.len() <= MAX_SECONDS
    }
}

/// Divides windows into messages, up to the limits; what is beyond them is left out.
pub fn encode(windows: impl IntoIterator<Item = Windows>) -> Vec<Bytes> {
    let mut messages = Vec::new();
    let mut message = Handover::default();
    let mut bytes = 0;
    let mut seconds = 0;
    for windows in windows {
        seconds += windows.requests.len();
        if seconds > MAX_TOTAL_SECONDS {
            tracing::warn!("more windows than can be handed over; some start anew");
            break;
        }
        let length = windows.encoded_len() + OVERHEAD_BYTES;
        if bytes + length > MAX_MESSAGE_BYTES {
            messages.push(std::mem::take(&mut message).encode_to_vec().into());
            bytes = 0;
        }
        bytes += length;
        message.revisions.push(windows);
    }
    if !message.revisions.is_empty() {
        messages.push(message.encode_to_vec().into());
    }
    messages
}

/// Reads one message, whole or not at all.
pub fn decode(message: &[u8]) -> Result<Vec<Windows>, InvalidHandover> {
    let revisions = Handover::decode(message)?.revisions;
    match revisions.iter().find(|windows| !windows.is_sound()) {
        Some(windows) => Err(InvalidHandover::Columns(windows.id())),
        None => Ok(revisions),
    }
}

// === impl HandedOver ===

impl HandedOver {
    /// Keeps windows for a while. Of two for the same revision the newer ones stay.
    pub fn keep(&mut self, windows: Windows, now: Instant) {
        self.expire(now);
        let id = windows.id();
        if self
            .windows
            .get(&id)
            .is_some_and(|known| known.newest >= windows.newest)
        {
            return;
        }
        self.claim(&id);
        if self.seconds + windows.requests.len() > MAX_TOTAL_SECONDS {
            return;
        }
        self.seconds += windows.requests.len();
        self.until = Some(now + KEPT);
        self.windows.insert(id, windows);
    }

    /// The windows of a revision, once.
    pub fn claim(&mut self, id: &RevisionId) -> Option<Windows> {
        let windows = self.windows.remove(id)?;
        self.seconds -= windows.requests.len();
        Some(windows)
    }

    /// Forgets what nobody has claimed.
    pub fn expire(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            *self = Self::default();
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(name: &str, newest: i64, seconds: usize) -> Windows {
        Windows {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            newest,
            concurrency: (0..seconds).map(|age| age as f64).collect(),
            requests: vec![2.0; seconds],
        }
    }

    #[test]
    fn what_is_sent_arrives_in_order_of_time() {
        let messages = encode([windows("a", 100, 3), windows("b", 90, 0)]);
        assert_eq!(messages.len(), 1);
        let got = decode(&messages[0]).unwrap();
        let seconds: Vec<_> = got[0].seconds().collect();
        assert_eq!(seconds, [(98, 2.0, 2.0), (99, 1.0, 2.0), (100, 0.0, 2.0)]);
        assert_eq!(got[1].id(), RevisionId::new("default", "b"));
    }

    #[test]
    fn messages_and_their_sum_are_bounded() {
        let many = (0..40_000).map(|number| windows(&number.to_string(), 0, 60));
        let messages = encode(many);
        assert!(messages.len() > 1);
        assert!(
            messages
                .iter()
                .all(|message| message.len() <= MAX_MESSAGE_BYTES)
        );
        let revisions: usize = messages.iter().map(|it| decode(it).unwrap().len()).sum();
        assert_eq!(revisions, MAX_TOTAL_SECONDS / 60);
    }

    #[test]
    fn unsound_messages_are_refused_whole() {
        assert!(decode(b"\xff").is_err());
        let mut uneven = windows("a", 0, 3);
        uneven.requests.pop();
        let message = Handover {
            revisions: vec![windows("b", 0, 1), uneven],
        };
        let error = decode(&message.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains("default/a"), "{error}");
        for (seconds, sound) in [(MAX_SECONDS, true), (MAX_SECONDS + 1, false)] {
            let message = Handover {
                revisions: vec![windows("a", 0, seconds)],
            };
            assert_eq!(decode(&message.encode_to_vec()).is_ok(), sound, "{seconds}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_in_size_and_time() {
        let now = Instant::now();
        let mut handed = HandedOver::default();
        let fit = MAX_TOTAL_SECONDS / MAX_SECONDS;
        for number in 0..fit + 3 {
            handed.keep(windows(&number.to_string(), 0, MAX_SECONDS), now);
        }
        assert_eq!(handed.windows.len(), fit);
        let id = |number: usize| RevisionId::new("default", number.to_string());
        assert!(handed.claim(&id(0)).is_some());
        assert!(handed.claim(&id(0)).is_none(), "once");
        // There is room again.
        handed.keep(windows("late", 0, MAX_SECONDS), now);
        assert!(handed.claim(&RevisionId::new("default", "late")).is_some());
        handed.expire(now + KEPT - Duration::from_secs(1));
        assert_eq!(handed.windows.len(), fit - 1);
        assert_eq!(handed.until(), Some(now + KEPT));
        handed.expire(now + KEPT);
        assert!(handed.windows.is_empty() && handed.seconds == 0);
        assert_eq!(handed.until(), None);
    }

    #[test]
    fn the_newer_of_two_stays() {
        let now = Instant::now();
        let mut handed = HandedOver::default();
        for newest in [5, 9, 7] {
            handed.keep(windows("a", newest, 2), now);
        }
        let kept = handed.claim(&RevisionId::new("default", "a")).unwrap();
        assert_eq!(kept.newest, 9);
        assert_eq!(handed.seconds, 0);
    }
}
