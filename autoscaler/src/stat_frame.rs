//! Reads the frames that activators send without copying a name: an autoscaler with thousands of
//! revisions looks up a million of them in a second.
//!
//! Accepts and refuses what `WireStatMessages::from_frame` of the serving crate does, apart from the
//! limit on the number of messages, which is for those who keep them. Wire format: upstream's
//! `pkg/autoscaler/metrics/stat.proto`.

/// A stat of one revision, as far as it is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Message<'a> {
    /// Namespace of the revision.
    pub namespace: &'a str,
    /// Name of the revision.
    pub name: &'a str,
    /// Field 2.
    pub average_concurrent_requests: f64,
    /// Field 3.
    pub average_proxied_concurrent_requests: f64,
    /// Field 4.
    pub request_count: f64,
    /// Field 5.
    pub proxied_request_count: f64,
    /// Field 7: Unix seconds, 0 where the receiver is to say.
    pub timestamp: i64,
    has_stat: bool,
}

/// The frame is not the protobuf encoding of a `WireStatMessages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stat frame is malformed")]
pub struct Malformed;

const VARINT: u64 = 0;
const SIXTY_FOUR_BIT: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const START_GROUP: u64 = 3;
const END_GROUP: u64 = 4;
const THIRTY_TWO_BIT: u64 = 5;

/// The largest tag of protobuf.
const MAX_TAG: u64 = (1 << 29) - 1;
/// How deep unknown groups may nest; prost's limit is the same.
const MAX_DEPTH: u32 = 100;

/// Decodes a whole frame into `messages`, leaving out those that carry no stat. A malformed frame
/// leaves nothing, so that no half of it is recorded.
pub fn decode<'a>(frame: &'a [u8], messages: &mut Vec<Message<'a>>) -> Result<(), Malformed> {
    messages.clear();
    let result = for_each_message(frame, |_, message| {
        if message.has_stat {
            messages.push(message);
        }
    });
    if result.is_err() {
        messages.clear();
    }
    result
}

/// Decodes a frame message by message and hands over each together with its own encoding, so that
/// it can be sent on without being encoded again.
pub fn for_each_message<'a>(
    frame: &'a [u8],
    mut each: impl FnMut(&'a [u8], Message<'a>),
) -> Result<(), Malformed> {
    let mut input = Input(frame);
    while !input.0.is_empty() {
        let (tag, wire_type) = input.key()?;
        if tag == 1 {
            let bytes = input.bytes(wire_type)?;
            each(bytes, message(bytes)?);
        } else {
            input.skip(tag, wire_type, 0)?;
        }
    }
    Ok(())
}

fn message(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut message = Message::default();
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        let (tag, wire_type) = input.key()?;
        match tag {
            1 => message.namespace = input.text(wire_type)?,
            2 => message.name = input.text(wire_type)?,
            3 => {
                message.has_stat = true;
                stat(input.bytes(wire_type)?, &mut message)?;
            }
            _ => input.skip(tag, wire_type, 0)?,
        }
    }
    Ok(message)
}

fn stat(bytes: &[u8], message: &mut Message<'_>) -> Result<(), Malformed> {
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        let (tag, wire_type) = input.key()?;
        match tag {
            1 => {
                input.text(wire_type)?;
            }
            2 => message.average_concurrent_requests = input.double(wire_type)?,
            3 => message.average_proxied_concurrent_requests = input.double(wire_type)?,
            4 => message.request_count = input.double(wire_type)?,
            5 => message.proxied_request_count = input.double(wire_type)?,
            6 => {
                input.double(wire_type)?;
            }
            7 if wire_type == VARINT => message.timestamp = input.varint()?.cast_signed(),
            7 => return Err(Malformed),
            _ => input.skip(tag, wire_type, 0)?,
        }
    }
    Ok(())
}

// === impl Message ===

