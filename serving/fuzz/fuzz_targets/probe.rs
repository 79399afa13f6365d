#![no_main]
//! See [`serving::fuzz::targets::probe`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::probe(data));
