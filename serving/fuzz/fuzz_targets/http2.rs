#![no_main]
//! See [`serving::fuzz::targets::http2`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::http2(data));
