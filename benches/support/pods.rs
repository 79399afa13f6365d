//! Pods by the ten thousand: each an address of loopback whose port 9090 answers a queue-proxy's
//! statistics, all on one listener and one thread.
//!
//! Pods of a cluster are on other machines. Here the kernel charges whoever sends to a thread that
//! sleeps with waking it, and in a virtual machine with waking its core as well, which can be a third
//! of what a scrape costs the autoscaler. So there are pods that never sleep.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use prost::Message as _;
use serving::stat::Stat;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Where statistics are scraped.
pub const PORT: u16 = 9090;

/// What pods do while nobody asks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleep, and leave their core to others.
    Sleep,
    /// Keep a core busy, so that asking one costs no wake-up.
    Spin,
}

/// Running pods; they end when this is dropped.
#[derive(Debug)]
pub struct Pods {
    scrapes: Arc<[AtomicU32]>,
    _stop: oneshot::Sender<()>,
}

/// The address of a pod.
pub fn address(index: usize) -> Ipv4Addr {
    let first = u32::from(Ipv4Addr::new(127, 64, 0, 1));
    Ipv4Addr::from(first + u32::try_from(index).unwrap_or(0))
}

fn index_of(address: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let first = u32::from(Ipv4Addr::new(127, 64, 0, 1));
    usize::try_from(u32::from(*address.ip()).checked_sub(first)?).ok()
}

// === impl Pods ===

impl Pods {
    /// Starts so many pods, each with one request at a time.
    ///
    /// # Errors
    /// When port 9090 is in use.
    pub fn start(count: usize, idle: Idle) -> anyhow::Result<Self> {
        let listener = listen()?;
        let scrapes: Arc<[AtomicU32]> = (0..count).map(|_| AtomicU32::new(0)).collect();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let counted = scrapes.clone();
        std::thread::Builder::new()
            .name("pods".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        _ = accept(listener, counted) => {}
                        () = spin(), if idle == Idle::Spin => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            scrapes,
            _stop: stop,
        })
    }

    /// Scrapes of each pod so far.
    pub fn scrapes(&self) -> Vec<u32> {
        let counts = self.scrapes.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// Never ends, and never lets its thread wait for anything.
async fn spin() {
    loop {
        tokio::task::yield_now().await;
    }
}

fn listen() -> anyhow::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
        .with_context(|| format!("cannot listen on port {PORT} of every loopback address"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept(listener: std::net::TcpListener, scrapes: Arc<[AtomicU32]>) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let stat = Stat {
        pod_name: "bench-00001-deployment-6d8f7c9b5d-abcde".to_owned(),
        average_concurrent_requests: 1.0,
        request_count: 1.0,
        process_uptime: 3600.0,
        ..Stat::default()
    };
    let body = stat.encode_to_vec();
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/protobuf\r\ncontent-length: {}\r\n\
         date: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    let answer: Arc<[u8]> = answer.into();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let index = stream.local_addr().ok().and_then(index_of);
        tokio::spawn(serve(stream, index, scrapes.clone(), answer.clone()));
    }
}

async fn serve(
    mut stream: TcpStream,
    index: Option<usize>,
    scrapes: Arc<[AtomicU32]>,
    answer: Arc<[u8]>,
) {
    let mut request = Vec::with_capacity(256);
    while let Ok(1..) = stream.read_buf(&mut request).await {
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        request.clear();
        if let Some(count) = index.and_then(|index| scrapes.get(index)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_pods() {
        for index in [0, 1, 9_999, 70_000] {
            let asked = SocketAddr::from((address(index), PORT));
            assert_eq!(index_of(asked), Some(index));
        }
        assert_eq!(index_of(SocketAddr::from(([127, 0, 0, 1], PORT))), None);
    }
}
