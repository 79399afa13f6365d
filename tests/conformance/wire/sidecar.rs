//! Kind `queueEnv`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use serving::config::deployment::Deployment;
use serving::config::features::Features;
use serving::config::logging::Logging;
use serving::config::observability::Observability;
use serving::sidecar_environment::{
    Container, ContainerPort, Installation, Revision, environment as of_revision,
};

use super::{probe, text};
use crate::conformance::Verdict;

pub(super) fn environment(case: &Value) -> Verdict {
    Verdict::of(case, variables(&case["input"]))
}

fn variables(input: &Value) -> Value {
    let mut logging = BTreeMap::from([("zap-logger-config".to_owned(), "{}".to_owned())]);
    let level = text(&input["queueProxyLogLevel"]);
    if !level.is_empty() {
        logging.insert("loglevel.queueproxy".to_owned(), level.to_owned());
    }
    let logging = Logging::parse(&logging).expect("a valid logging config");
    let mut deployment = strings(&input["deployment"]);
    let image = deployment.entry("queue-sidecar-image".to_owned());
    image.or_insert_with(|| "queue".to_owned());
    let deployment = Deployment::parse(&deployment).expect("a valid deployment config");
    let observability = Observability::parse(&strings(&input["observability"]))
        .expect("a valid observability config");
    let installation = Installation {
        deployment: &deployment,
        features: &Features::parse(&strings(&input["features"])),
        logging: &logging,
        observability: &observability,
        system_namespace: "knative-serving",
    };
    match of_revision(&revision(input), &installation) {
        Ok(variables) => {
            let env: Map<_, _> = variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), json!(value.to_string())))
                .collect();
            json!({"env": env})
        }
        Err(error) => json!({"error": error.to_string()}),
    }
}

fn revision(input: &Value) -> Revision {
    let mut containers = vec![Container {
        name: "user-container".to_owned(),
        ports: list(&input["ports"])
            .map(|port| ContainerPort {
                name: text(&port["name"]).to_owned(),
                container_port: port["containerPort"].as_i64().unwrap_or_default() as i32,
            })
            .collect(),
        readiness_probe: probe::read(&input["readinessProbe"]),
    }];
    let sidecars = list(&input["sidecarProbes"]).enumerate();
    containers.extend(sidecars.map(|(index, of_sidecar)| Container {
        name: format!("sidecar-{index}"),
        ports: Vec::new(),
        readiness_probe: probe::read(of_sidecar),
    }));
    Revision {
        namespace: "foo".to_owned(),
        name: "bar".to_owned(),
        configuration: Some("the-config".to_owned()),
        labels: strings(&input["labels"]),
        annotations: strings(&input["annotations"]),
        container_concurrency: input["containerConcurrency"].as_i64(),
        timeout_seconds: input["timeoutSeconds"].as_i64(),
        response_start_timeout_seconds: input["responseStartTimeoutSeconds"].as_i64(),
        idle_timeout_seconds: input["idleTimeoutSeconds"].as_i64(),
        containers,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .map(|(key, value)| (key.clone(), text(value).to_owned()))
        .collect()
}
