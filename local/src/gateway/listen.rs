//! Binding the front port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::exit::{self, Exit};
use crate::options::Listen;

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// The front port's sockets, bound and not yet listening.
#[derive(Debug)]
pub struct Front {
    sockets: Vec<(SocketAddr, TcpSocket)>,
}

// === impl Front ===

impl Front {
    /// The addresses, the same port in all.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(address, _)| *address).collect()
    }

    /// Lets clients connect.
    pub fn listen(self) -> Result<Vec<TcpListener>, Exit> {
        self.sockets
            .into_iter()
            .map(|(address, socket)| {
                socket
                    .listen(BACKLOG)
                    .map_err(|error| taken(address, &error))
            })
            .collect()
    }
}

/// Binds the front port, on both loopback addresses unless one address was asked for. Must be
/// called within a runtime.
pub fn bind(listen: Listen) -> Result<Front, Exit> {
    let asked = |address| socket(address).map_err(|error| taken(address, &error));
    let sockets = match listen {
        Listen::Address(address) => vec![asked(address)?],
        Listen::Loopback(port) => {
            let first = asked(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
            let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, first.0.port()));
            match socket(v6) {
                Ok(second) => vec![first, second],
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(taken(v6, &error));
                }
                // A machine without IPv6.
                Err(_) => vec![first],
            }
        }
    };
    Ok(Front { sockets })
}

fn socket(address: SocketAddr) -> io::Result<(SocketAddr, TcpSocket)> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let bound = socket.local_addr()?;
    Ok((bound, socket))
}

fn taken(address: SocketAddr, error: &io::Error) -> Exit {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program has it; end that one or choose another port with --listen"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need privileges; choose another with --listen"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; choose another with --listen"
        }
        _ => "choose another with --listen",
    };
    Exit::new(
        exit::CANNOT_LISTEN,
        format!("cannot listen on {address}: {error}; {advice}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_advice() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = holder.local_addr().expect("bound").port();
        let error = bind(Listen::Loopback(port))
            .and_then(Front::listen)
            .expect_err("taken");
        assert_eq!(error.code, exit::CANNOT_LISTEN);
        assert!(
            error.message.contains(&format!("127.0.0.1:{port}")),
            "{error}"
        );
        assert!(error.message.contains("--listen"), "{error}");
    }

    #[tokio::test]
    async fn port_0_is_the_same_on_both_addresses() {
        let front = bind(Listen::Loopback(0)).expect("bound");
        let addresses = front.addresses();
        let ports: Vec<_> = addresses.iter().map(SocketAddr::port).collect();
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
        let listeners = front.listen().expect("listening");
        assert_eq!(listeners.len(), addresses.len());
    }
}
