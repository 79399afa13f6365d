#![no_main]
//! See [`serving::fuzz::targets::environment`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::environment(data));
