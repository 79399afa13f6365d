//! The admin port: `/wait-for-drain`, which every user container's preStop hook calls, and the
//! profiling port, which has nothing to show.

use http::{Request, Response};
use hyper::body::Incoming;
use serving::body::Body;
use serving::lifecycle::Drain;
use serving::server::{Connection, Handler};

use crate::endpoint::{self, Route};

/// Upstream: `pkg/queue/constants.go`, `RequestQueueDrainPath`.
const PATH: &str = "/wait-for-drain";

/// Holds a user container back from its termination until requests have stopped coming.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) drain: Drain,
}

/// Answers that nothing is there: Go's profiles have no counterpart.
#[derive(Debug)]
pub(crate) struct Profiling;

impl Handler for Admin {
    type Guard = ();

    async fn handle(&self, request: Request<Incoming>, _: &Connection) -> Response<Body> {
        match endpoint::route(&request, PATH) {
            Route::Found => {
                self.drain.wait().await;
                Response::new(Body::empty(()))
            }
            other => endpoint::elsewhere(other, PATH, request.method()),
        }
    }
}

impl Handler for Profiling {
    type Guard = ();

    async fn handle(&self, _: Request<Incoming>, _: &Connection) -> Response<Body> {
        endpoint::not_found()
    }
}
