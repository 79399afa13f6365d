//! The binary `pilotlight`: hands over to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    local::main()
}
