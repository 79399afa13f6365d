//! Statements that hold whatever the bytes: everything that the data plane parses is a plain
//! function over bytes in [`targets`], and panics when its statement does not hold.
//!
//! Tests run each target on its committed corpus and on seeded mutations of it; the fuzzers in
//! `serving/fuzz` run the same functions on what libFuzzer comes up with.

pub mod targets;

use std::path::Path;

use fastrand::Rng;

/// No input grows beyond this.
const MAX_BYTES: usize = 4096;

/// The committed inputs of a fuzzer, sorted by their files' names: the order of a folder is nobody's
/// promise, and mutations depend on it. Panics when there are none.
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder that can be read").path())
        .collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort();
    let contents = files.iter().map(std::fs::read);
    contents
        .map(|content| content.expect("a file that can be read"))
        .collect()
}

/// Runs `check` on every seed and on `rounds` mutations of them, the same ones every time.
pub fn mutate(seeds: &[&[u8]], rounds: usize, check: fn(&[u8])) {
    for seed in seeds {
        check(seed);
    }
    let mut rng = Rng::with_seed(0x9e37_79b9);
    for _ in 0..rounds {
        let mut data = seeds[rng.usize(..seeds.len())].to_vec();
        for _ in 0..rng.usize(1..8) {
            change(&mut data, seeds, &mut rng);
        }
        data.truncate(MAX_BYTES);
        check(&data);
    }
}

/// One mutation: flip, set, insert, cut, repeat, graft a part of another seed, or make a number
/// larger, which keeps most texts readable.
fn change(data: &mut Vec<u8>, seeds: &[&[u8]], rng: &mut Rng) {
    let at = rng.usize(..=data.len());
    let len = rng.usize(..=(data.len() - at).min(16));
    match rng.u8(..8) {
        0 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
        1 if at < data.len() => data[at] = [0, 0x7f, 0x80, 0xff, b'"', b'{'][rng.usize(..6)],
        2 => data.insert(at, rng.u8(..)),
        3 => drop(data.drain(at..at + len)),
        4 => {
            let part = data[at..at + len].repeat(rng.usize(1..8));
            data.splice(at..at, part);
        }
        5 => {
            let other = seeds[rng.usize(..seeds.len())];
            let from = rng.usize(..=other.len());
            data.splice(at..at, other[from..].iter().copied());
        }
        _ => {
            let digits = data.iter().enumerate();
            let digits = digits.filter(|(_, byte)| byte.is_ascii_digit());
            let digits: Vec<usize> = digits.map(|(at, _)| at).collect();
            if let Some(at) = rng.choice(digits) {
                let nines = rng.usize(1..11);
                data.splice(at..=at, std::iter::repeat_n(b'9', nines));
            }
        }
    }
}

#[cfg(test)]
mod tests;
