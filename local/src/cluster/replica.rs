//! One replica: a queue-proxy in this process and an app in another, from start to end.
//!
//! [`live`] is the whole life as one task. Whatever happens is told to the cluster at once; the
//! cluster tells the replica only one thing, to go away.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use queue_proxy::{Config, Listeners, ProbePacing, QueueProxy, StartError};
use serving::UnixTime;
use serving::config::{Deployment, Features, Logging, Observability};
use serving::pool::{Upstream, UpstreamOptions};
use serving::sidecar_environment::{self, MissingProbePort, Value};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Cluster;
use super::revision::Revision;
use crate::supervisor::kubelet::Kubelet;
use crate::supervisor::process::{Launch, Process, describe_exit};
use crate::supervisor::{diagnosis, process};

/// Without a request for so long a queue-proxy that drains has seen the last one: the senders are in
/// this process and hear of the departure within milliseconds.
const QUIET_PERIOD: Duration = Duration::from_millis(100);

/// A replica; shared by its own task, the cluster and the gateway.
#[derive(Debug)]
pub struct Replica {
    /// Counts the revision's replicas from 1.
    pub number: u64,
    /// What Knative would call its pod.
    pub pod: String,
    /// The app's `PORT`.
    pub port: u16,
    /// Where the queue-proxy takes requests.
    pub data: SocketAddr,
    /// Where the queue-proxy serves statistics.
    pub statistics: SocketAddr,
    /// Connections to the queue-proxy, for requests that pass no activator.
    pub upstream: Rc<Upstream>,
    /// Requests that the gateway sent and that run.
    pub direct: Cell<u32>,
    /// When the replica was made.
    pub created: UnixTime,
    /// Exits that were followed by another start.
    pub restarts: Cell<u32>,
    state: Cell<State>,
    pid: Cell<Option<i32>>,
    proxy: queue_proxy::Handle,
    go: Notify,
}

/// Where a replica is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its app runs or will in a moment, and is not ready yet.
    Starting,
    /// Its app passes its probe.
    Ready,
    /// Its app has exited and will be started again.
    Waiting,
    /// It leaves: no new requests, those in progress may end.
    Draining,
}

/// Everything [`live`] needs besides what is shared.
#[derive(Debug)]
pub struct Seed {
    proxy: QueueProxy,
    listeners: Listeners,
}

/// Why a replica could not even be made.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The queue-proxy cannot listen.
    #[error("cannot listen for a queue-proxy")]
    Listen(#[from] io::Error),
    /// The queue-proxy does not accept its configuration.
    #[error("a queue-proxy cannot start: {0}")]
    Proxy(String),
}

// === impl State ===

impl State {
    /// The word in `status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Draining => "draining",
        }
    }
}

// === impl Replica ===

