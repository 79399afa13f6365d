//! Finds a revision's place by its name, for every message of every frame of stats.
//!
//! With ten thousand revisions a look-up is mostly waiting for memory. A table of its own keeps both
//! parts of a name in one piece, compares them as they come off the wire, and goes through a frame
//! in steps so short that the processor waits for several look-ups at a time.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    table: HashTable<Named>,
    hasher: DefaultHashBuilder,
}

#[derive(Debug)]
struct Named {
    /// `namespace/name`; neither has a slash.
    text: Box<str>,
    slot: usize,
}

// === impl Names ===

impl Names {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<usize> {
        let hash = hash(&self.hasher, (namespace, name));
        let found = self.table.find(hash, |named| named.is(namespace, name));
        found.map(|named| named.slot)
    }

    /// The places of many, in their order.
    pub(super) fn get_all<'a, I>(&self, names: I) -> Vec<Option<usize>>
    where
        I: Iterator<Item = (&'a str, &'a str)> + Clone,
    {
        // The first entry of a fitting hash is nearly always the one; its text is not read yet.
        let likely: Vec<Option<&Named>> = names
            .clone()
            .map(|name| self.table.find(hash(&self.hasher, name), |_| true))
            .collect();
        let found = likely.into_iter().zip(names);
        let places = found.map(|(likely, (namespace, name))| match likely {
            Some(named) if named.is(namespace, name) => Some(named.slot),
            Some(_) => self.get(namespace, name),
            None => None,
        });
        places.collect()
    }

    /// Enters a name that is not there yet.
    pub(super) fn insert(&mut self, namespace: &str, name: &str, slot: usize) {
        let text = format!("{namespace}/{name}").into_boxed_str();
        let hasher = &self.hasher;
        let again = |named: &Named| hash(hasher, named.parts());
        let hash = hash(hasher, (namespace, name));
        self.table.insert_unique(hash, Named { text, slot }, again);
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) {
        let hash = hash(&self.hasher, (namespace, name));
        let is_it = |named: &Named| named.is(namespace, name);
        if let Ok(found) = self.table.find_entry(hash, is_it) {
            found.remove();
        }
    }
}

fn hash(hasher: &DefaultHashBuilder, (namespace, name): (&str, &str)) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(namespace.as_bytes());
    hasher.write(name.as_bytes());
    hasher.finish()
}

// === impl Named ===

impl Named {
    fn is(&self, namespace: &str, name: &str) -> bool {
        // Lengths first: equal ones leave a place for the slash only.
        self.text.len() == namespace.len() + 1 + name.len()
            && self.text.starts_with(namespace)
            && self.text.ends_with(name)
            && self.text.as_bytes()[namespace.len()] == b'/'
    }

    fn parts(&self) -> (&str, &str) {
        self.text.split_once('/').unwrap_or((&self.text, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole_and_forgotten() {
        let mut names = Names::default();
        let all: Vec<(String, String)> = (0..1_000)
            .map(|index| (format!("ns-{}", index % 7), format!("hello-{index:05}")))
            .collect();
        for (slot, (namespace, name)) in all.iter().enumerate() {
            assert_eq!(names.get(namespace, name), None);
            names.insert(namespace, name, slot);
        }
        for (slot, (namespace, name)) in all.iter().enumerate() {
            assert_eq!(names.get(namespace, name), Some(slot));
        }
        for (namespace, name) in all.iter().step_by(2) {
            names.remove(namespace, name);
            names.remove(namespace, name);
        }
        for (slot, (namespace, name)) in all.iter().enumerate() {
            let expected = (slot % 2 == 1).then_some(slot);
            assert_eq!(names.get(namespace, name), expected);
        }
        let asked = all.iter().map(|(namespace, name)| (&**namespace, &**name));
        let found = names.get_all(asked);
        assert!(
            found
                .iter()
                .enumerate()
                .all(|(slot, found)| { *found == (slot % 2 == 1).then_some(slot) })
        );
        assert_eq!(names.table.len(), 500);
    }

    #[test]
    fn a_name_is_not_another_one_that_reads_alike() {
        let mut names = Names::default();
        names.insert("a", "bc", 1);
        names.insert("ab", "c", 2);
        assert_eq!(names.get("a", "bc"), Some(1));
        assert_eq!(names.get("ab", "c"), Some(2));
        assert_eq!(names.get("abc", ""), None);
        let one = Named {
            text: "a/bc".into(),
            slot: 1,
        };
        assert!(one.is("a", "bc"));
        for (namespace, name) in [
            ("a/", "c"),
            ("a/b", ""),
            ("", "/bc"),
            ("ab", "c"),
            ("x", "bc"),
        ] {
            assert!(!one.is(namespace, name), "{namespace} {name}");
        }
    }
}
