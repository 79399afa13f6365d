//! `config-leader-election`: buckets and lease timing of replicated components.
//! Upstream: `knative.dev/pkg/leaderelection/config.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Data, InvalidConfig, Reader};
use crate::go::duration_to_std;

/// The name of the ConfigMap.
pub const NAME: &str = "config-leader-election";

/// The largest number of buckets.
pub const MAX_BUCKETS: u32 = 10;

/// client-go spreads retries by this factor, so the renew deadline must leave room for it.
const JITTER_FACTOR: f64 = 1.2;

const SECOND: i64 = 1_000_000_000;
const LEASE_NAMES_PREFIX: &str = "map-lease-prefix";

/// Leader election as it stands in the ConfigMap. Durations are nanoseconds and, as upstream, not
/// yet checked against each other: see [`LeaderElection::timing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElection {
    /// `buckets`: how many shares the work is divided into, 1 to [`MAX_BUCKETS`].
    pub buckets: u32,
    /// `lease-duration`, nanoseconds: how long a lease outlives its last renewal.
    pub lease_duration: i64,
    /// `renew-deadline`, nanoseconds: how long a leader tries to renew before it gives up.
    pub renew_deadline: i64,
    /// `retry-period`, nanoseconds: the pause between two tries.
    pub retry_period: i64,
    /// `map-lease-prefix.*`: other names for leases. The autoscaler's leases have fixed names.
    pub lease_names_prefix_mapping: BTreeMap<String, String>,
}

/// Lease timing that holds no contradiction: the lease outlives the renew deadline, and that leaves
/// room for more than one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// How long a lease outlives its last renewal.
    pub lease_duration: Duration,
    /// How long a leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// The pause between two tries.
    pub retry_period: Duration,
}

// === impl LeaderElection ===

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            buckets: 1,
            lease_duration: 60 * SECOND,
            renew_deadline: 40 * SECOND,
            retry_period: 10 * SECOND,
            lease_names_prefix_mapping: BTreeMap::new(),
        }
    }
}

impl LeaderElection {
    /// Parses the ConfigMap's data on top of the defaults. Upstream: `NewConfigFromMap`.
    pub fn parse(data: &Data) -> Result<Self, InvalidConfig> {
        let mut config = Self::default();
        let mut reader = Reader::new(data);
        // The legacy spellings come first, so that the newer ones win.
        for [lease_duration, renew_deadline, retry_period] in [
            ["leaseDuration", "renewDeadline", "retryPeriod"],
            ["lease-duration", "renew-deadline", "retry-period"],
        ] {
            reader.duration(lease_duration, &mut config.lease_duration);
            reader.duration(renew_deadline, &mut config.renew_deadline);
            reader.duration(retry_period, &mut config.retry_period);
        }
        reader.uint32("buckets", &mut config.buckets);
        config.lease_names_prefix_mapping = lease_names(data);
        reader.check()?;
        let buckets = config.buckets;
        reader.require((1..=MAX_BUCKETS).contains(&buckets), || {
            format!("buckets: value must be between 1 <= {buckets} <= {MAX_BUCKETS}")
        });
        reader.check()?;
        Ok(config)
    }

    /// The timing, when its parts fit together. client-go checks this when an elector is made,
    /// and the process does not start otherwise. Upstream: `leaderelection.NewLeaderElector`.
    pub fn timing(&self) -> Result<LeaseTiming, InvalidConfig> {
        let empty = Data::new();
        let mut reader = Reader::new(&empty);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "the reference multiplies in doubles; the cast back saturates"
        )]
        let jittered = (self.retry_period as f64 * JITTER_FACTOR) as i64;
        for (holds, complaint) in [
            (
                self.lease_duration > self.renew_deadline,
                "leaseDuration must be greater than renewDeadline",
            ),
            (
                self.renew_deadline > jittered,
                "renewDeadline must be greater than retryPeriod*JitterFactor",
            ),
            (
                self.lease_duration > 0,
                "leaseDuration must be greater than zero",
            ),
            (
                self.renew_deadline > 0,
                "renewDeadline must be greater than zero",
            ),
            (
                self.retry_period > 0,
                "retryPeriod must be greater than zero",
            ),
        ] {
            reader.require(holds, || complaint.to_owned());
        }
        reader.check()?;
        Ok(LeaseTiming {
            lease_duration: duration_to_std(self.lease_duration),
            renew_deadline: duration_to_std(self.renew_deadline),
            retry_period: duration_to_std(self.retry_period),
        })
    }
}

/// Keys that begin with the prefix, any one character (meant to be a point) and something more.
fn lease_names(data: &Data) -> BTreeMap<String, String> {
    data.iter()
        .filter_map(|(key, value)| {
            let mut rest = key.strip_prefix(LEASE_NAMES_PREFIX)?.chars();
            rest.next()?;
            let name = rest.as_str();
            (!name.is_empty()).then(|| (name.to_owned(), value.clone()))
        })
        .collect()
}