impl Replica {
    /// Binds a queue-proxy's listeners and configures it for the app on `port`.
    pub fn new(
        revision: &Revision,
        number: u64,
        port: u16,
        drain_timeout: Duration,
        now: UnixTime,
    ) -> Result<(Self, Seed), SeedError> {
        let data = listen()?;
        let statistics = listen()?;
        let (data_address, statistics_address) = (data.local_addr()?, statistics.local_addr()?);
        let pod = format!("{}-deployment-{number}", revision.id.name);
        let variables = environment(revision, &pod, port, data_address)
            .map_err(|error| SeedError::Proxy(error.to_string()))?;
        let mut config = Config::from_environment(&variables)
            .map_err(|problems| SeedError::Proxy(problems.to_string()))?;
        config.options.quiet_period = QUIET_PERIOD;
        config.options.hijack_drain = drain_timeout;
        config.options.probe_pacing = ProbePacing::LOCAL;
        config.options.raw_output = false;
        // All parts share one thread: its delay says nothing about one replica.
        config.options.overload_delay = None;
        let proxy = QueueProxy::new(config).map_err(|error| SeedError::Proxy(error.to_string()))?;
        let replica = Self {
            number,
            pod,
            port,
            data: data_address,
            statistics: statistics_address,
            upstream: Upstream::new(data_address, UpstreamOptions::default()),
            direct: Cell::new(0),
            created: now,
            restarts: Cell::new(0),
            state: Cell::new(State::Starting),
            pid: Cell::new(None),
            proxy: proxy.handle(),
            go: Notify::new(),
        };
        let listeners = Listeners {
            stats: Some(statistics),
            ..Listeners::data_only(data)
        };
        Ok((replica, Seed { proxy, listeners }))
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Whether it is on its way out.
    pub fn is_draining(&self) -> bool {
        self.state.get() == State::Draining
    }

    /// The app's process while there is one.
    pub fn pid(&self) -> Option<i32> {
        self.pid.get()
    }

    /// Requests in its queue-proxy.
    pub fn in_flight(&self) -> usize {
        self.proxy.in_flight()
    }

    /// Tells it to go away. From now on it counts as draining.
    pub fn go_away(&self) {
        self.state.set(State::Draining);
        self.go.notify_one();
    }

    fn set_state(&self, state: State) {
        if !self.is_draining() {
            self.state.set(state);
        }
    }
}

fn listen() -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The variables that the controller gives a queue-proxy, for an app whose port is `port`.
fn environment(
    revision: &Revision,
    pod: &str,
    port: u16,
    data: SocketAddr,
) -> Result<BTreeMap<String, String>, MissingProbePort> {
    let template = &revision.template;
    let seconds = |timeout: Duration| i64::try_from(timeout.as_secs()).ok();
    let controlled = sidecar_environment::Revision {
        namespace: revision.id.namespace.clone(),
        name: revision.id.name.clone(),
        configuration: Some(revision.service.clone()),
        labels: revision.labels(),
        annotations: template.annotations.clone(),
        container_concurrency: Some(i64::from(template.container_concurrency)),
        timeout_seconds: seconds(template.timeout),
        response_start_timeout_seconds: seconds(template.response_start_timeout),
        idle_timeout_seconds: seconds(template.idle_timeout),
        containers: vec![sidecar_environment::Container {
            name: template.container.name.clone(),
            ports: vec![sidecar_environment::ContainerPort {
                name: template.container.protocol.as_str().to_owned(),
                container_port: i32::from(port),
            }],
            readiness_probe: Some(template.container.readiness.to_spec()),
        }],
    };
    let installation = sidecar_environment::Installation {
        deployment: &Deployment::default(),
        features: &Features::default(),
        logging: &Logging::default(),
        observability: &Observability::default(),
        system_namespace: "knative-serving",
    };
    let mut variables: BTreeMap<String, String> =
        sidecar_environment::environment(&controlled, &installation)?
            .into_iter()
            .map(|(name, value)| {
                let value = match value {
                    Value::Text(text) => text,
                    Value::FieldRef("metadata.name") => pod.to_owned(),
                    // Pod and host have the same address here.
                    Value::FieldRef(_) => data.ip().to_string(),
                };
                (name.to_owned(), value)
            })
            .collect();
    // Where it really listens: there is one queue-proxy per pod, but many on one machine.
    variables.insert("QUEUE_SERVING_PORT".to_owned(), data.port().to_string());
    Ok(variables)
}

/// What the app sees and is started with.
fn launch(cluster: &Cluster, revision: &Revision, replica: &Replica) -> Launch {
    let platform = [
        ("PORT".to_owned(), replica.port.to_string()),
        ("K_SERVICE".to_owned(), revision.service.clone()),
        ("K_CONFIGURATION".to_owned(), revision.service.clone()),
        ("K_REVISION".to_owned(), revision.id.name.clone()),
    ];
    let container = &revision.template.container;
    let environment = container.environment(&platform);
    Launch {
        command: container.command_line(&environment),
        environment,
        working_dir: container.working_dir.clone(),
        open_files: cluster.app_open_files(),
        prefix: cluster.console().prefix(&revision.id.name, replica.number),
    }
}

/// The life of a replica. Ends when its app and its queue-proxy are gone.
pub async fn live(cluster: Rc<Cluster>, revision: Rc<Revision>, replica: Rc<Replica>, seed: Seed) {
    let launch = launch(&cluster, &revision, &replica);
    let mut sidecar =
        tokio::task::spawn_local(seed.proxy.run(seed.listeners, std::future::pending::<()>()));
    loop {
        match cluster.start_process(&launch) {
            Ok(mut app) => {
                replica.pid.set(Some(app.group().as_raw_nonzero().get()));
                let exit = tokio::select! {
                    exit = app.wait() => exit,
                    () = watch(&cluster, &revision, &replica) => unreachable!("watching has no end"),
                    () = replica.go.notified() => {
                        drain(&cluster, &replica, &mut sidecar, Some(app)).await;
                        break;
                    }
                };
                replica.pid.set(None);
                cluster.forget_process(app.group());
                app.finish().await;
                exited(&cluster, &revision, &replica, exit);
            }
            Err(error) => {
                failed(
                    &cluster,
                    &revision,
                    &replica,
                    &format!("cannot be started: {error}"),
                );
            }
        }
        let pause = cluster.pause_of(&revision);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = replica.go.notified() => {
                drain(&cluster, &replica, &mut sidecar, None).await;
                break;
            }
        }
        replica.restarts.set(replica.restarts.get() + 1);
        replica.set_state(State::Starting);
        cluster.replica_changed(&revision);
    }
    sidecar.abort();
    replica.upstream.close();
    cluster.replica_gone(&revision, &replica);
}

