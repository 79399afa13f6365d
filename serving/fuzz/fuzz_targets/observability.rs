#![no_main]
//! See [`serving::fuzz::targets::observability`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::observability(data));
