#![no_main]
//! See `ingress` in the statements.

#[allow(dead_code, reason = "each target checks one statement")]
#[path = "../../../activator/tests/support/statements.rs"]
mod statements;

libfuzzer_sys::fuzz_target!(|data: &[u8]| statements::ingress(data));
