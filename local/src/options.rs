//! The command line: what may be given, with which defaults. Nothing acts here.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::exit;
use crate::sample_app::SampleApp;
use crate::simulate::{self, Simulate};

/// The front port when none is given.
pub const DEFAULT_PORT: u16 = 8080;

const ABOUT: &str =
    "Knative Serving on one machine: runs Services as processes, from zero to many and back";

const EXAMPLES: &str = "\
Examples:
  pilotlight run -f service.yaml            run a Knative Service of this file
  pilotlight run -f manifests/ --watch      all files of a folder, following changes
  pilotlight run -- python3 app.py          any program that listens on $PORT
  pilotlight status                         what runs now
  curl http://hello.localhost:8080          wake the Service \"hello\"";

const RUN_EXAMPLES: &str = "\
Examples:
  pilotlight run -f service.yaml
  pilotlight run -f one.yaml -f two.yaml --listen 127.0.0.1:9000
  kubectl kustomize . | pilotlight run -f -
  pilotlight run --name hello --annotation autoscaling.knative.dev/max-scale=3 -- ./hello
  pilotlight run -- python3 -m http.server '$(PORT)'

Hosts:
  <service>.localhost, <tag>-<service>.localhost, <service>.<namespace>.localhost;
  with one Service every host leads to it.";

/// Knative Serving on one machine: runs Services as processes, from zero to many and back.
#[derive(Debug, Parser)]
#[command(name = "pilotlight", version, about = ABOUT, after_help = EXAMPLES, after_long_help = long_help(EXAMPLES))]
#[command(
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs Services until Ctrl-C.
    #[command(after_help = RUN_EXAMPLES, after_long_help = long_help(RUN_EXAMPLES))]
    Run(Box<Run>),
    /// Tries autoscaler settings on recorded or made-up traffic, without running anything.
    #[command(after_help = simulate::EXAMPLES, after_long_help = long_help(simulate::EXAMPLES))]
    Simulate(Box<Simulate>),
    /// Shows Services, revisions and replicas of a running pilotlight.
    Status(Status),
    /// An HTTP app to try things with: HTTP/1.1, h2c, WebSocket, server-sent events.
    SampleApp(SampleApp),
    /// Prints a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    Man,
    /// Ties a process to this program's life and becomes the app.
    #[command(hide = true)]
    ExecReplica {
        /// The process that the app must not outlive.
        #[arg(long)]
        parent: i32,
        /// The limit of open files for the app.
        #[arg(long)]
        open_files: Option<u64>,
        /// Program and arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Waits for the end of this program and then ends its replicas' process groups.
    #[command(hide = true)]
    Guard,
}

/// `pilotlight run`
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("what").args(["filenames", "command"]).required(true).multiple(true))]
pub struct Run {
    /// A manifest: a file, a folder, or - for standard input. May be repeated, or several with
    /// commas between them.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE|DIR|-",
        env = "PILOTLIGHT_FILENAME",
        value_delimiter = ','
    )]
    pub filenames: Vec<String>,

    /// The Service's name when a bare command is run.
    #[arg(
        long,
        value_name = "NAME",
        env = "PILOTLIGHT_NAME",
        default_value = "app",
        conflicts_with = "filenames"
    )]
    pub name: String,

    /// An annotation of the revision when a bare command is run. May be repeated; the
    /// variable has one per line.
    #[arg(long = "annotation", value_name = "KEY=VALUE", env = "PILOTLIGHT_ANNOTATION", value_parser = key_value, value_delimiter = '\n', conflicts_with = "filenames")]
    pub annotations: Vec<(String, String)>,

    /// The front port's address. Without it 127.0.0.1 and ::1, port 8080.
    #[arg(long, value_name = "[ADDRESS:]PORT", env = "PILOTLIGHT_LISTEN", value_parser = listen)]
    pub listen: Option<Listen>,

    /// Follows changes of the manifests. Default on a terminal.
    #[arg(long, env = "PILOTLIGHT_WATCH", overrides_with = "no_watch")]
    pub watch: bool,

    /// Reads the manifests once.
    #[arg(long, env = "PILOTLIGHT_NO_WATCH")]
    pub no_watch: bool,

    /// How long requests of a replica that goes away may still take.
    #[arg(long, value_name = "DURATION", env = "PILOTLIGHT_DRAIN_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// How often a replica may exit in a row, before the first was ready, until requests are refused.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_START_FAILURES", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub start_failures: u32,

    /// How much is logged about pilotlight itself.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "PILOTLIGHT_LOG",
        default_value = "error"
    )]
    pub log: LogLevel,

    /// Limits of what is held.
    #[command(flatten)]
    pub limits: Limits,

    /// A program that listens on $PORT, with its arguments; `$(PORT)` in them is replaced.
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "filenames")]
    pub command: Vec<String>,
}

