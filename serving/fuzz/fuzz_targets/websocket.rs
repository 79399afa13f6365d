#![no_main]
//! See [`serving::fuzz::targets::websocket`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| serving::fuzz::targets::websocket(data));
