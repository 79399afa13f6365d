//! Values of which many are equal, each kept once.
//!
//! Pure. What nobody uses any more is found by and by: never more of it is kept than is in use.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Values that may be kept besides as many as were in use when it was last looked at.
const SLACK: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Interner<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// At so many it is looked at what is still in use.
    sweep_at: usize,
}

// === impl Interner ===

impl<T: ?Sized + Eq + Hash> Interner<T> {
    /// The value that is equal to this one and kept; this one if there is none.
    pub(super) fn intern(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        if let Some(known) = self.known.get(value.borrow()) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = 2 * self.known.len() + SLACK;
        }
        let value = value.into();
        self.known.insert(Arc::clone(&value));
        value
    }
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            sweep_at: SLACK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let mut interner = Interner::<[usize]>::default();
        let used: Vec<_> = (0..100).map(|it| interner.intern(vec![it])).collect();
        for it in 100..100_000 {
            interner.intern(vec![it]);
        }
        assert!(interner.known.len() <= 2 * used.len() + SLACK);
        for (it, used) in used.iter().enumerate() {
            assert!(Arc::ptr_eq(&interner.intern(vec![it]), used));
        }
    }
}
