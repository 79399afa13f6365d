//! The activator's process in a cluster: command line, environment, log and signals around
//! [`activator::kubernetes::process`].

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use activator::config::Config;
use activator::kubernetes::config_maps::COMPONENT;
use activator::kubernetes::flags::Flags;
use activator::kubernetes::process::unless_stopped;
use activator::kubernetes::{config_maps, process};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serving::config::Logging;
use serving::environment::ProcessEnvironment;
use serving::lifecycle::signals;
use serving::telemetry::{LineWriter, LogLayer, LogLevel, LogOutput, LogSettings};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;

const HELP: &str = "\
Knative Serving's activator: holds requests for revisions without ready pods, has them woken, and
releases, balances and routes them.

Usage: activator [--kubeconfig FILE] [--server URL] [--cluster NAME]

Needs POD_NAME, POD_IP and SYSTEM_NAMESPACE in its environment. Settings of its own:

  PILOTLIGHT_MAX_QUEUED_PER_REVISION  requests of one revision that may wait (default: 20000)
  PILOTLIGHT_MAX_QUEUED               requests of all revisions that may wait (default: 40000)
  PILOTLIGHT_MAX_QUEUED_BYTES_PER_REVISION
                                      bytes that they may hold (default: 134217728)
  PILOTLIGHT_MAX_QUEUED_BYTES         bytes that all may hold (default: 268435456)
  PILOTLIGHT_MAX_WAIT                 how long a request may wait, such as 30s (default: until the
                                      revision's timeout)
  PILOTLIGHT_AFFINITY_SECRET          signs the cookies of sessions; the same for all activators
                                      (default: one of its own, for each process)
  PILOTLIGHT_AUTOSCALER_URL           where stats go (default: the Service autoscaler, port 8080)
  PILOTLIGHT_B3                       also read and write B3 trace headers (default: false)
  PILOTLIGHT_INGRESS_CLASS            also serve Ingresses of this class, on 8080, 8443 and, for the
                                      cluster, 8081 (default: none)
  PILOTLIGHT_INGRESS_PUBLIC_SERVICE   the Service in front of 8080 and 8443
                                      (default: activator-ingress)
  PILOTLIGHT_INGRESS_PRIVATE_SERVICE  the Service in front of 8081
                                      (default: activator-ingress-internal)
  PILOTLIGHT_THREADS                  threads that serve, 1 to 64 (default: 1)
  PILOTLIGHT_HELD_HEADER              whether responses to held requests say for how long
                                      (default: false)

SIGTERM or SIGINT drains and exits with 0; a second one exits at once with 1. A configuration that
cannot be used exits with 1; wrong arguments exit with 2.
";

/// As in the sidecar: less CPU per request and less memory at many connections than the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for wrong arguments.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--help" | "-h") => return print(HELP),
        Some("--version") => {
            return print(concat!("activator ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        _ => {}
    }
    let flags = match Flags::parse(arguments) {
        Ok(flags) => flags,
        Err(error) => {
            complain(&format!("{error}\n{HELP}"));
            return ExitCode::from(USAGE);
        }
    };
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").ok();
    let config = match Config::from_environment(&ProcessEnvironment, resolv_conf.as_deref()) {
        Ok(config) => config,
        Err(problems) => {
            complain(&format!("{problems}\n"));
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(flags, config)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{}\n", describe(&*error)));
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags, config: Config) -> Result<(), Box<dyn Error>> {
    let (first, second) = signals()?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    let signalled = async move {
        first.await;
        told.cancel();
        // What it stops ends the process.
        std::future::pending::<()>().await;
    };
    // A second provider among the dependencies must not make the choice ambiguous later.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = client(flags).await?;
    let started = async {
        let read = Box::pin(read_configuration(&config, &client));
        let Some(configuration) = unless_stopped(&stop, read).await? else {
            return Ok(());
        };
        let (log, level) = install_log(&configuration.logging, &config.options.pod_name)?;
        // Request log lines go to standard output, wherever the log itself goes.
        let lines = LineWriter::stdout()?;
        let pushed = exports(&config, &configuration)?;
        let outputs = (lines.clone(), level, pushed);
        let run = process::run(config, configuration, client.clone(), outputs, stop);
        let result = Box::pin(run).await;
        lines.flush();
        log.flush();
        Ok::<(), Box<dyn Error>>(result?)
    };
    tokio::select! {
        // Before what the first of two signals ends.
        biased;
        () = second => std::process::exit(1),
        result = Box::pin(started) => result,
        () = signalled => Ok(()),
    }
}

async fn read_configuration(
    config: &Config,
    client: &kube::Client,
) -> Result<config_maps::Configuration, Box<dyn Error>> {
    process::check_version(client, config.kubernetes_min_version).await?;
    let configuration = config_maps::read(
        client,
        &config.system_namespace,
        &config.config_logging,
        &config.config_observability,
    );
    Ok(configuration.await?)
}

#[cfg(feature = "otel")]
fn exports(
    config: &Config,
    configuration: &config_maps::Configuration,
) -> Result<process::Exports, activator::export::ExportError> {
    activator::export::Export::new(
        &ProcessEnvironment,
        &configuration.observability,
        config.resource(),
    )
}

#[cfg(not(feature = "otel"))]
fn exports(
    _: &Config,
    _: &config_maps::Configuration,
) -> Result<process::Exports, std::convert::Infallible> {
    Ok(None)
}

async fn client(flags: Flags) -> Result<kube::Client, Box<dyn Error>> {
    let options = KubeConfigOptions {
        cluster: flags.cluster,
        ..KubeConfigOptions::default()
    };
    let mut config = match flags.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(file, &options).await?
        }
        None => kube::Config::infer().await?,
    };
    if let Some(server) = flags.server {
        config.cluster_url = server.parse()?;
    }
    Ok(kube::Client::try_from(config)?)
}

/// Where the log goes, and how much of it, which may change.
fn install_log(logging: &Logging, pod: &str) -> io::Result<(LineWriter, LogLevel)> {
    let level = logging.level(COMPONENT);
    let level = level.map(|level| level.as_str()).unwrap_or_default();
    let (settings, problem) = LogSettings::read(&logging.zap_config, level);
    let writer = match settings.output {
        LogOutput::Stdout => LineWriter::stdout()?,
        LogOutput::Stderr => LineWriter::stderr()?,
    };
    let constant = [("knative.dev/pod", pod)];
    let layer = LogLayer::new(settings, COMPONENT, &constant, writer.clone());
    let level = layer.level();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .map_err(io::Error::other)?;
    if let Some(problem) = problem {
        tracing::warn!(error = %problem, "zap-logger-config is not used");
    }
    Ok((writer, level))
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Without a standard error there is nobody to tell.
fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
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