/// Follows readiness and looks for reasons while there is none.
async fn watch(cluster: &Rc<Cluster>, revision: &Rc<Revision>, replica: &Rc<Replica>) {
    let kubelet = Kubelet::new(
        replica.data,
        revision.template.container.readiness.period_seconds,
    );
    loop {
        tokio::select! {
            biased;
            () = kubelet.until_ready() => {}
            () = diagnose(cluster, revision, replica) => unreachable!("diagnosis has no end"),
        }
        replica.set_state(State::Ready);
        revision.back_off.borrow_mut().ready();
        cluster.replica_ready(revision, replica);
        kubelet.until_unready().await;
        replica.set_state(State::Starting);
        cluster.console().complain(format_args!(
            "{} {} no longer passes its readiness probe",
            revision.id.name, replica.number
        ));
        cluster.replica_changed(revision);
    }
}

/// Finds out, ever less often, why the app is not ready, and tells whoever waits for it.
async fn diagnose(cluster: &Rc<Cluster>, revision: &Rc<Revision>, replica: &Rc<Replica>) {
    let mut told = false;
    for (number, pause) in diagnosis::PAUSES.iter().cycle().enumerate() {
        let pause = if number < diagnosis::PAUSES.len() {
            *pause
        } else {
            diagnosis::LAST_PAUSE
        };
        tokio::time::sleep(pause).await;
        let Some(group) = replica.pid.get() else {
            continue;
        };
        let reason = diagnosis::of(group, replica.port);
        if !told && number >= diagnosis::TOLD_FROM {
            told = true;
            cluster.console().complain(format_args!(
                "{} {}: {reason}",
                revision.id.name, replica.number
            ));
        }
        cluster.not_ready_because(revision, reason);
    }
}

fn exited(
    cluster: &Rc<Cluster>,
    revision: &Rc<Revision>,
    replica: &Rc<Replica>,
    exit: io::Result<ExitStatus>,
) {
    let how = match exit {
        Ok(status) => describe_exit(status),
        Err(error) => format!("cannot be awaited: {error}"),
    };
    failed(cluster, revision, replica, &how);
}

fn failed(cluster: &Rc<Cluster>, revision: &Rc<Revision>, replica: &Rc<Replica>, how: &str) {
    let was_ready = replica.state() == State::Ready;
    replica.set_state(State::Waiting);
    cluster.app_exited(revision, replica, how, was_ready);
}

/// Lets requests end, then the app.
async fn drain(
    cluster: &Rc<Cluster>,
    replica: &Rc<Replica>,
    sidecar: &mut JoinHandle<Result<(), StartError>>,
    app: Option<Process>,
) {
    if app.is_some() {
        replica.proxy.drain(QUIET_PERIOD);
        // What still runs after the timeout is cut off with the app.
        let _ = tokio::time::timeout(cluster.drain_timeout(), sidecar).await;
    }
    let Some(app) = app else { return };
    let group = app.group();
    match app.terminate().await {
        Ok(status) => tracing::info!(
            pod = replica.pod,
            status = process::describe_exit(status),
            "replica ended"
        ),
        Err(error) => tracing::warn!(pod = replica.pod, %error, "replica could not be ended"),
    }
    replica.pid.set(None);
    cluster.forget_process(group);
}
