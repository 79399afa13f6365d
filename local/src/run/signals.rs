//! The signals that end a run.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// One that came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Received {
    Interrupt,
    Terminate,
}

impl Received {
    /// Its number.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Receives them.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: RefCell<Signal>,
    terminate: RefCell<Signal>,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?.into(),
            terminate: signal(SignalKind::terminate())?.into(),
        })
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&self) -> Received {
        poll_fn(|context| {
            if self.interrupt.borrow_mut().poll_recv(context).is_ready() {
                return Poll::Ready(Received::Interrupt);
            }
            if self.terminate.borrow_mut().poll_recv(context).is_ready() {
                return Poll::Ready(Received::Terminate);
            }
            Poll::Pending
        })
        .await
    }
}
