//! The Stat: what one pod, or one activator for one revision, tells the autoscaler, and its protobuf
//! forms. queue-proxy serves a single [`Stat`] over HTTP, activators and other autoscalers send
//! [`WireStatMessages`] in WebSocket frames.
//!
//! Upstream: `pkg/autoscaler/metrics/stat.proto`.

mod batch;

use prost::Message;

pub use batch::{BatchFull, StatBatch, StatRef};

/// A scraper reads no more of a response body than this; `http_scrape_client.go` sizes it for the
/// longest pod name.
pub const MAX_SCRAPE_BYTES: usize = 336;

/// A frame beyond this is refused without decoding it. A report of ten thousand revisions takes
/// about 1 MiB; upstream has no limit.
pub const MAX_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// A frame with more messages than this is refused: two bytes on the wire are enough for a message
/// that takes a hundred times as much memory.
pub const MAX_FRAME_MESSAGES: usize = 65_536;

/// `metrics.Stat`: a single measurement at a point in time.
#[derive(Clone, PartialEq, Message)]
pub struct Stat {
    /// Who measured; the autoscaler counts the distinct names among its samples.
    #[prost(string, tag = "1")]
    pub pod_name: String,
    /// Requests handled at a time, averaged over the reporting period.
    #[prost(double, tag = "2")]
    pub average_concurrent_requests: f64,
    /// The part of those that came through an activator.
    #[prost(double, tag = "3")]
    pub average_proxied_concurrent_requests: f64,
    /// Requests per second (queue-proxy), or since the last report (activator).
    #[prost(double, tag = "4")]
    pub request_count: f64,
    /// The part of those that came through an activator.
    #[prost(double, tag = "5")]
    pub proxied_request_count: f64,
    /// Seconds since the reporting process started, which tells young pods from old ones.
    #[prost(double, tag = "6")]
    pub process_uptime: f64,
    /// Seconds since the Unix epoch; 0 leaves it to the receiver.
    #[prost(int64, tag = "7")]
    pub timestamp: i64,
}

/// `metrics.WireStatMessage`: a Stat and the revision it is about.
#[derive(Clone, PartialEq, Message)]
pub struct WireStatMessage {
    /// Namespace of the revision.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Name of the revision.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Receivers skip a message without it.
    #[prost(message, optional, tag = "3")]
    pub stat: Option<Stat>,
}

/// `metrics.WireStatMessages`: the content of one WebSocket frame.
#[derive(Clone, PartialEq, Message)]
pub struct WireStatMessages {
    /// In the order they were put in.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<WireStatMessage>,
}

/// Why a frame was not decoded.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("stat frame of {bytes} bytes is longer than {MAX_FRAME_BYTES}")]
    TooLong {
        /// The frame's length.
        bytes: usize,
    },
    /// More messages than [`MAX_FRAME_MESSAGES`].
    #[error("stat frame has more than {MAX_FRAME_MESSAGES} messages")]
    TooManyMessages,
    /// Not the protobuf encoding of a [`WireStatMessages`].
    #[error("stat frame is malformed")]
    Malformed(#[from] prost::DecodeError),
}

// === impl Stat ===

impl Stat {
    /// A Stat that says nothing but who would measure: what queue-proxy serves before its first report.
    pub fn of_pod(pod_name: impl Into<String>) -> Self {
        Self {
            pod_name: pod_name.into(),
            ..Self::default()
        }
    }

    /// Decodes a scraped body, of which only the first [`MAX_SCRAPE_BYTES`] count.
    pub fn from_scrape(body: &[u8]) -> Result<Self, prost::DecodeError> {
        Self::decode(&body[..body.len().min(MAX_SCRAPE_BYTES)])
    }

    /// The same values with the pod name borrowed, for [`StatBatch::push`].
    pub fn borrowed(&self) -> StatRef<'_> {
        StatRef {
            pod_name: &self.pod_name,
            average_concurrent_requests: self.average_concurrent_requests,
            average_proxied_concurrent_requests: self.average_proxied_concurrent_requests,
            request_count: self.request_count,
            proxied_request_count: self.proxied_request_count,
            process_uptime: self.process_uptime,
            timestamp: self.timestamp,
        }
    }
}

// === impl WireStatMessages ===

impl WireStatMessages {
    /// Decodes a WebSocket frame within the limits of this module.
    pub fn from_frame(frame: &[u8]) -> Result<Self, FrameError> {
        if frame.len() > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { bytes: frame.len() });
        }
        // The shortest message is its key and a zero length.
        if frame.len() / 2 > MAX_FRAME_MESSAGES && count_messages(frame)? > MAX_FRAME_MESSAGES {
            return Err(FrameError::TooManyMessages);
        }
        Ok(Self::decode(frame)?)
    }
}

/// How many messages a frame holds, without decoding them.
pub(crate) fn count_messages(mut frame: &[u8]) -> Result<usize, prost::DecodeError> {
    use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
    let mut count = 0;
    while !frame.is_empty() {
        let (tag, wire_type) = decode_key(&mut frame)?;
        count += usize::from(tag == 1 && wire_type == WireType::LengthDelimited);
        skip_field(wire_type, tag, &mut frame, DecodeContext::default())?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
