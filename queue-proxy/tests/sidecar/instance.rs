//! A queue-proxy on ports of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use queue_proxy::{Config, Handle, Listeners, QueueProxy, certificates_exist};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// No test takes longer than this unless something hangs.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long [`eventually`] waits for a condition.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(20);

/// A running sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) data: SocketAddr,
    /// With a certificate only.
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) stats: SocketAddr,
    pub(crate) user_metrics: SocketAddr,
    pub(crate) handle: Handle,
    shutdown: Option<oneshot::Sender<()>>,
    pub(crate) finished: JoinHandle<Result<(), queue_proxy::StartError>>,
}

/// Runs a test on one thread, as the process does.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    run_within(TEST_TIMEOUT, test)
}

/// The same for a test that [skips](skip) time, all of which counts.
pub(crate) fn run_within<F: Future>(limit: Duration, test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime")
        .block_on(async {
            tokio::time::timeout(limit, test)
                .await
                .expect("the test ends in time")
        })
}

/// Moves the clock on; before and after it time is real, as it has to be where sockets are.
pub(crate) async fn skip(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(CONDITION_TIMEOUT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert!(waited.is_ok(), "still not: {what}");
}

/// The controller's environment for an app at `app`.
pub(crate) fn environment(app: SocketAddr, changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    let port = app.port().to_string();
    let mut environment: BTreeMap<String, String> = [
        ("CONTAINER_CONCURRENCY", "0"),
        ("ENABLE_HTTP2_AUTO_DETECTION", "false"),
        ("ENABLE_HTTP_FULL_DUPLEX", "false"),
        ("ENABLE_MULTI_CONTAINER_PROBES", "false"),
        (
            "OBSERVABILITY_CONFIG",
            r#"{"requestMetrics":{"protocol":"prometheus"}}"#,
        ),
        ("QUEUE_PROXY_TLS_CIPHER_SUITES", ""),
        ("QUEUE_PROXY_TLS_MIN_VERSION", ""),
        ("QUEUE_SERVING_PORT", "8012"),
        ("QUEUE_SERVING_TLS_PORT", "8112"),
        ("REVISION_IDLE_TIMEOUT_SECONDS", "0"),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "0"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("SERVING_CONFIGURATION", "hello"),
        ("SERVING_LOGGING_CONFIG", "{}"),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_POD", "hello-00001-deployment-7d4f9c-abcde"),
        ("SERVING_POD_IP", "10.1.2.3"),
        // A busy machine must not change what other tests see.
        ("PILOTLIGHT_OVERLOAD_DELAY", "0"),
        ("SERVING_READINESS_PROBE", ""),
        ("SERVING_REVISION", "hello-00001"),
        ("SERVING_SERVICE", "hello"),
        ("USER_PORT", &port),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    for (name, value) in changes {
        environment.insert((*name).to_owned(), value.replace("$PORT", &port));
    }
    environment
}

impl Sidecar {
    /// Starts with the controller's environment and `changes`, in which `$PORT` is the app's.
    pub(crate) async fn start(app: SocketAddr, changes: &[(&str, &str)]) -> Self {
        Self::configured(app, changes, |_| {}).await
    }

    /// Starts with settings that no variable has, too.
    pub(crate) async fn configured(
        app: SocketAddr,
        changes: &[(&str, &str)],
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let environment = environment(app, changes);
        let mut config = Config::from_environment(&environment).expect("valid");
        configure(&mut config);
        let [data, admin, stats, user_metrics] =
            [bind().await, bind().await, bind().await, bind().await];
        let tls = if certificates_exist(&config.tls).expect("readable") {
            Some(bind().await)
        } else {
            None
        };
        let address = |socket: &TcpListener| socket.local_addr().expect("bound");
        let (shutdown, told) = oneshot::channel();
        let proxy = QueueProxy::new(config).expect("starts");
        let handle = proxy.handle();
        let addresses = [&data, &admin, &stats, &user_metrics].map(address);
        let tls_address = tls.as_ref().map(address);
        let listeners = Listeners {
            data,
            tls,
            admin: Some(admin),
            stats: Some(stats),
            user_metrics: Some(user_metrics),
            profiling: None,
        };
        let finished = tokio::task::spawn_local(proxy.run(listeners, async move {
            // A test that never stops it keeps it running until it ends itself.
            if told.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Self {
            data: addresses[0],
            tls: tls_address,
            admin: addresses[1],
            stats: addresses[2],
            user_metrics: addresses[3],
            handle,
            shutdown: Some(shutdown),
            finished,
        }
    }

    /// What a first SIGTERM does.
    pub(crate) async fn terminate(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            shutdown.send(()).expect("it is running");
        }
        let handle = self.handle.clone();
        eventually("draining", || handle.is_draining()).await;
    }
}

pub(crate) async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}
