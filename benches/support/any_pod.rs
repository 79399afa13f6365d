//! A pod that speaks HTTP/1.1 and HTTP/2 and passes probes: slower than nginx, which speaks only one
//! of them on a port.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use serving::body::Body;
use serving::header;
use serving::server::{self, Connection, Handler, Listener, ServerOptions, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::peers::loopback;

/// A pod on a thread of its own, until this is dropped.
#[derive(Debug)]
pub struct AnyPod {
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct App;

// === impl AnyPod ===

impl AnyPod {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When no port or thread is to be had.
    pub fn start() -> anyhow::Result<Self> {
        let socket = std::net::TcpListener::bind(loopback(0))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("pod".to_owned()).spawn(
            move || -> anyhow::Result<()> {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(tokio::runtime::LocalOptions::default())?;
                runtime.block_on(async {
                    let listener = Listener::plain(TcpListener::from_std(socket)?);
                    let (options, shutdown) = (ServerOptions::default(), Shutdown::new());
                    tokio::select! {
                        _ = stopped => {}
                        () = server::serve(vec![listener], Rc::new(App), options, shutdown) => {}
                    }
                    Ok(())
                })
            },
        )?;
        Ok(Self {
            address,
            _stop: stop,
        })
    }
}

impl Handler for App {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        let is_probe = request.headers().contains_key(&header::PROBE);
        let text = if is_probe { header::QUEUE_NAME } else { "ok\n" };
        Response::new(Body::full(text, ()))
    }
}
