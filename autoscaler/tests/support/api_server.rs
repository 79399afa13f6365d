//! A real etcd and kube-apiserver for one test program, from the folder that `KUBEBUILDER_ASSETS`
//! names. They end with the program's [`ApiServer`].

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use kube::config::AuthInfo;
use kube::{Client, Config};
use serde_json::{Value, json};
use serving::environment::{Environment as _, ProcessEnvironment};

/// Signs the service account tokens of a server that lives for seconds and nobody can reach.
const SERVICE_ACCOUNT_KEY: &str = include_str!("service-account.key");
const TOKEN: &str = "test-token";

/// Running programs, ended when dropped.
pub(crate) struct ApiServer {
    programs: Vec<Child>,
    url: String,
    _folder: tempfile::TempDir,
}

/// A free port. Another program could take it before it is used; nobody here does.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn start(program: &Path, arguments: &[String], log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

impl ApiServer {
    /// Starts both and installs our resources; `None` where there are no programs to start.
    pub(crate) async fn start() -> Option<Self> {
        let assets = ProcessEnvironment.variable("KUBEBUILDER_ASSETS");
        let Some(assets) = assets.map(PathBuf::from) else {
            println!(
                "left out: the tests against a real API server need KUBEBUILDER_ASSETS, see setup-envtest"
            );
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("sa.key"), SERVICE_ACCOUNT_KEY).unwrap();
        std::fs::write(
            path("tokens.csv"),
            format!("{TOKEN},admin,admin,system:masters\n"),
        )
        .unwrap();
        let (client_port, peer_port, api_port) = (port(), port(), port());
        let etcd = [
            format!("--data-dir={}", path("etcd").display()),
            format!("--listen-client-urls=http://127.0.0.1:{client_port}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client_port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let api_server = [
            format!("--etcd-servers=http://127.0.0.1:{client_port}"),
            format!("--secure-port={api_port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", path("certificates").display()),
            format!("--token-auth-file={}", path("tokens.csv").display()),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://localhost/".to_owned(),
            format!("--service-account-key-file={}", path("sa.key").display()),
            format!(
                "--service-account-signing-key-file={}",
                path("sa.key").display()
            ),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        ];
        let programs = vec![
            start(&assets.join("etcd"), &etcd, &path("etcd.log")),
            start(
                &assets.join("kube-apiserver"),
                &api_server,
                &path("api.log"),
            ),
        ];
        let server = Self {
            programs,
            url: format!("https://127.0.0.1:{api_port}"),
            _folder: folder,
        };
        server.ready().await;
        server.install().await;
        Some(server)
    }

    /// A new client.
    pub(crate) fn client(&self) -> Client {
        let mut config = Config::new(self.url.parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info = AuthInfo {
            token: Some(TOKEN.to_owned().into()),
            ..AuthInfo::default()
        };
        Client::try_from(config).unwrap()
    }

    async fn ready(&self) {
        let client = self.client();
        eventually("the API server", async || {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            let ready = client.request_text(request).await.ok();
            ready.filter(|text| text == "ok")
        })
        .await;
    }

    async fn install(&self) {
        let client = self.client();
        let api = Api::<CustomResourceDefinition>::all(client.clone());
        for definition in [pod_autoscalers(), metrics(), serverless_services()] {
            let definition = serde_json::from_value(definition).unwrap();
            api.create(&PostParams::default(), &definition)
                .await
                .unwrap();
        }
        eventually("the resources", async || {
            let list = api.list(&Default::default()).await.ok()?;
            let established = list.items.iter().all(|definition| {
                let status = definition.status.as_ref();
                let conditions = status.and_then(|status| status.conditions.as_ref());
                conditions.is_some_and(|all| {
                    all.iter()
                        .any(|it| it.type_ == "Established" && it.status == "True")
                })
            });
            established.then_some(())
        })
        .await;
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for program in self.programs.iter_mut().rev() {
            // One that has ended already is what is wanted.
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// Waits, at most a minute, until `condition` gives something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let attempts = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(60), attempts).await {
        Ok(value) => value,
        Err(_) => panic!("no {what} within a minute"),
    }
}

fn definition(group: &str, kind: &str, plural: &str, spec: &Value, status: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": spec, "status": status}
                }}
            }]
        }
    })
}

/// The status fields that all three share.
fn status(more: &Value, required: &[&str]) -> Value {
    let mut properties = json!({
        "observedGeneration": {"type": "integer", "format": "int64"},
        "annotations": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "conditions": {"type": "array", "items": {
            "type": "object",
            "required": ["type", "status"],
            "properties": {
                "type": {"type": "string"}, "status": {"type": "string"},
                "reason": {"type": "string"}, "message": {"type": "string"},
                "severity": {"type": "string"}, "lastTransitionTime": {"type": "string"}
            }
        }}
    });
    let all = properties.as_object_mut().unwrap();
    all.extend(more.as_object().unwrap().clone());
    json!({"type": "object", "properties": properties, "required": required})
}

fn reference() -> Value {
    json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "name": {"type": "string"}
    }})
}

fn pod_autoscalers() -> Value {
    let spec = json!({
        "type": "object",
        "required": ["protocolType", "scaleTargetRef"],
        "properties": {
            "containerConcurrency": {"type": "integer", "format": "int64"},
            "protocolType": {"type": "string"},
            "reachability": {"type": "string"},
            "scaleTargetRef": reference()
        }
    });
    let more = json!({
        "serviceName": {"type": "string"}, "metricsServiceName": {"type": "string"},
        "desiredScale": {"type": "integer", "format": "int32"},
        "actualScale": {"type": "integer", "format": "int32"}
    });
    let status = status(&more, &["serviceName", "metricsServiceName"]);
    definition(
        "autoscaling.internal.knative.dev",
        "PodAutoscaler",
        "podautoscalers",
        &spec,
        &status,
    )
}

fn metrics() -> Value {
    let spec = json!({
        "type": "object",
        "required": ["panicWindow", "scrapeTarget", "stableWindow"],
        "properties": {
            "panicWindow": {"type": "integer", "format": "int64"},
            "stableWindow": {"type": "integer", "format": "int64"},
            "scrapeTarget": {"type": "string"}
        }
    });
    let status = status(&json!({}), &[]);
    let group = "autoscaling.internal.knative.dev";
    definition(group, "Metric", "metrics", &spec, &status)
}

fn serverless_services() -> Value {
    let spec = json!({
        "type": "object",
        "required": ["objectRef", "protocolType"],
        "properties": {
            "mode": {"type": "string"},
            "numActivators": {"type": "integer", "format": "int32"},
            "protocolType": {"type": "string"},
            "objectRef": reference()
        }
    });
    let more = json!({
        "serviceName": {"type": "string"}, "privateServiceName": {"type": "string"}
    });
    definition(
        "networking.internal.knative.dev",
        "ServerlessService",
        "serverlessservices",
        &spec,
        &status(&more, &[]),
    )
}
