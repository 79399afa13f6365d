//! Who owns what, decided by everyone alike: the bucket of a revision among autoscaler replicas, and
//! the activators that stand in front of a revision. Also the names and identities of leader election.
//!
//! Go and Rust replicas run side by side, so every value here must be the one Go computes.
//! Upstream: `knative.dev/pkg/hash`, `pkg/autoscaler/bucket/bucket.go`, `knative.dev/pkg/leaderelection`.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;

use fnv::FnvHasher;
use smallvec::SmallVec;

/// `BucketPrefix`: how the names of the autoscaler's buckets, leases and bucket Services begin.
pub const BUCKET_PREFIX: &str = "autoscaler-bucket";

/// Slots on the hash ring, and so the most names that can be placed on it. Upstream never ends when
/// it is given more.
pub const UNIVERSE: usize = 2048;

const START_SALT: &[u8] = b"start-angle-salt";
const STEP_SALT: &[u8] = b"step-angle-salt";

/// `BucketSet`: names that share all keys among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSet {
    /// Ascending, without repetition.
    names: Vec<String>,
}

/// The identity an autoscaler holds a Lease under: `<pod name>_<pod IP>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// Name of the pod.
    pub pod_name: String,
    /// Its address, where the stats of the bucket go.
    pub pod_ip: String,
}

/// The identity has no underscore, so a program of another kind holds the Lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to extract pod name and IP from {identity}")]
pub struct InvalidLeaseHolder {
    identity: String,
}

/// The names' places on the ring for one target, in ascending order of slots.
struct Ring {
    /// Slot, and position of the name in the given order.
    places: SmallVec<[(u64, usize); 16]>,
}

/// `IsBucketHost`: whether a request's Host names a bucket's Service. A prefix test, as upstream.
pub fn is_bucket_host(host: &str) -> bool {
    host.starts_with(BUCKET_PREFIX)
}

/// `AutoscalerBucketName`, which is also the name of the bucket's Lease and Service.
pub fn autoscaler_bucket_name(ordinal: u32, total: u32) -> String {
    format!("{BUCKET_PREFIX}-{ordinal:02}-of-{total:02}")
}

/// `standardBucketName`: the Leases of a reconciler in any other component. `prefixes` is the
/// `map-lease-prefix` setting, from `<component>.<queue>` to what replaces it unless empty.
pub fn lease_names(
    component: &str,
    queue: &str,
    total: u32,
    prefixes: &BTreeMap<String, String>,
) -> Vec<String> {
    let usual = format!("{component}.{queue}");
    let prefix = match prefixes.get(&usual) {
        Some(other) if !other.is_empty() => other,
        _ => &usual,
    };
    let mut names: Vec<_> = (0..total)
        .map(|ordinal| format!("{prefix}.{ordinal:02}-of-{total:02}").to_lowercase())
        .collect();
    names.sort();
    names
}

/// `ChooseSubset`: `n` of `from`, sorted, the same ones everywhere and mostly the same ones when
/// `from` changes a little. All of them if there are no more than `n`.
///
/// `from` need not be sorted and must not repeat itself. Of more than [`UNIVERSE`] names only the
/// first ones in ascending order take part.
pub fn subset<'a>(from: &[&'a str], n: usize, target: &str) -> Vec<&'a str> {
    let mut names = from.to_vec();
    names.sort_unstable();
    if n >= names.len() {
        return names;
    }
    names.truncate(UNIVERSE);
    let n = n.min(names.len());
    let ring = Ring::new(&names, target);
    let step = slot(hash(target, STEP_SALT));
    let mut angle = slot(hash(target, START_SALT));
    let mut taken = vec![false; names.len()];
    let mut chosen = Vec::with_capacity(n);
    while chosen.len() < n {
        let mut at = ring.at_or_after(angle);
        while taken[at] {
            at = (at + 1) % taken.len();
        }
        taken[at] = true;
        chosen.push(names[ring.places[at].1]);
        angle = (angle + step) % UNIVERSE as u64;
    }
    chosen.sort_unstable();
    chosen
}

// === impl BucketSet ===

impl BucketSet {
    /// A set of bucket names, which are put in order; there must be at least one. Names beyond
    /// [`UNIVERSE`] are dropped.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(UNIVERSE);
        Self { names }
    }

    /// `AutoscalerBucketSet`: the buckets of an autoscaler that is configured for `total` of them.
    pub fn autoscaler(total: u32) -> Self {
        Self::new((0..total).map(|ordinal| autoscaler_bucket_name(ordinal, total)))
    }

    /// The names in ascending order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether `name` is one of them.
    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// The position of a name in [`names`](Self::names).
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names
            .binary_search_by(|other| other.as_str().cmp(name))
            .ok()
    }

    /// The name of the bucket that `key`, in the form `namespace/name`, belongs to.
    pub fn owner(&self, key: &str) -> &str {
        &self.names[self.owner_index(key)]
    }

    /// The position of that name in [`names`](Self::names). Allocates nothing for up to 16 buckets.
    pub fn owner_index(&self, key: &str) -> usize {
        if self.names.len() == 1 {
            return 0;
        }
        let ring = Ring::new(&self.names, key);
        ring.places[ring.at_or_after(slot(hash(key, START_SALT)))].1
    }
}

// === impl LeaseHolder ===

