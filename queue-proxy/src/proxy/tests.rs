use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

const EXPIRED: &str = "Hijack connection drain failed: context deadline exceeded";

/// What was logged.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock()).contains(text)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn config() -> Config {
    let environment: BTreeMap<_, _> = [
        ("CONTAINER_CONCURRENCY", "0"),
        ("QUEUE_SERVING_PORT", "8012"),
        ("QUEUE_SERVING_TLS_PORT", "8112"),
        ("REVISION_TIMEOUT_SECONDS", "10"),
        ("SERVING_CONFIGURATION", ""),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_POD", "hello-00001-deployment-abc"),
        ("SERVING_POD_IP", "10.0.0.7"),
        ("SERVING_REVISION", "hello-00001"),
        ("USER_PORT", "8080"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let mut config = Config::from_environment(&environment).expect("valid");
    config.options.overload_delay = None;
    config
}

/// How long the shutdown takes while something is in flight that ends by itself after `ends`.
async fn shutdown(ends: Duration) -> (Duration, Log) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).finish();
    let _scope = tracing::subscriber::set_default(subscriber);
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = QueueProxy::new(config()).expect("it can start");
    let held = proxy.shared.in_flight.enter();
    tokio::task::spawn_local(async move {
        tokio::time::sleep(ends).await;
        drop(held);
    });
    let start = Instant::now();
    proxy
        .run(Listeners::data_only(socket), std::future::ready(()))
        .await
        .expect("a clean end");
    (Instant::now() - start, log)
}

/// After 30 s without a request the ports close, and 60 s more are there for what goes on, however
/// little its revision allows. Their end is no failure of the process.
#[tokio::test(flavor = "local", start_paused = true)]
async fn row_50_what_does_not_end_is_given_up_after_60_s() {
    let (took, log) = shutdown(Duration::from_secs(1000)).await;
    assert_eq!(took.as_secs(), 90);
    assert!(log.contains(EXPIRED), "{log:?}");
    assert!(log.contains("Shutdown complete, exiting..."), "{log:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_ends_within_60_s_is_waited_for_and_no_longer() {
    let (took, log) = shutdown(Duration::from_secs(89)).await;
    assert_eq!(took.as_secs(), 89);
    assert!(!log.contains(EXPIRED), "{log:?}");
}
