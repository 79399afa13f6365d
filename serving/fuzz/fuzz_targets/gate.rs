#![no_main]
//! See [`serving::fuzz::targets::gate`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::gate(data));
