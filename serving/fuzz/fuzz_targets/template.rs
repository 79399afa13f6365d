#![no_main]
//! See [`serving::fuzz::targets::template`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::template(data));
