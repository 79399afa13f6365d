//! Many requests at once, and a steady stream of them in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{JoinHandle, JoinSet};

use crate::client::{Answer, Call};

/// Sends `count` copies of `call` at the same time; results come in the order of completion.
pub async fn at_once(call: &Call, count: usize) -> Vec<anyhow::Result<Answer>> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        tasks.spawn(call.clone().send());
    }
    tasks.join_all().await
}

/// Panics unless every one of `answers` is a 200.
pub fn all_ok(answers: &[anyhow::Result<Answer>]) {
    for (index, answer) in answers.iter().enumerate() {
        match answer {
            Ok(answer) => assert_eq!(answer.status, 200, "answer {index}: {answer:?}"),
            Err(error) => panic!("answer {index}: {error:#}"),
        }
    }
}

/// Workers that send one request after another until they are stopped.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Vec<anyhow::Result<Answer>>>>,
}

impl Stream {
    /// Starts `workers` workers.
    pub fn start(call: &Call, workers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..workers)
            .map(|_| {
                let (call, stop) = (call.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut answers = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        answers.push(call.clone().send().await);
                    }
                    answers
                })
            })
            .collect();
        Self { stop, workers }
    }

    /// Stops after the requests in progress and returns every answer.
    pub async fn finish(self) -> Vec<anyhow::Result<Answer>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for worker in self.workers {
            all.extend(worker.await.expect("a worker does not panic"));
        }
        all
    }
}
