#![no_main]
//! See [`serving::fuzz::targets::headers`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::headers(data));
