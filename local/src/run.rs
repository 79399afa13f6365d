//! `pilotlight run`: reads the manifests, joins the parts, and ends them in order.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ::activator::Activator;
use prometheus_client::registry::Registry;
use serving::environment::Environment;
use serving::server::{self, Listener, ServerOptions, Shutdown};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::probe_board::ProbeBoard;
use crate::cluster::{self, Cluster, updates};
use crate::console::{Console, Writer};
use crate::exit::{self, Exit};
use crate::gateway::{self, Gateway};
use crate::manifest::document::DEFAULT_NAMESPACE;
use crate::manifest::{
    Finding, Machine, Manifest, Report, ServiceDocument, Source, SourceText, Template, ThisMachine,
    TrafficTarget, name,
};
use crate::options::{LogLevel, Run};
use crate::status::collect::Sources;
use crate::status::socket::{self, Socket};
use crate::supervisor::port::Ports;
use crate::tether::{Guard, SELF, raise_open_files};
use crate::watch;

/// The activator probes a replica for as long as its queue-proxy waits for the app, so that the
/// answer comes the moment the app is ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(11);

/// Between probes that are answered at once, which only probes with a period are.
const PROBE_FREQUENCY: Duration = Duration::from_millis(20);

/// Between looks at whether the parts have found each other, and how long that may take.
const JOIN_PAUSE: Duration = Duration::from_millis(1);
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// Connections of `pilotlight status` that are answered at a time.
const MAX_STATUS_ANSWERS: usize = 16;

/// How long one of those may take to read its answer.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// What was read before anything runs.
struct Input {
    manifest: Manifest,
    warnings: Vec<Finding>,
    sources: Vec<Source>,
    texts: Vec<SourceText>,
    machine: ThisMachine,
}

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

// === reading ===

fn read(options: &Run, environment: &dyn Environment) -> Result<Input, Exit> {
    let machine = ThisMachine {
        search_path: environment.variable("PATH").unwrap_or_default(),
    };
    if options.filenames.is_empty() {
        return read_command(options, machine);
    }
    let sources: Vec<Source> = options
        .filenames
        .iter()
        .map(|name| Source::from(name.as_str()))
        .collect();
    let (texts, read) = watch::read_at_start(&sources);
    let (manifest, mut report) = Manifest::read(&texts, &machine);
    report.problems.splice(0..0, read.problems);
    if report.problems.is_empty() && manifest.services.is_empty() {
        report.in_file(&options.filenames.join(", "));
        report.problem("", "no Service of serving.knative.dev/v1 in the manifests");
    }
    refuse(&report)?;
    Ok(Input {
        manifest,
        warnings: report.warnings,
        sources,
        texts,
        machine,
    })
}

fn read_command(options: &Run, machine: ThisMachine) -> Result<Input, Exit> {
    let mut report = Report::default();
    report.in_file("command line");
    if let Err(rule) = name::dns_1035_label(&options.name) {
        report.problem("--name", rule);
    }
    let annotations: BTreeMap<String, String> = options.annotations.iter().cloned().collect();
    let settings = crate::manifest::Settings::default();
    crate::manifest::check_annotations(
        &annotations,
        "--annotation",
        &settings.autoscaler,
        &mut report,
    );
    let program = &options.command[0];
    if program != crate::manifest::container::OWN_NAME && !machine.has_program(program, None) {
        report.missing_command(
            "",
            format!("{program}: no such program on this machine; install it, or correct the path"),
        );
    }
    refuse(&report)?;
    let template = Template::from_command(options.command.clone(), annotations, &settings.defaults);
    let document = ServiceDocument {
        file: "command line".into(),
        namespace: DEFAULT_NAMESPACE.into(),
        name: options.name.clone(),
        template,
        traffic: vec![TrafficTarget::latest()],
    };
    Ok(Input {
        manifest: Manifest {
            services: vec![document],
            settings,
        },
        warnings: report.warnings,
        sources: Vec::new(),
        texts: Vec::new(),
        machine,
    })
}

