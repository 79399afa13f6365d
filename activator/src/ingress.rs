//! KIngress (`networking.internal.knative.dev/v1alpha1` Ingress): the activator as its own gateway.
//!
//! Pure: `spec` and its hash, `table` (which path a request takes), `services` (where a split's
//! Service leads), `status` (what to write). Shell: `front` serves the ports of an entry, and the
//! watches are `kubernetes::ingress`. A small cluster needs no other gateway; with one, nothing
//! here runs. Upstream: `knative.dev/networking/pkg/apis/networking/v1alpha1`, and net-kourier for
//! what the specification leaves open.

pub mod front;
pub(crate) mod names;
pub mod reconciler;
mod rewrite;
pub mod services;
pub mod spec;
pub mod status;
pub mod table;
