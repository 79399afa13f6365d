#![no_main]
//! Lines of `NAME=value` as the environment of a queue-proxy.

use std::collections::BTreeMap;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let environment: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if let Ok(config) = queue_proxy::Config::from_environment(&environment) {
        let _ = queue_proxy::QueueProxy::new(config);
    }
});
