use super::{corpus, mutate, targets};

/// Mutations per target.
const ROUNDS: usize = 4000;

#[test]
fn whatever_the_bytes_every_target_holds() {
    for (name, target) in targets::ALL {
        let seeds = corpus(name);
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        mutate(&seeds, ROUNDS, target);
    }
}
