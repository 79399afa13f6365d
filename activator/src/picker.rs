//! Load-balancing policies: which of the assigned pods gets the next request.
//!
//! Pure: randomness is a parameter, and reserving the slot is the caller's. Upstream:
//! `pkg/activator/net/lb_policy.go`.

/// What a policy may know of a pod.
pub trait Candidate {
    /// Whether one more request may be sent there now.
    fn has_free_slot(&self) -> bool;

    /// Requests in flight there; more than any other's while [`Candidate::is_ramping`].
    fn weight(&self) -> u32;

    /// Whether the pod is new and has as much as it should get for now: it is taken only when no
    /// other has a free slot.
    fn is_ramping(&self) -> bool {
        false
    }
}

/// A policy, with its cursor where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The first pod with a free slot: packs load on the lowest addresses.
    FirstAvailable,
    /// The next pod with a free slot after the one chosen last.
    RoundRobin {
        /// Where the search starts.
        next: usize,
    },
    /// The one with fewer requests of two random pods.
    RandomChoice2,
}

/// Up to this limit pods are filled one after the other.
const FIRST_AVAILABLE_MAX: u32 = 3;

// === impl Policy ===

impl Policy {
    /// The policy that upstream uses for a container concurrency (0 = unlimited).
    pub const fn for_container_concurrency(limit: u32) -> Self {
        match limit {
            0 => Self::RandomChoice2,
            1..=FIRST_AVAILABLE_MAX => Self::FirstAvailable,
            _ => Self::RoundRobin { next: 0 },
        }
    }

    /// The position of the pod to use; `None` when none has a free slot.
    ///
    /// `random(n)` gives a number below `n`.
    pub fn pick<C: Candidate>(
        &mut self,
        candidates: &[C],
        random: impl FnMut(usize) -> usize,
    ) -> Option<usize> {
        match self {
            Self::FirstAvailable => candidates.iter().position(Candidate::has_free_slot),
            Self::RoundRobin { next } => {
                let count = candidates.len();
                // The list may have shrunk since the last pick; the
                // reset stays even when no pod has a free slot.
                if *next >= count {
                    *next = 0;
                }
                let start = *next;
                let find = |fits: fn(&C) -> bool| {
                    let mut all = (start..count).chain(0..start);
                    all.find(|at| fits(&candidates[*at]))
                };
                let chosen = find(|it| it.has_free_slot() && !it.is_ramping())
                    .or_else(|| find(C::has_free_slot))?;
                *next = chosen + 1;
                Some(chosen)
            }
            Self::RandomChoice2 => random_choice_2(candidates, random),
        }
    }
}

fn random_choice_2<C: Candidate>(
    candidates: &[C],
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let (first, second) = match candidates.len() {
        0 => return None,
        1 => (0, 0),
        2 => (0, 1),
        count => {
            let first = random(count);
            let other = random(count - 1);
            (first, if other >= first { other + 1 } else { other })
        }
    };
    let chosen = match (
        candidates[first].has_free_slot(),
        candidates[second].has_free_slot(),
    ) {
        (true, true) => lighter(candidates, first, second, random),
        (true, false) => first,
        (false, true) => second,
        // Rare: only pods that just said they are full have no slot under this policy.
        (false, false) => return candidates.iter().position(Candidate::has_free_slot),
    };
    Some(chosen)
}

fn lighter<C: Candidate>(
    candidates: &[C],
    first: usize,
    second: usize,
    mut random: impl FnMut(usize) -> usize,
) -> usize {
    if first == second {
        return first;
    }
    match candidates[first].weight().cmp(&candidates[second].weight()) {
        std::cmp::Ordering::Less => first,
        std::cmp::Ordering::Greater => second,
        std::cmp::Ordering::Equal if random(2) == 0 => first,
        std::cmp::Ordering::Equal => second,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Pod {
        used: u32,
        slots: u32,
    }

    impl Candidate for Pod {
        fn has_free_slot(&self) -> bool {
            self.used < self.slots
        }
        fn weight(&self) -> u32 {
            self.used
        }
    }

    fn pods(used: &[u32], slots: u32) -> Vec<Pod> {
        used.iter().map(|&used| Pod { used, slots }).collect()
    }

    /// Upstream's `TestFirstAvailable`.
    #[test]
    fn first_available_packs() {
        let mut policy = Policy::for_container_concurrency(2);
        assert_eq!(policy.pick(&pods(&[2, 1, 0], 2), |_| 0), Some(1));
        assert_eq!(policy.pick(&pods(&[2, 2], 2), |_| 0), None);
    }

    /// Upstream's `TestRoundRobin`.
    #[test]
    fn round_robin_goes_on_after_the_last() {
        let mut policy = Policy::for_container_concurrency(4);
        let all = pods(&[0, 0, 0], 4);
        let picks: Vec<_> = (0..4).map(|_| policy.pick(&all, |_| 0).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0]);
        assert_eq!(policy.pick(&pods(&[0, 4, 0], 4), |_| 0), Some(2));
        // The cursor is beyond the shorter list.
        assert_eq!(policy.pick(&pods(&[0, 0], 4), |_| 0), Some(0));
    }

    /// Edge case 19: the policy of unlimited revisions does not fail on an empty list.
    #[test]
    fn edge_case_19_no_pods() {
        for limit in [0, 1, 4] {
            let mut policy = Policy::for_container_concurrency(limit);
            assert_eq!(policy.pick(&pods(&[], 1), |_| 0), None);
        }
    }

    #[test]
    fn the_lighter_of_two() {
        let mut policy = Policy::RandomChoice2;
        assert_eq!(policy.pick(&pods(&[3, 2], 9), |_| 0), Some(1));
        assert_eq!(policy.pick(&pods(&[2, 2], 9), |_| 1), Some(1));
        assert_eq!(policy.pick(&pods(&[2, 2], 9), |_| 0), Some(0));
        // first = 2, second = 0.
        let mut draws = [2, 0].into_iter();
        let pick = policy.pick(&pods(&[1, 0, 5], 9), |_| draws.next().unwrap());
        assert_eq!(pick, Some(0));
    }

    proptest! {
        #[test]
        fn a_pick_has_a_free_slot_and_none_means_full(
            used in proptest::collection::vec(0u32..4, 0..12),
            limit in 0u32..6,
            seed: u64,
        ) {
            let pods = pods(&used, 3);
            let mut random = fastrand::Rng::with_seed(seed);
            let mut policy = Policy::for_container_concurrency(limit);
            match policy.pick(&pods, |n| random.usize(..n)) {
                Some(at) => prop_assert!(pods[at].has_free_slot()),
                None => prop_assert!(!pods.iter().any(Candidate::has_free_slot)),
            }
        }
    }
}
