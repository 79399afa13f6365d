//! The autoscaler's process: command line, environment, log and signals around
//! [`autoscaler::kubernetes::run`].

#[cfg(feature = "kubernetes")]
mod process;

#[cfg(feature = "kubernetes")]
fn main() -> std::process::ExitCode {
    process::main()
}

/// Without a cluster the autoscaler is a library only.
#[cfg(not(feature = "kubernetes"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
