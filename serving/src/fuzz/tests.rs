use std::path::Path;

use super::{mutate, targets};

/// Mutations per target.
const ROUNDS: usize = 4000;

#[test]
fn whatever_the_bytes_every_target_holds() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::ALL {
        let folder = corpora.join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a folder that can be read").path())
            .collect();
        // The order of a folder is nobody's promise, and the mutations depend on it.
        files.sort();
        let seeds: Vec<Vec<u8>> = files
            .iter()
            .map(|file| std::fs::read(file).expect("a file that can be read"))
            .collect();
        assert!(!seeds.is_empty(), "{name} has no corpus");
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        mutate(&seeds, ROUNDS, target);
    }
}
