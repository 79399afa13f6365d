//! Kind `concurrencyReporter`: the activator's per-revision reports.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use activator::concurrency_reporter::{ConcurrencyReporter, RevisionReport, RevisionStats};
use serde_json::{Value, json};
use serving::{RevisionId, UnixTime};

use crate::conformance::Verdict;

pub(crate) fn replay(case: &Value) -> Verdict {
    let start = case["startNs"].as_i64().unwrap();
    let reporter = ConcurrencyReporter::new();
    let mut revisions: HashMap<String, Arc<RevisionStats>> = HashMap::new();
    let mut requests: HashMap<u64, Arc<RevisionStats>> = HashMap::new();
    let mut rows = Vec::new();
    for op in case["ops"].as_array().unwrap() {
        let now = UnixTime(start + op[1].as_i64().unwrap());
        match op[0].as_str().unwrap() {
            "in" => {
                let key = op[3].as_str().unwrap();
                let revision = revisions.entry(key.to_owned()).or_insert_with(|| {
                    let id: RevisionId = key.parse().unwrap();
                    RevisionStats::new(id)
                });
                requests.insert(op[2].as_u64().unwrap(), Arc::clone(revision));
                let mut messages = BTreeMap::new();
                if reporter.request_in(revision, now) {
                    messages.insert(key.to_owned(), RevisionReport::POKE);
                }
                rows.push(row(&messages, &reporter));
            }
            "out" => {
                let revision = requests.remove(&op[2].as_u64().unwrap()).unwrap();
                revision.request_out(now);
                rows.push(Value::Null);
            }
            "report" => {
                let mut messages = BTreeMap::new();
                reporter.report(now, |id, report| {
                    messages.insert(id.to_string(), report);
                });
                rows.push(row(&messages, &reporter));
            }
            other => panic!("unknown op {other}"),
        }
    }
    Verdict::of(case, Value::Array(rows))
}

fn row(messages: &BTreeMap<String, RevisionReport>, reporter: &ConcurrencyReporter) -> Value {
    let messages: Vec<_> = messages
        .iter()
        .map(|(key, report)| json!([key, report.average_concurrency, report.request_count]))
        .collect();
    json!({"messages": messages, "tracked": reporter.tracked()})
}
