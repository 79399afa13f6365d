//! Ports for replicas: free now, and outside the range that the system hands out by itself.
//!
//! A port of the ephemeral range could be taken by any outgoing connection between the moment it
//! was found free and the moment the app binds it.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// The range that is used when it lies outside the ephemeral one; few programs have a port in it.
const PREFERRED: std::ops::Range<u16> = 20_000..32_000;

/// The ephemeral range of Linux when it cannot be read.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// Hands out ports.
#[derive(Debug)]
pub struct Ports {
    range: std::ops::Range<u16>,
    next: u16,
    taken: BTreeSet<u16>,
}

/// No port of the range is free.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no free port between {0} and {1}")]
pub struct NoFreePort(u16, u16);

// === impl Ports ===

impl Ports {
    /// Ports outside the ephemeral range that `ip_local_port_range` (the file's text) names,
    /// beginning somewhere in it so that several programs rarely meet.
    pub fn new(ip_local_port_range: Option<&str>, random: u16) -> Self {
        let (low, high) = ip_local_port_range
            .and_then(|text| {
                let mut numbers = text.split_whitespace().map(str::parse);
                Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
            })
            .unwrap_or(EPHEMERAL);
        let range = if high < PREFERRED.start || low >= PREFERRED.end {
            PREFERRED
        } else if low > 12_000 {
            low - 10_000..low
        } else {
            high.saturating_add(1).max(1024)..u16::MAX
        };
        let next = range.start + random % range.len().max(1) as u16;
        Self {
            range,
            next,
            taken: BTreeSet::new(),
        }
    }

    /// The next port that nothing listens on. It stays taken until [`Ports::release`].
    pub fn take(&mut self) -> Result<u16, NoFreePort> {
        for _ in 0..self.range.len() {
            let port = self.next;
            self.next = if port + 1 >= self.range.end {
                self.range.start
            } else {
                port + 1
            };
            if !self.taken.contains(&port) && is_free(port) {
                self.taken.insert(port);
                return Ok(port);
            }
        }
        Err(NoFreePort(self.range.start, self.range.end))
    }

    /// Gives a port back.
    pub fn release(&mut self, port: u16) {
        self.taken.remove(&port);
    }
}

/// Whether an app could bind the port, on whichever address it likes.
fn is_free(port: u16) -> bool {
    let v4 = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    if v4.is_err() {
        return false;
    }
    drop(v4);
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Ok(_) => true,
        // A machine without IPv6 has nothing to collide there.
        Err(error) => error.kind() != io::ErrorKind::AddrInUse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ephemeral_range_is_left_alone() {
        for (text, expected) in [
            (None, 20_000..32_000),
            (Some("32768\t60999\n"), 20_000..32_000),
            (Some("15000 65000"), 5_000..15_000),
            (Some("1024 40000"), 40_001..u16::MAX),
            (Some("garbage"), 20_000..32_000),
        ] {
            let ports = Ports::new(text, 12_345);
            assert_eq!(ports.range, expected, "{text:?}");
            assert!(ports.range.contains(&ports.next), "{text:?}");
        }
    }

    #[test]
    fn ports_in_use_are_passed_over_and_come_back_when_released() {
        let mut ports = Ports::new(None, 7);
        let first = ports.take().expect("a port");
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, first + 1));
        let second = ports.take().expect("a port");
        assert!(second > first + 1);
        ports.range = first..first + 1;
        ports.next = first;
        assert_eq!(ports.take(), Err(NoFreePort(first, first + 1)));
        ports.release(first);
        assert_eq!(ports.take(), Ok(first));
    }
}
