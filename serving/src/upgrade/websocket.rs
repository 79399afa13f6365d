//! Where a stream of WebSocket frames stands, from the frames' headers alone (RFC 6455 section 5).

/// Status of a close frame: the endpoint goes away.
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();
/// The final fragment of a close frame.
const CLOSE: u8 = 0x88;
/// Set in the second byte of a frame with a masking key.
const MASKED: u8 = 0x80;

/// A close frame to a client.
pub(super) const CLOSE_TO_CLIENT: [u8; 4] = [CLOSE, 2, GOING_AWAY[0], GOING_AWAY[1]];
/// A close frame to a server. Its mask is zero, which hides nothing and need not here.
pub(super) const CLOSE_TO_SERVER: [u8; 8] =
    [CLOSE, MASKED | 2, 0, 0, 0, 0, GOING_AWAY[0], GOING_AWAY[1]];

/// The position in a stream of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Position {
    /// Between two frames.
    #[default]
    Boundary,
    /// After the first byte.
    Length,
    /// Bytes missing of an extended length, what they say so far, and whether a key follows.
    Extended(u8, u64, bool),
    /// Bytes missing of key and payload.
    Rest(u64),
}

// === impl Position ===

impl Position {
    pub(super) fn is_boundary(self) -> bool {
        self == Self::Boundary
    }

    /// Moves over all bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.step(bytes);
            bytes = &bytes[passed..];
        }
    }

    /// Moves until the next boundary, or over all bytes if there is none; says how many.
    pub(super) fn pass_to_boundary(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() && !self.is_boundary() {
            passed += self.step(&bytes[passed..]);
        }
        passed
    }

    /// Moves over at least one byte.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        let (next, passed) = match *self {
            Self::Boundary => (Self::Length, 1),
            Self::Length => {
                let masked = byte & MASKED != 0;
                let next = match byte & !MASKED {
                    126 => Self::Extended(2, 0, masked),
                    127 => Self::Extended(8, 0, masked),
                    short => Self::rest(u64::from(short), masked),
                };
                (next, 1)
            }
            Self::Extended(missing, length, masked) => {
                let length = length << 8 | u64::from(byte);
                let next = match missing {
                    1 => Self::rest(length, masked),
                    _ => Self::Extended(missing - 1, length, masked),
                };
                (next, 1)
            }
            Self::Rest(missing) => {
                let passed = usize::try_from(missing)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                (Self::rest(missing - passed as u64, false), passed)
            }
        };
        *self = next;
        passed
    }

    fn rest(length: u64, masked: bool) -> Self {
        let missing = length.saturating_add(if masked { 4 } else { 0 });
        if missing == 0 {
            Self::Boundary
        } else {
            Self::Rest(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![0x82];
        if length < 126 {
            frame.push(mask | length as u8);
        } else if let Ok(short) = u16::try_from(length) {
            frame.push(mask | 126);
            frame.extend(short.to_be_bytes());
        } else {
            frame.push(mask | 127);
            frame.extend((length as u64).to_be_bytes());
        }
        frame.resize(frame.len() + length + if masked { 4 } else { 0 }, 0xff);
        frame
    }

    proptest! {
        /// However the bytes are cut, boundaries are where frames end.
        #[test]
        fn finds_every_boundary(
            frames in proptest::collection::vec((0..70_000usize, any::<bool>()), 1..5),
            cut in 1..5000usize,
        ) {
            let mut ends = Vec::new();
            let mut stream = Vec::new();
            for (length, masked) in frames {
                stream.extend(frame(length, masked));
                ends.push(stream.len());
            }
            let mut found = Vec::new();
            let mut position = Position::default();
            let mut at = 0;
            while at < stream.len() {
                let piece = &stream[at..stream.len().min(at + cut)];
                if position.is_boundary() {
                    position.pass(&piece[..1]);
                    at += 1;
                } else {
                    at += position.pass_to_boundary(piece);
                }
                if position.is_boundary() {
                    found.push(at);
                }
            }
            prop_assert_eq!(found, ends);
        }
    }

    #[test]
    fn close_frames_are_frames() {
        for close in [&CLOSE_TO_CLIENT[..], &CLOSE_TO_SERVER[..]] {
            let mut position = Position::default();
            position.pass(close);
            assert!(position.is_boundary());
        }
    }
}
