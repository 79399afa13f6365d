//! What is given back of a program's memory when it has started. In a process of its own, as other
//! tests beside it would map code again at any time.

#![allow(
    clippy::unwrap_used,
    reason = "a test, helpers included, fails by panicking"
)]

use serving::resident::forget_start;

#[test]
fn code_of_the_start_is_given_back_and_the_program_goes_on() {
    let before = resident_code_kb();
    let bytes = forget_start().unwrap();
    let after = resident_code_kb();
    assert!(after < before, "{before} kB before, {after} kB after");
    // It goes on, and finds the same code.
    assert_eq!(forget_start().unwrap(), bytes);
    assert!(bytes as u64 >= before * 1024, "{bytes} bytes, {before} kB");
}

/// Of this program's code, how much is mapped to memory now.
fn resident_code_kb() -> u64 {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_code = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut fields = line.split_whitespace();
        match (fields.next(), fields.next()) {
            (Some("Rss:"), Some(kb)) if is_code => sum += kb.parse::<u64>().unwrap(),
            (Some(range), Some(permissions)) if range.contains('-') => {
                is_code = permissions == "r-xp" && line.ends_with(program);
            }
            _ => {}
        }
    }
    sum
}