/// Everything held has a bound; past it a client gets 503 with `Retry-After` and a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Requests held at once while their revision has no free replica.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_MAX_HELD_REQUESTS", default_value_t = 10_000, value_parser = at_least_one)]
    pub max_held_requests: usize,

    /// Requests in progress at once, held or not.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_MAX_REQUESTS", default_value_t = 20_000, value_parser = at_least_one)]
    pub max_requests: usize,

    /// Bytes of request heads in progress at once, held or not (bodies are never held: they stay
    /// with the client until a replica reads them).
    #[arg(long, value_name = "BYTES", env = "PILOTLIGHT_MAX_HELD_BYTES", default_value_t = 64 << 20, value_parser = at_least_one)]
    pub max_held_bytes: usize,

    /// Connections at the front port.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_MAX_CONNECTIONS", default_value_t = 20_000, value_parser = at_least_one)]
    pub max_connections: usize,

    /// Replicas of one revision, whatever its manifest allows.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_MAX_REPLICAS_PER_REVISION", default_value_t = 50, value_parser = at_least_one)]
    pub max_replicas_per_revision: usize,

    /// Replicas of all revisions together, those that drain included.
    #[arg(long, value_name = "NUMBER", env = "PILOTLIGHT_MAX_REPLICAS", default_value_t = 200, value_parser = at_least_one)]
    pub max_replicas: usize,
}

/// `pilotlight status`
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// The form of the answer.
    #[arg(
        short,
        long,
        value_name = "FORM",
        env = "PILOTLIGHT_OUTPUT",
        default_value = "table"
    )]
    pub output: Output,

    /// The front port's address, as it was given to `run`.
    #[arg(long, value_name = "[ADDRESS:]PORT", env = "PILOTLIGHT_LISTEN", value_parser = listen)]
    pub listen: Option<Listen>,

    /// The front port.
    #[arg(
        long,
        value_name = "PORT",
        env = "PILOTLIGHT_PORT",
        conflicts_with = "listen"
    )]
    pub port: Option<u16>,
}

/// Forms of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// What may go wrong.
    Warn,
    /// What happens.
    Info,
    /// Everything.
    Debug,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On both loopback addresses.
    Loopback(u16),
    /// On one address.
    Address(SocketAddr),
}

// === impl Options ===

impl Options {
    /// The whole command line, for completions and the manual page.
    pub fn command() -> clap::Command {
        <Self as CommandFactory>::command()
    }
}

// === impl Run ===

impl Run {
    /// The addresses of the front port.
    pub fn listen(&self) -> Listen {
        self.listen.unwrap_or_default()
    }
}

// === impl Status ===

impl Status {
    /// The front port that names the socket.
    pub fn port(&self) -> u16 {
        self.port
            .unwrap_or_else(|| self.listen.unwrap_or_default().port())
    }
}

// === impl Listen ===

impl Default for Listen {
    fn default() -> Self {
        Self::Loopback(DEFAULT_PORT)
    }
}

impl Listen {
    /// The port, 0 for one of the system's choice.
    pub const fn port(self) -> u16 {
        match self {
            Self::Loopback(port) => port,
            Self::Address(address) => address.port(),
        }
    }
}

fn long_help(examples: &str) -> String {
    format!("{examples}\n\n{}", exit::HELP)
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(Listen::Loopback(port));
    }
    let address = text
        .strip_prefix("localhost:")
        .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    address
        .parse()
        .map(Listen::Address)
        .map_err(|_| "expected a port or ADDRESS:PORT, e.g. 8080 or 127.0.0.1:8080".to_owned())
}

/// A duration in Go's notation.
pub fn duration(text: &str) -> Result<Duration, String> {
    match serving::go::parse_duration(text) {
        Ok(nanos) if nanos >= 0 => Ok(serving::go::duration_to_std(nanos)),
        Ok(_) => Err("must not be negative".into()),
        Err(_) => Err("expected a duration such as 500ms, 30s or 1m30s".into()),
    }
}

/// A key and its value, which may be empty.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".into()),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(std::iter::once("pilotlight").chain(line.split(' ')))
    }

    fn run(line: &str) -> Run {
        match parse(line).expect("valid").command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_twin() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let flag = argument.get_long().unwrap_or_default();
                if !matches!(flag, "" | "help" | "version") && !command.is_hide_set() {
                    assert!(
                        argument.get_env().is_some(),
                        "{} --{flag}",
                        command.get_name()
                    );
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Options::command());
    }

    #[test]
    fn files_or_a_command() {
        let files = run("run -f a.yaml -f b --listen 9000 --drain-timeout 1m");
        assert_eq!(files.filenames, ["a.yaml", "b"]);
        assert_eq!(files.listen(), Listen::Loopback(9000));
        assert_eq!(files.drain_timeout, Duration::from_secs(60));
        let bare = run("run --name x --annotation a/b=c=d,e -- sh -c true");
        assert_eq!(bare.command, ["sh", "-c", "true"]);
        assert_eq!(bare.annotations, [("a/b".into(), "c=d,e".into())]);
        for wrong in [
            "run",
            "run -f a -- b",
            "run -f a --name b",
            "run --max-replicas 0 -- a",
            "run --drain-timeout 5 -- a",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(listen("8080"), Ok(Listen::Loopback(8080)));
        assert_eq!(listen(":8080"), Ok(Listen::Loopback(8080)));
        assert_eq!(listen("[::1]:1").map(Listen::port), Ok(1));
        assert_eq!(listen("localhost:1"), listen("127.0.0.1:1"));
        assert!(listen("hello").is_err());
    }
}
