#![no_main]
//! See [`serving::fuzz::targets::response`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::response(data));
