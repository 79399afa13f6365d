//! The servers beside the data ports, as one type of handler: the code of a server, with HTTP/1 in
//! the clear and over TLS, is in the program once for each type.

use http::{Request, Response};
use hyper::body::Incoming;
use serving::body::Body;
use serving::server::{Connection, Handler};

use crate::admin::{Admin, Profiling};
use crate::metrics::MetricsEndpoint;
use crate::statistics::StatisticsEndpoint;

/// What one of these ports answers with.
#[derive(Debug)]
pub(crate) enum Side {
    /// `/wait-for-drain`.
    Admin(Admin),
    /// The autoscaler's scrapes.
    Statistics(StatisticsEndpoint),
    /// Nothing.
    Profiling(Profiling),
    /// Prometheus' scrapes.
    Metrics(MetricsEndpoint),
}

impl Handler for Side {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, connection: &Connection) -> Response<Body> {
        match self {
            Self::Admin(it) => it.handle(request, connection).await,
            Self::Statistics(it) => it.handle(request, connection).await,
            Self::Profiling(it) => it.handle(request, connection).await,
            Self::Metrics(it) => it.handle(request, connection).await,
        }
    }
}
