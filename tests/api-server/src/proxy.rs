//! A TCP proxy in front of the API server that can be slow, silent or gone.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing.
    Open,
    /// Each piece takes so long in each direction.
    Slow(Duration),
    /// Connections stay, and nothing passes.
    Silent,
    /// Connections are closed, new ones at once.
    Cut,
}

/// A proxy, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    link: watch::Sender<Link>,
    connections: Rc<Cell<usize>>,
}

impl Proxy {
    /// Listens, and forwards to `target` until it is dropped.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, state) = watch::channel(Link::Open);
        let connections = Rc::new(Cell::new(0));
        let count = Rc::clone(&connections);
        tokio::task::spawn_local(async move {
            let mut ended = state.clone();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    // Dropped.
                    Err(_) = ended.wait_for(|_| false) => return,
                };
                if let Ok((stream, _)) = accepted {
                    count.set(count.get() + 1);
                    tokio::task::spawn_local(forward(stream, target, state.clone()));
                }
            }
        });
        Self {
            address,
            link,
            connections,
        }
    }

    /// How many connections there were so far, closed ones included.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// From now on, for all connections.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn forward(client: TcpStream, target: SocketAddr, link: watch::Receiver<Link>) {
    if *link.borrow() == Link::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut cut = link.clone();
    tokio::select! {
        () = pump(client_read, server_write, link.clone()) => {}
        () = pump(server_read, client_write, link) => {}
        _ = cut.wait_for(|link| *link == Link::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: watch::Receiver<Link>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let now = *link.borrow();
        match now {
            Link::Slow(delay) => tokio::time::sleep(delay).await,
            Link::Silent => {
                if link.wait_for(|link| *link != Link::Silent).await.is_err() {
                    return;
                }
            }
            Link::Open | Link::Cut => {}
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