impl Message<'_> {
    /// Whether there is a stat at all; a message without one is skipped.
    pub fn has_stat(&self) -> bool {
        self.has_stat
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for (position, byte) in self.0.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            // Only one bit of the tenth byte fits.
            if position == 9 && *byte > 1 {
                return Err(Malformed);
            }
            value |= bits << (7 * position);
            if byte & 0x80 == 0 {
                self.0 = &self.0[position + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn key(&mut self) -> Result<(u64, u64), Malformed> {
        let key = self.varint()?;
        let (tag, wire_type) = (key >> 3, key & 7);
        if tag == 0 || tag > MAX_TAG || wire_type > THIRTY_TWO_BIT {
            return Err(Malformed);
        }
        Ok((tag, wire_type))
    }

    fn bytes(&mut self, wire_type: u64) -> Result<&'a [u8], Malformed> {
        if wire_type != LENGTH_DELIMITED {
            return Err(Malformed);
        }
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    fn text(&mut self, wire_type: u64) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(wire_type)?).map_err(|_| Malformed)
    }

    fn double(&mut self, wire_type: u64) -> Result<f64, Malformed> {
        if wire_type != SIXTY_FOUR_BIT {
            return Err(Malformed);
        }
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(f64::from_le_bytes(bytes))
    }

    fn skip(&mut self, tag: u64, wire_type: u64, depth: u32) -> Result<(), Malformed> {
        match wire_type {
            VARINT => self.varint().map(drop),
            SIXTY_FOUR_BIT => self.take(8).map(drop),
            LENGTH_DELIMITED => self.bytes(wire_type).map(drop),
            START_GROUP if depth < MAX_DEPTH => loop {
                let (inner, wire_type) = self.key()?;
                if wire_type == END_GROUP {
                    return if inner == tag { Ok(()) } else { Err(Malformed) };
                }
                self.skip(inner, wire_type, depth + 1)?;
            },
            THIRTY_TWO_BIT => self.take(4).map(drop),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use serving::stat::{Stat, WireStatMessage, WireStatMessages};

    use super::*;

    fn summary(messages: &[Message<'_>]) -> Vec<WireStatMessage> {
        let whole = |message: &Message<'_>| WireStatMessage {
            namespace: message.namespace.to_owned(),
            name: message.name.to_owned(),
            stat: Some(Stat {
                average_concurrent_requests: message.average_concurrent_requests,
                average_proxied_concurrent_requests: message.average_proxied_concurrent_requests,
                request_count: message.request_count,
                proxied_request_count: message.proxied_request_count,
                timestamp: message.timestamp,
                ..Stat::default()
            }),
        };
        messages.iter().map(whole).collect()
    }

    /// What the general decoder makes of it, reduced to the fields that are recorded.
    fn reference(frame: &[u8]) -> Option<Vec<WireStatMessage>> {
        let mut decoded = WireStatMessages::decode(frame).ok()?.messages;
        decoded.retain(|message| message.stat.is_some());
        for stat in decoded
            .iter_mut()
            .filter_map(|message| message.stat.as_mut())
        {
            stat.pod_name.clear();
            stat.process_uptime = 0.0;
        }
        Some(decoded)
    }

    fn check(frame: &[u8]) {
        let mut messages = Vec::new();
        let got = decode(frame, &mut messages)
            .ok()
            .map(|()| summary(&messages));
        // NaN is unequal to itself; the text is not.
        let expected = reference(frame);
        assert_eq!(format!("{got:?}"), format!("{expected:?}"), "{frame:?}");
    }

    fn any_message() -> impl Strategy<Value = WireStatMessage> {
        let stat = ("[a-z-]{0,9}", any::<[f64; 5]>(), any::<i64>()).prop_map(
            |(pod_name, [a, b, c, d, e], timestamp)| Stat {
                pod_name,
                average_concurrent_requests: a,
                average_proxied_concurrent_requests: b,
                request_count: c,
                proxied_request_count: d,
                process_uptime: e,
                timestamp,
            },
        );
        ("[a-zé-]{0,9}", "[a-z0-9-]{0,9}", proptest::option::of(stat)).prop_map(
            |(namespace, name, stat)| WireStatMessage {
                namespace,
                name,
                stat,
            },
        )
    }

    proptest! {
        #[test]
        fn agrees_with_the_general_decoder(
            messages in proptest::collection::vec(any_message(), 0..5),
            unknown in proptest::collection::vec(any::<u8>(), 0..12),
            flip in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut frame = WireStatMessages { messages }.encode_to_vec();
            check(&frame);
            frame.extend(&unknown);
            check(&frame);
            if let Some((index, byte)) = flip && !frame.is_empty() {
                let position = index.index(frame.len());
                frame[position] ^= byte;
                check(&frame);
            }
        }

        #[test]
        fn agrees_on_anything(frame in proptest::collection::vec(any::<u8>(), 0..40)) {
            check(&frame);
        }
    }

    #[test]
    fn a_message_can_be_sent_on_as_it_is() {
        let stat = Some(Stat {
            request_count: 3.0,
            ..Stat::default()
        });
        let message = WireStatMessage {
            namespace: "ns".into(),
            name: "rev".into(),
            stat,
        };
        let frame = WireStatMessages {
            messages: vec![message.clone()],
        }
        .encode_to_vec();
        let mut encodings = Vec::new();
        for_each_message(&frame, |bytes, _| encodings.push(bytes.to_vec())).unwrap();
        assert_eq!(encodings, [message.encode_to_vec()]);
    }
}
