//! Pilotlight on one machine: Knative Services as processes, without a cluster.
//!
//! Reads manifests, starts replicas behind queue-proxies, and joins the activator and the
//! autoscaler to them over their own wire. The binary `pilotlight` is a thin shell over this
//! library.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "pilotlight ties processes to its own life with features of Linux; run it on Linux, in a virtual machine or in a container"
);

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use serving::environment::{Environment, ProcessEnvironment};

pub mod cluster;
pub mod console;
pub mod exit;
pub mod gateway;
pub mod manifest;
pub mod options;
pub mod router;
pub mod run;
pub mod sample_app;
pub mod service;
pub mod simulate;
pub mod status;
pub mod supervisor;
pub mod tether;
pub mod watch;

use exit::Exit;
use options::{Command, Options, Output};

/// The whole program: reads the command line, acts, prints a failure once.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Every cold start passes through here: building the whole command line would be felt.
    let command = tether::hidden_command(&arguments).unwrap_or_else(|| Options::parse().command);
    match act(command) {
        Ok(code) => ExitCode::from(code),
        Err(exit) => {
            print_error(&exit.message);
            exit.into()
        }
    }
}

#[allow(
    clippy::print_stderr,
    reason = "the one place where failures are printed"
)]
fn print_error(message: &str) {
    for line in message.lines() {
        eprintln!("pilotlight: {line}");
    }
}

fn act(command: Command) -> Result<u8, Exit> {
    match command {
        Command::Run(options) => run::run(&options, &ProcessEnvironment),
        Command::Simulate(options) => {
            let mut out = io::BufWriter::new(io::stdout().lock());
            let simulated = simulate::simulate(&options, &mut io::stdin().lock(), &mut out)?;
            for warning in &simulated.warnings {
                print_error(&format!("warning: {warning}"));
            }
            simulated.difference.map_or(Ok(exit::OK), |difference| {
                Err(Exit::new(exit::FAILED, difference))
            })
        }
        Command::Status(options) => {
            let port = options.port();
            let path = status::socket::path(&ProcessEnvironment, port)
                .map_err(|error| Exit::new(exit::FAILED, error.to_string()))?;
            let report = status::socket::ask(&path, port)?;
            let text = match options.output {
                Output::Table => status::table::render(&report),
                Output::Json => {
                    let json = serde_json::to_string_pretty(&report)
                        .map_err(|error| Exit::new(exit::FAILED, error.to_string()))?;
                    format!("{json}\n")
                }
            };
            print(text.as_bytes())
        }
        Command::SampleApp(options) => sample(options),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Options::command(), "pilotlight", &mut script);
            print(&script)
        }
        Command::Man => {
            // One page per command, one after the other, as `man -l -` shows them.
            let mut pages = Vec::new();
            let mut command = Options::command();
            command.build();
            let visible = command.get_subcommands().filter(|it| !it.is_hide_set());
            for page in std::iter::once(&command).chain(visible) {
                clap_mangen::Man::new(page.clone())
                    .render(&mut pages)
                    .map_err(|error| Exit::new(exit::FAILED, error.to_string()))?;
            }
            print(&pages)
        }
        Command::ExecReplica {
            parent,
            open_files,
            command,
        } => {
            let (message, code) = tether::exec_replica(parent, open_files, &command);
            Err(Exit::new(code, message))
        }
        Command::Guard => Ok(tether::guard(io::stdin().lock())),
    }
}

/// Prints an answer; whoever stops reading it has seen enough.
fn print(text: &[u8]) -> Result<u8, Exit> {
    match io::stdout()
        .write_all(text)
        .and_then(|()| io::stdout().flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Exit::new(exit::FAILED, format!("cannot print: {error}")))
        }
        _ => Ok(exit::OK),
    }
}

fn sample(options: sample_app::SampleApp) -> Result<u8, Exit> {
    let failed = |error: io::Error| Exit::new(exit::FAILED, format!("sample-app: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .map_err(failed)?;
    let variable = |name: &str| ProcessEnvironment.variable(name);
    runtime
        .block_on(sample_app::run(options, variable))
        .map_err(failed)
}
