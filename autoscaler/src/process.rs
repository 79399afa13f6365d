//! Start and end of the process.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use autoscaler::kubernetes::config::Config;
use autoscaler::kubernetes::flags::Flags;
use autoscaler::kubernetes::{self, COMPONENT, Reach, Surroundings, config_maps};
use autoscaler::metrics::requests::ApiRequests;
use serving::environment::ProcessEnvironment;
use serving::lifecycle::signals;
#[cfg(feature = "otel")]
use serving::otlp::{MetricPush, PushError};
use serving::telemetry::{LineWriter, LogLayer, LogLevel, LogOutput, LogSettings};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;

const HELP: &str = "\
Knative Serving's autoscaler (KPA): scales revisions by the concurrency or requests they report.

Usage: autoscaler [--help | --version] [--kubeconfig FILE] [--server URL] [--cluster NAME]
                  [--kube-api-qps RATE] [--kube-api-burst COUNT]

Needs SYSTEM_NAMESPACE, POD_NAME and POD_IP in its environment; everything else is in the config
maps config-autoscaler, config-deployment, config-network, config-logging, config-observability and
config-leader-election of that namespace.

SIGTERM or SIGINT ends it with 0; a second one at once with 1. A configuration that cannot be used,
or an API server that cannot be reached, ends it with 1; wrong arguments with 2.
";

/// Exit code for wrong arguments.
const USAGE: u8 = 2;

/// The revision this binary was built from, if the build told.
const COMMIT: Option<&str> = option_env!("PILOTLIGHT_COMMIT");

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--help" | "-help" | "-h") => return print(HELP),
        Some("--version" | "-V") => return print(&version()),
        _ => {}
    }
    match Flags::parse(arguments, &ProcessEnvironment) {
        Ok(flags) => start(&flags),
        Err(error) => {
            // Without a standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "{error}\n\n{HELP}");
            ExitCode::from(USAGE)
        }
    }
}

fn version() -> String {
    format!(
        "autoscaler {} (commit {})\n",
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

fn start(flags: &Flags) -> ExitCode {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").ok();
    let config = Config::from_environment(&ProcessEnvironment, resolv_conf.as_deref());
    let config = match config {
        Ok(config) => config,
        Err(problems) => {
            let _ = writeln!(io::stderr(), "{problems}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let ran = match runtime {
        Ok(runtime) => runtime.block_on(run(flags, config)),
        Err(error) => Err(error.into()),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}", describe(&*error));
            ExitCode::FAILURE
        }
    }
}

/// From the first question to the API server to the end.
async fn run(flags: &Flags, config: Config) -> Result<(), Box<dyn Error>> {
    let (first, second) = signals()?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let signalled = async {
        first.await;
        tracing::info!("shutting down");
        stop.cancel();
        // The second signal is waited for as long as it takes.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ran = serve(flags, config, shutdown) => ran,
        () = signalled => Ok(()),
        () = second => std::process::exit(1),
    }
}

async fn serve(
    flags: &Flags,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn Error>> {
    let requests = ApiRequests::new();
    let prepare = async {
        let client = kubernetes::client(flags, &requests).await?;
        kubernetes::check_version(&client, config.kubernetes_min_version).await?;
        let configuration = config_maps::read(&client, &config).await?;
        let log = install_log(&configuration, &config)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
        let listeners = kubernetes::bind(&config, &configuration).await?;
        Ok::<_, Box<dyn Error>>((client, configuration, log, listeners))
    };
    let prepared = tokio::select! {
        prepared = prepare => prepared,
        () = shutdown.cancelled() => return Ok(()),
    };
    let (client, configuration, (log, log_level), listeners) = prepared?;
    let surroundings = Surroundings {
        listeners,
        reach: Reach::in_cluster(&config),
        log_level: Some(log_level),
        requests: requests.clone(),
        #[cfg(feature = "otel")]
        push: push(&config, &configuration)?,
    };
    let ran = kubernetes::run(config, configuration, client, surroundings, shutdown).await;
    if let Err(error) = &ran {
        tracing::error!(error = error as &dyn Error, "the autoscaler ended");
    }
    log.flush();
    Ok(ran?)
}

/// Pushes metrics as `config-observability` says, if it does.
#[cfg(feature = "otel")]
fn push(
    config: &Config,
    configuration: &config_maps::Configuration,
) -> Result<Option<MetricPush>, PushError> {
    let observability = &configuration.observability;
    MetricPush::new(&ProcessEnvironment, observability, config.resource())
}

/// Logs as `config-logging` says; its level can be changed later.
fn install_log(
    configuration: &config_maps::Configuration,
    config: &Config,
) -> io::Result<(LineWriter, LogLevel)> {
    let level = configuration.logging.level(COMPONENT);
    let level = level.map(|level| level.as_str()).unwrap_or_default();
    let (settings, problem) = LogSettings::read(&configuration.logging.zap_config, level);
    let writer = match settings.output {
        LogOutput::Stdout => LineWriter::stdout()?,
        LogOutput::Stderr => LineWriter::stderr()?,
    };
    let mut constant = Vec::from_iter(COMMIT.map(|commit| ("commit", commit)));
    constant.push(("knative.dev/pod", &config.pod_name));
    let layer = LogLayer::new(settings, COMPONENT, &constant, writer.clone());
    let log_level = layer.level();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .map_err(io::Error::other)?;
    if let Some(problem) = problem {
        tracing::warn!(error = %problem, "the logging configuration is not used");
    }
    Ok((writer, log_level))
}

/// An error with all its causes.
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
