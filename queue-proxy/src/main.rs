//! The sidecar's process: environment, log, ports and signals around [`queue_proxy::run`].

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use queue_proxy::{Config, Listeners, certificates_exist};
use serving::environment::{Environment, ProcessEnvironment};
use serving::lifecycle::signals;
use serving::telemetry::{LineWriter, LogLayer, LogOutput, LogSettings};
use tracing_subscriber::layer::SubscriberExt;

const HELP: &str = "\
Knative Serving's queue-proxy sidecar: admission, timeouts, probing and drain in front of one app.

Usage: queue-proxy [--help | --version]

Everything is configured by the environment that the Knative controller sets on the sidecar, among
them CONTAINER_CONCURRENCY, QUEUE_SERVING_PORT, USER_PORT, REVISION_TIMEOUT_SECONDS,
SERVING_READINESS_PROBE and OBSERVABILITY_CONFIG. Settings of its own:

  PILOTLIGHT_QUEUE_DEPTH     requests that may wait (default: ten times the concurrency limit)
  PILOTLIGHT_QUIET_PERIOD    how long a drain waits without a request (default: 30s)
  PILOTLIGHT_OVERLOAD_DELAY  how long work may wait for CPU time before requests are refused; 0 never
                             refuses (default: 100ms)
  PILOTLIGHT_BIND_ADDRESS    the address of every port (default: all addresses, both families)
  PILOTLIGHT_LEGACY_METRICS  true also serves the revision_* metric names of releases before 1.19
  PILOTLIGHT_B3              true also reads and writes B3 trace headers

SIGTERM or SIGINT drains and exits with 0; a second one exits at once with 1. A configuration that
cannot be used, or a port that cannot be bound, exits with 1; wrong arguments exit with 2.
";

/// The C library's allocator costs about 6 % more CPU per request and a quarter more memory at 1,000
/// connections: it is slow with more than seven free pieces of a size.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for wrong arguments.
const USAGE: u8 = 2;

/// The revision this binary was built from, if the build told.
const COMMIT: Option<&str> = option_env!("PILOTLIGHT_COMMIT");

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => start(),
        (Some("--help" | "-h"), None) => print(HELP),
        (Some("--version" | "-V"), None) => print(&version()),
        _ => {
            // Without a standard error there is nobody to tell.
            let _ = io::stderr().write_all(HELP.as_bytes());
            ExitCode::from(USAGE)
        }
    }
}

fn version() -> String {
    format!(
        "queue-proxy {} (commit {})\n",
        env!("CARGO_PKG_VERSION"),
        COMMIT.unwrap_or("unknown")
    )
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn start() -> ExitCode {
    let environment = ProcessEnvironment;
    let log = match install_log(&environment) {
        Ok(log) => log,
        Err(error) => {
            let _ = writeln!(io::stderr(), "failed to start the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match Config::from_environment(&environment) {
        Ok(config) => serve(config, &log),
        Err(problems) => {
            for problem in problems.iter() {
                tracing::error!("{problem}");
            }
            ExitCode::FAILURE
        }
    };
    log.flush();
    code
}

/// Logs as configured; what identifies the pod is on every line.
fn install_log(environment: &dyn Environment) -> io::Result<LineWriter> {
    let value = |name| environment.variable(name).unwrap_or_default();
    let (settings, problem) = LogSettings::read(
        &value("SERVING_LOGGING_CONFIG"),
        &value("SERVING_LOGGING_LEVEL"),
    );
    let writer = match settings.output {
        LogOutput::Stdout => LineWriter::stdout()?,
        LogOutput::Stderr => LineWriter::stderr()?,
    };
    let key = format!(
        "{}/{}",
        value("SERVING_NAMESPACE"),
        value("SERVING_REVISION")
    );
    let pod = value("SERVING_POD");
    let mut constant = Vec::from_iter(COMMIT.map(|commit| ("commit", commit)));
    constant.extend([("knative.dev/key", key.as_str()), ("knative.dev/pod", &pod)]);
    let layer = LogLayer::new(settings, "queueproxy", &constant, writer.clone());
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .map_err(io::Error::other)?;
    if let Some(problem) = problem {
        tracing::warn!(
            error = %problem,
            "Failed to parse logging config - using default zap production config"
        );
    }
    Ok(writer)
}

fn serve(config: Config, log: &LineWriter) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let served = match runtime {
        Ok(runtime) => runtime.block_on(run(config, log)),
        Err(error) => Err(error.into()),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(
                error = describe(&*error),
                "Failed to bring up queue-proxy, shutting down."
            );
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, log: &LineWriter) -> Result<(), Box<dyn Error>> {
    let (first, second) = signals()?;
    let tls = certificates_exist(&config.tls)?;
    let listeners = Listeners::bind(&config, tls)?;
    tokio::select! {
        served = queue_proxy::run(config, listeners, first) => Ok(served?),
        () = second => {
            tracing::warn!("Received a second signal, exiting at once.");
            log.flush();
            std::process::exit(1);
        }
    }
}

/// An error with its causes on one line.
fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