/// Every problem at once, or nothing.
fn refuse(report: &Report) -> Result<(), Exit> {
    if report.problems.is_empty() {
        return Ok(());
    }
    let only_commands = report
        .problems
        .iter()
        .all(|problem| problem.missing_command);
    let mut lines: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    lines.extend(
        report
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    if report.left_out > 0 {
        lines.push(format!("and {} more", report.left_out));
    }
    Err(Exit::new(
        if only_commands {
            exit::MISSING_COMMAND
        } else {
            exit::INVALID_MANIFEST
        },
        lines.join("\n"),
    ))
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
            ..ServerOptions::default()
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

/// Waits until the activator reports to the autoscaler, and that knows every revision: the first
/// request would otherwise wait for the next report, a second later. Clients that connect meanwhile
/// wait in the socket's queue.
async fn joined(activator: &Activator, autoscaler: &autoscaler::Handle) {
    let all_known = async {
        while activator.health().is_err() {
            tokio::time::sleep(JOIN_PAUSE).await;
        }
        while let Some(revisions) = autoscaler.snapshot().await
            && revisions.iter().any(|revision| revision.proxied.is_none())
        {
            tokio::time::sleep(JOIN_PAUSE).await;
        }
    };
    // Whatever keeps them apart, requests are better held than refused.
    let _ = tokio::time::timeout(JOIN_PATIENCE, all_known).await;
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

// === the parts ===

/// The parts of the data plane, joined by their wire.
struct Parts {
    cluster: Rc<Cluster>,
    activator: Activator,
    autoscaler: autoscaler::driver::Handle,
    tasks: tokio::task::JoinSet<()>,
    stop: CancellationToken,
    activator_shutdown: Shutdown,
}

impl Parts {
    async fn join(
        options: &Run,
        manifest: &Manifest,
        guard: Guard,
        console: Console,
    ) -> io::Result<Self> {
        let mut tasks = tokio::task::JoinSet::new();
        let stop = CancellationToken::new();
        let mut registry = Registry::default();
        let config = &manifest.settings.autoscaler;
        let board = ProbeBoard::default();

        let (autoscaler_updates, updates_received) =
            mpsc::channel(autoscaler::world::UPDATES_CAPACITY);
        let (actions, mut actions_received) = mpsc::channel(autoscaler::world::ACTIONS_CAPACITY);
        let (driver, autoscaler) = autoscaler::driver::Autoscaler::new(
            autoscaler::driver::Options::new(
                autoscaler::scraper::Options {
                    mesh: serving::config::network::MeshCompatibilityMode::Disabled,
                    ..autoscaler::scraper::Options::default()
                },
                board.targets(),
            ),
            autoscaler::driver::World {
                updates: updates_received,
                actions,
            },
            &mut registry,
        );
        let stats = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let stats_address = stats.local_addr()?;
        tasks.spawn_local(autoscaler::stat_server::serve(
            stats,
            autoscaler::stat_server::Options {
                frames: autoscaler.frames(),
                bucket_owner: None,
            },
            stop.clone(),
        ));
        tasks.spawn_local(driver.run(stop.clone()));

        let (activator_updates, updates_received) = mpsc::channel(::activator::UPDATES_CAPACITY);
        let (activator, activator_driver) = ::activator::new(
            activator_options(options, stats_address),
            updates_received,
            &mut registry,
        );
        tasks.spawn_local(activator_driver.run());
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let activator_address = own.local_addr()?;
        let activator_shutdown = Shutdown::new();
        tasks.spawn_local(server::serve(
            vec![Listener::plain(own)],
            Rc::new(activator.clone()),
            ServerOptions::default(),
            activator_shutdown.clone(),
        ));

        let cluster = Rc::new(Cluster::new(
            cluster::Settings {
                drain_timeout: options.drain_timeout,
                start_failures: options.start_failures,
                max_replicas_per_revision: options.limits.max_replicas_per_revision,
                max_replicas: options.limits.max_replicas,
                tag_header: manifest.settings.tag_header_based_routing,
                app_open_files: raise_open_files(),
            },
            config.clone(),
            console,
            guard,
            Ports::new(
                std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
                    .ok()
                    .as_deref(),
                fastrand::u16(..),
            ),
            cluster::Paths {
                board,
                activator: activator_address,
            },
        ));
        let to = updates::Listeners {
            autoscaler: autoscaler_updates,
            activator: activator_updates,
        };
        tasks.spawn_local(updates::send(Rc::clone(&cluster), to));
        tasks.spawn_local(Rc::clone(&cluster).keep_guard());
        let acting = Rc::clone(&cluster);
        tasks.spawn_local(async move {
            while let Some(batch) = actions_received.recv().await {
                for action in batch {
                    acting.act(action);
                }
            }
        });
        Ok(Self {
            cluster,
            activator,
            autoscaler,
            tasks,
            stop,
            activator_shutdown,
        })
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.activator_shutdown.stop();
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn activator_options(options: &Run, stats: SocketAddr) -> ::activator::Options {
    let mut activator = ::activator::Options::new("activator", Ipv4Addr::LOCALHOST.to_string());
    activator.autoscaler_url = Some(format!("ws://{stats}"));
    activator.probe.timeout = PROBE_TIMEOUT;
    activator.probe.frequency = PROBE_FREQUENCY;
    activator.limits.max_queued = options.limits.max_held_requests;
    activator.limits.max_queued_per_revision = options.limits.max_held_requests;
    activator
}

// === signals ===

#[derive(Clone, Copy, Debug)]
enum Received {
    Interrupt,
    Terminate,
}

impl Received {
    const fn number(self) -> u8 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl std::fmt::Display for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

struct Signals {
    interrupt: std::cell::RefCell<tokio::signal::unix::Signal>,
    terminate: std::cell::RefCell<tokio::signal::unix::Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?.into(),
            terminate: signal(SignalKind::terminate())?.into(),
        })
    }

    async fn next(&self) -> Received {
        std::future::poll_fn(|context| {
            if self.interrupt.borrow_mut().poll_recv(context).is_ready() {
                return std::task::Poll::Ready(Received::Interrupt);
            }
            if self.terminate.borrow_mut().poll_recv(context).is_ready() {
                return std::task::Poll::Ready(Received::Terminate);
            }
            std::task::Poll::Pending
        })
        .await
    }
}
