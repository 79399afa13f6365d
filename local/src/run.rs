//! `pilotlight run`: reads the manifests, joins the parts, and ends them in order.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serving::environment::Environment;
use serving::server::{self, Listener, ServerOptions, Shutdown};
use tokio::io::AsyncWriteExt;

use crate::cluster::Cluster;
use crate::console::{Console, Writer};
use crate::exit::{self, Exit};
use crate::gateway::{self, Gateway};
use crate::options::{LogLevel, Run};
use crate::status::collect::Sources;
use crate::status::socket::{self, Socket};
use crate::tether::{Guard, SELF};
use crate::watch;

mod input;
mod parts;
mod signals;

use input::{Input, read};
use parts::{Parts, joined};
use signals::Signals;

/// Connections of `pilotlight status` that are answered at a time.
const MAX_STATUS_ANSWERS: usize = 16;

/// How long one of those may take to read its answer.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// Runs until a signal; the code to exit with.
pub fn run(options: &Run, environment: &dyn Environment) -> Result<u8, Exit> {
    let input = read(options, environment)?;
    let no_colour = environment
        .variable("NO_COLOR")
        .is_some_and(|value| !value.is_empty());
    let (console, writer) =
        Console::start(no_colour).map_err(|error| failed("cannot print", &error))?;
    log_to(&console, options.log);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .map_err(|error| failed("cannot start", &error))?;
    let ended = runtime.block_on(serve(options, environment, input, console.clone()));
    // Tasks that are left hold nothing but memory; replicas are gone.
    drop(runtime);
    finish(writer, console);
    ended
}

fn finish(writer: Writer, console: Console) {
    writer.finish(console);
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Exit {
    Exit::new(exit::FAILED, format!("{what}: {error}"))
}

fn log_to(console: &Console, level: LogLevel) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // A program that embeds this one may have its own.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(console.clone())
        .try_init();
}

// === serving ===

async fn serve(
    options: &Run,
    environment: &dyn Environment,
    input: Input,
    console: Console,
) -> Result<u8, Exit> {
    let signals = Signals::new().map_err(|error| failed("cannot receive signals", &error))?;
    let front = gateway::listen::bind(options.listen())?;
    let addresses = front.addresses();
    // Before anybody can connect, so that whoever is served can also ask for the status.
    let port = addresses.first().map_or(0, SocketAddr::port);
    let status_socket = socket::path(environment, port).and_then(Socket::bind);
    let front = front.listen()?;
    let guard = Guard::start(SELF).map_err(|error| failed("cannot start the guard", &error))?;
    let mut parts = Parts::join(options, &input.manifest, guard, console.clone())
        .await
        .map_err(|error| failed("cannot start", &error))?;
    let cluster = Rc::clone(&parts.cluster);
    cluster
        .apply(
            &input.manifest.services,
            &input.manifest.settings.autoscaler,
            input.manifest.settings.tag_header_based_routing,
        )
        .map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            Exit::new(exit::INVALID_MANIFEST, lines.join("\n"))
        })?;

    joined(&parts.activator, &parts.autoscaler).await;

    let gateway = Rc::new(Gateway::new(
        Rc::clone(&cluster),
        parts.activator.clone(),
        gateway::Limits {
            requests: options.limits.max_requests,
            bytes: options.limits.max_held_bytes,
        },
    ));
    let shutdown = Shutdown::new();
    let mut serving = tokio::task::spawn_local(server::serve(
        front.into_iter().map(Listener::plain).collect(),
        Rc::clone(&gateway),
        ServerOptions {
            max_connections: options.limits.max_connections,
            ..::activator::server_options()
        },
        shutdown.clone(),
    ));
    watch::print_warnings(&console, &input.warnings);
    greet(&console, &cluster, &addresses);

    let sources = Rc::new(Sources {
        cluster: Rc::clone(&cluster),
        activator: parts.activator.clone(),
        listen: addresses.clone(),
    });
    match status_socket {
        Ok(socket) => {
            let answering = answer_status(
                socket,
                sources,
                parts.autoscaler.clone(),
                Rc::clone(&gateway),
            );
            parts.tasks.spawn_local(answering);
        }
        Err(error) => console.complain(format_args!("`pilotlight status` will not work: {error}")),
    }
    if follows(options) {
        let following = watch::follow(
            Rc::clone(&cluster),
            input.sources,
            input.texts,
            input.machine,
        );
        parts.tasks.spawn_local(following);
    }
    let first = signals.next().await;
    console.say(format_args!(
        "{first} received, draining; once more to end at once"
    ));
    let ending = async {
        shutdown.drain();
        let in_time = tokio::time::timeout(options.drain_timeout, async {
            let _ = (&mut serving).await;
            gateway.tunnels().closed().await;
            parts.activator.tunnels().closed().await;
        })
        .await
        .is_ok();
        if !in_time {
            console.say("requests that took too long are cut off");
            shutdown.stop();
            gateway.tunnels().close();
            parts.activator.tunnels().close();
        }
        cluster.end().await;
    };
    tokio::select! {
        () = ending => {}
        second = signals.next() => {
            console.say(format_args!("{second} received again, ending at once"));
            parts.tasks.abort_all();
            return Ok(exit::SIGNAL_BASE + second.number());
        }
    }
    parts.end().await;
    Ok(exit::OK)
}

fn follows(options: &Run) -> bool {
    use std::io::IsTerminal;
    if options.filenames.is_empty() || options.no_watch {
        return false;
    }
    options.watch || io::stdout().is_terminal()
}

fn greet(console: &Console, cluster: &Cluster, addresses: &[SocketAddr]) {
    let list: Vec<_> = addresses
        .iter()
        .map(|address| format!("http://{address}"))
        .collect();
    console.say(format_args!("listening on {}", list.join(" and ")));
    let port = addresses.first().map_or(0, SocketAddr::port);
    for host in cluster.routes().known_hosts() {
        console.say(format_args!("serving http://{host}:{port}"));
    }
}

/// Answers `pilotlight status` until it is dropped.
async fn answer_status(
    socket: Socket,
    sources: Rc<Sources>,
    autoscaler: autoscaler::driver::Handle,
    gateway: Rc<Gateway>,
) {
    let mut answers = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = answers.join_next(), if !answers.is_empty() => {}
            accepted = socket.listener.accept(), if answers.len() < MAX_STATUS_ANSWERS => {
                let Ok((mut stream, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (sources, gateway, autoscaler) =
                    (Rc::clone(&sources), Rc::clone(&gateway), autoscaler.clone());
                answers.spawn_local(async move {
                    let decisions = autoscaler.snapshot().await.unwrap_or_default();
                    let report = sources.report(&decisions, gateway.in_progress().0);
                    let answer = serde_json::to_vec(&report).unwrap_or_default();
                    // Who does not read gets nothing.
                    let _ = tokio::time::timeout(STATUS_PATIENCE, stream.write_all(&answer)).await;
                });
            }
        }
    }
}
