//! Writes many Stats into one frame without building the messages first: an activator with
//! thousands of revisions does this every second.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{MAX_FRAME_BYTES, MAX_FRAME_MESSAGES};

/// A [`super::Stat`] whose pod name is borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are those of Stat")]
pub struct StatRef<'a> {
    pub pod_name: &'a str,
    pub average_concurrent_requests: f64,
    pub average_proxied_concurrent_requests: f64,
    pub request_count: f64,
    pub proxied_request_count: f64,
    pub process_uptime: f64,
    pub timestamp: i64,
}

/// The encoding of a [`super::WireStatMessages`] in the making. Its buffer is used again and again.
#[derive(Debug, Default)]
pub struct StatBatch {
    buffer: BytesMut,
    messages: usize,
}

/// One more message would take the frame over [`MAX_FRAME_BYTES`] or [`MAX_FRAME_MESSAGES`];
/// [`StatBatch::take`] what there is and push again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stat frame is full")]
pub struct BatchFull;

// === impl StatBatch ===

impl StatBatch {
    /// A batch without messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages [`take`](Self::take) will return.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Appends the Stat of a revision.
    ///
    /// A single message that is longer than a whole frame may be is full on an empty batch too;
    /// Kubernetes names are far shorter.
    pub fn push(
        &mut self,
        namespace: &str,
        name: &str,
        stat: &StatRef<'_>,
    ) -> Result<(), BatchFull> {
        let stat_len = stat.encoded_len();
        let message_len = text_len(namespace)
            + text_len(name)
            + 1
            + encoded_len_varint(stat_len as u64)
            + stat_len;
        let field_len = 1 + encoded_len_varint(message_len as u64) + message_len;
        if self.messages >= MAX_FRAME_MESSAGES || self.buffer.len() + field_len > MAX_FRAME_BYTES {
            return Err(BatchFull);
        }
        let out = &mut self.buffer;
        out.reserve(field_len);
        encode_key(1, WireType::LengthDelimited, out);
        encode_varint(message_len as u64, out);
        put_text(1, namespace, out);
        put_text(2, name, out);
        encode_key(3, WireType::LengthDelimited, out);
        encode_varint(stat_len as u64, out);
        stat.encode(out);
        self.messages += 1;
        Ok(())
    }

    /// The frame's bytes; the batch is empty afterwards.
    ///
    /// The allocation comes back once the returned bytes are dropped, so that a sender that is done
    /// before the next batch begins allocates only once.
    pub fn take(&mut self) -> Bytes {
        self.messages = 0;
        self.buffer.split().freeze()
    }
}

// === impl StatRef ===

impl StatRef<'_> {
    fn doubles(&self) -> [f64; 5] {
        [
            self.average_concurrent_requests,
            self.average_proxied_concurrent_requests,
            self.request_count,
            self.proxied_request_count,
            self.process_uptime,
        ]
    }

    fn encoded_len(&self) -> usize {
        let doubles = self.doubles().iter().filter(|value| **value != 0.0).count();
        let timestamp = match self.timestamp {
            0 => 0,
            seconds => 1 + encoded_len_varint(seconds as u64),
        };
        text_len(self.pod_name) + doubles * 9 + timestamp
    }

    fn encode(&self, out: &mut BytesMut) {
        put_text(1, self.pod_name, out);
        for (tag, value) in (2..).zip(self.doubles()) {
            // Proto3 leaves zero values out, a negative zero too.
            if value != 0.0 {
                encode_key(tag, WireType::SixtyFourBit, out);
                out.put_f64_le(value);
            }
        }
        if self.timestamp != 0 {
            encode_key(7, WireType::Varint, out);
            encode_varint(self.timestamp as u64, out);
        }
    }
}

fn text_len(text: &str) -> usize {
    match text.len() {
        0 => 0,
        len => 1 + encoded_len_varint(len as u64) + len,
    }
}

fn put_text(tag: u32, text: &str, out: &mut BytesMut) {
    if !text.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(text.len() as u64, out);
        out.put_slice(text.as_bytes());
    }
}