impl LeaseHolder {
    /// `ExtractPodNameAndIP`: splits at the first underscore, which no pod name has.
    pub fn parse(identity: &str) -> Result<Self, InvalidLeaseHolder> {
        match identity.split_once('_') {
            Some((pod_name, pod_ip)) => Ok(Self {
                pod_name: pod_name.to_owned(),
                pod_ip: pod_ip.to_owned(),
            }),
            None => Err(InvalidLeaseHolder {
                identity: identity.to_owned(),
            }),
        }
    }
}

impl fmt::Display for LeaseHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.pod_name, self.pod_ip)
    }
}

// === impl Ring ===

impl Ring {
    /// Places names, at most [`UNIVERSE`] and in ascending order: on a collision the later one moves.
    fn new(names: &[impl AsRef<str>], target: &str) -> Self {
        let mut places = SmallVec::<[(u64, usize); 16]>::new();
        for (index, name) in names.iter().enumerate() {
            let mut hasher = FnvHasher::default();
            hasher.write(name.as_ref().as_bytes());
            hasher.write(target.as_bytes());
            let place = loop {
                match places.binary_search_by_key(&slot(hasher.finish()), |place| place.0) {
                    Err(free) => break free,
                    // The hash is the salt of the next one, appended to what was hashed.
                    Ok(_) => hash_hex(&mut hasher),
                }
            };
            places.insert(place, (slot(hasher.finish()), index));
        }
        Self { places }
    }

    /// The first place at `angle` or after it, around the ring.
    fn at_or_after(&self, angle: u64) -> usize {
        self.places.partition_point(|place| place.0 < angle) % self.places.len()
    }
}

/// FNV-1a works byte by byte, so hashing on is the same as hashing the longer text.
fn hash(text: &str, salt: &[u8]) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(text.as_bytes());
    hasher.write(salt);
    hasher.finish()
}

/// Hashes on with the present hash in lower-case hexadecimal digits without padding.
fn hash_hex(hasher: &mut FnvHasher) {
    let value = hasher.finish();
    let digits = (16 - value.leading_zeros() / 4).max(1);
    for at in (0..digits).rev() {
        let digit = (value >> (at * 4) & 0xf) as usize;
        hasher.write_u8(b"0123456789abcdef"[digit]);
    }
}

fn slot(hash: u64) -> u64 {
    hash % UNIVERSE as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values computed by Go replicas.
    #[test]
    fn keys_belong_to_the_buckets_go_gives_them_to() {
        for (key, of) in [
            ("default/hello-00001", [1, 0, 0, 5]),
            ("default/hello-00002", [1, 1, 1, 8]),
            ("prod/api-00007", [1, 0, 4, 8]),
            ("ns1/rev-a", [1, 1, 0, 1]),
            ("ns2/rev-a", [1, 0, 1, 3]),
            ("knative-serving/x", [0, 0, 4, 4]),
        ] {
            for (total, owner) in [2, 3, 5, 10].into_iter().zip(of) {
                let set = BucketSet::autoscaler(total);
                assert_eq!(set.owner(key), autoscaler_bucket_name(owner, total));
            }
        }
    }

    #[test]
    fn a_hash_is_salted_with_all_its_digits_and_no_more() {
        for text in ["", "a", "autoscaler-bucket-00-of-10default/hello"] {
            let mut hasher = FnvHasher::default();
            hasher.write(text.as_bytes());
            let longer = format!("{text}{:x}", hasher.finish());
            hash_hex(&mut hasher);
            assert_eq!(hasher.finish(), hash(&longer, b""));
        }
    }

    #[test]
    fn a_full_ring_still_places_every_name() {
        let names: Vec<_> = (0..UNIVERSE + 5).map(|i| format!("pod-{i:04}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let chosen = subset(&names, UNIVERSE + 1, "ns/rev");
        assert_eq!(chosen, names[..UNIVERSE]);
        let set = BucketSet::new(names.iter().map(|&name| name.to_owned()));
        assert_eq!(set.names().len(), UNIVERSE);
        assert!(set.owner_index("ns/rev") < UNIVERSE);
    }

    #[test]
    fn a_lease_holder_is_read_as_it_is_written() {
        let holder = LeaseHolder::parse("autoscaler-abc_fd00::1").unwrap();
        assert_eq!(holder.pod_name, "autoscaler-abc");
        assert_eq!(holder.to_string(), "autoscaler-abc_fd00::1");
        assert!(LeaseHolder::parse("controller-0").is_err());
    }

    #[test]
    fn names_are_found_by_position() {
        let set = BucketSet::autoscaler(3);
        assert_eq!(set.position("autoscaler-bucket-02-of-03"), Some(2));
        assert!(!set.contains("autoscaler-bucket-03-of-03"));
    }

    proptest! {
        #[test]
        fn a_subset_has_the_right_size_and_is_stable(
            names in prop::collection::btree_set("[a-z0-9.]{1,12}", 1..60),
            n in 0_usize..70,
            target in "[a-z/-]{1,20}",
        ) {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let chosen = subset(&names, n, &target);
            prop_assert_eq!(chosen.len(), n.min(names.len()));
            prop_assert!(chosen.is_sorted());
            prop_assert!(chosen.windows(2).all(|pair| pair[0] != pair[1]));
            let mut shuffled = names.clone();
            shuffled.reverse();
            prop_assert_eq!(subset(&shuffled, n, &target), chosen);
        }
    }
}
