//! The autoscaler's process: command line, environment, log and signals around
//! [`autoscaler::kubernetes::run`].

#[cfg(feature = "kubernetes")]
mod process;

/// Lists of ten thousand objects are read and dropped; the C library's allocator keeps what they
/// took, because a piece of each stays.
#[cfg(feature = "kubernetes")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "kubernetes")]
fn main() -> std::process::ExitCode {
    process::main()
}

/// Without a cluster the autoscaler is a library only.
#[cfg(not(feature = "kubernetes"))]
fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
