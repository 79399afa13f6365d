#![no_main]
//! See [`serving::fuzz::targets::stat`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::stat(data));
