#![no_main]
//! See `config_maps` in the statements.

#[allow(dead_code, reason = "each target checks one statement")]
#[path = "../../../autoscaler/tests/support/statements.rs"]
mod statements;

libfuzzer_sys::fuzz_target!(|data: &[u8]| statements::config_maps(data));
