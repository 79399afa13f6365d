//! Scenarios by name, each with a line about how it went.

use std::pin::Pin;
use std::rc::Rc;

use tokio::time::Instant;

/// The body of a scenario.
pub type Ended = Pin<Box<dyn Future<Output = ()>>>;

/// A scenario against `C`: its name, and how it starts.
#[derive(Debug)]
pub struct Scenario<C> {
    /// Module and function.
    pub name: &'static str,
    /// Makes the body.
    pub start: fn(Rc<C>) -> Ended,
}

/// A scenario that runs.
#[derive(Debug)]
pub struct Begun {
    name: &'static str,
    at: Instant,
    task: tokio::task::JoinHandle<Instant>,
}

/// The scenarios of these paths, each an `async fn` of what all share.
#[macro_export]
macro_rules! scenarios {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$($crate::scenarios::Scenario {
            name: concat!(stringify!($module), "::", stringify!($name)),
            start: |cluster| Box::pin($module::$name(cluster)),
        }),*]
    };
}

/// What is said instead of running so many scenarios.
pub fn leave_out(count: usize) {
    println!(
        "left out: {count} scenarios against a real API server; to run them set KUBEBUILDER_ASSETS \
         to the folder that `setup-envtest use -p path` prints"
    );
}

/// Runs scenarios side by side and then others one after the other; returns how many failed.
pub async fn run<C>(
    cluster: &Rc<C>,
    side_by_side: impl IntoIterator<Item = Scenario<C>>,
    alone: impl IntoIterator<Item = Scenario<C>>,
) -> usize {
    let mut failed = 0;
    let started = side_by_side.into_iter().map(|it| it.begin(cluster));
    for running in started.collect::<Vec<_>>() {
        failed += running.end().await;
    }
    for scenario in alone {
        failed += scenario.begin(cluster).end().await;
    }
    failed
}

/// Prints the line of something that went well.
fn report(name: &str, begun: Instant, ended: Instant) {
    let seconds = (ended - begun).as_secs_f64();
    println!("ok      {name:<50} {seconds:>5.1} s");
}

// === impl Scenario ===

impl<C> Clone for Scenario<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Scenario<C> {}

impl<C> Scenario<C> {
    /// Whether one of the texts is in its name, or there are none.
    pub fn selected(&self, texts: &[String]) -> bool {
        texts.is_empty() || texts.iter().any(|text| self.name.contains(text))
    }

    /// Starts it beside others.
    pub fn begin(self, cluster: &Rc<C>) -> Begun {
        let body = (self.start)(Rc::clone(cluster));
        Begun {
            name: self.name,
            at: Instant::now(),
            task: tokio::task::spawn_local(async move {
                body.await;
                Instant::now()
            }),
        }
    }
}

// === impl Begun ===

impl Begun {
    /// Waits for it and prints a line; 1 when it failed.
    pub async fn end(self) -> usize {
        match self.task.await {
            Ok(ended) => {
                report(self.name, self.at, ended);
                0
            }
            Err(_panic) => {
                println!("FAILED  {}", self.name);
                1
            }
        }
    }
}
