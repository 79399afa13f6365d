//! A real etcd and kube-apiserver for one test program, from the folder that `KUBEBUILDER_ASSETS`
//! names. Each runs under a shell that ends it as soon as the test program is gone, in whatever way:
//! the shell reads a pipe whose other end only the test program holds.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use kube::config::AuthInfo;
use kube::{Client, Config};
use serde_json::{Value, json};
use serving::environment::{Environment as _, ProcessEnvironment};

use super::{definitions, eventually, port};

/// Signs the service account tokens of a server that lives for seconds and nobody can reach.
const SERVICE_ACCOUNT_KEY: &str = include_str!("service-account.key");
const TOKEN: &str = "test-token";
/// Starts a program and waits for the end of its own input; then kills the program and, given a
/// folder as `$0`, removes it.
const WATCHDOG: &str = r#"trap '' INT TERM HUP
"$@" </dev/null & program=$!
cat >/dev/null
kill -9 "$program"; wait "$program"
test "$0" = keep || rm -rf "$0""#;

/// A program under its shell, ended when dropped.
#[derive(Debug)]
struct Guarded(Child);

/// A running etcd and kube-apiserver, ended when dropped.
#[derive(Debug)]
pub struct ApiServer {
    assets: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    etcd_port: u16,
    // Fields are dropped in this order: etcd last, and the folder with it.
    api_server: RefCell<Option<Guarded>>,
    _etcd: Guarded,
}

// === impl Guarded ===

impl Guarded {
    fn start(program: &Path, arguments: &[String], log: &Path, remove: Option<&Path>) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let child = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(remove.unwrap_or(Path::new("keep")))
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self(child)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The shell ends by itself once it has killed the program.
        let _ = self.0.wait();
    }
}

/// A client of the API server behind `address`, which may be a proxy's. It may do everything.
pub fn client(address: SocketAddr) -> Client {
    with_token(address, TOKEN)
}

/// A client with the rights of one of the accounts that the server was started with.
pub fn client_as(account: &str, address: SocketAddr) -> Client {
    with_token(address, account)
}

fn with_token(address: SocketAddr, token: &str) -> Client {
    let mut config = Config::new(format!("https://{address}").parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info = AuthInfo {
        token: Some(token.to_owned().into()),
        ..AuthInfo::default()
    };
    Client::try_from(config).unwrap()
}

impl ApiServer {
    /// Starts both and installs Knative's kinds; `None` where there are no programs to start. Every
    /// request of `accounts` is written down, once it was answered; their names are their tokens.
    pub async fn start(accounts: &[&str]) -> Option<Self> {
        let assets = ProcessEnvironment.variable("KUBEBUILDER_ASSETS");
        let assets = PathBuf::from(assets.filter(|assets| !assets.is_empty())?);
        let folder = tempfile::tempdir().unwrap().keep();
        std::fs::write(folder.join("sa.key"), SERVICE_ACCOUNT_KEY).unwrap();
        let mut tokens = format!("{TOKEN},admin,admin,system:masters\n");
        for account in accounts {
            tokens.push_str(&format!("{account},{account},{account}\n"));
        }
        std::fs::write(folder.join("tokens.csv"), tokens).unwrap();
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "users": accounts}, {"level": "None"}]
        });
        std::fs::write(folder.join("audit.json"), policy.to_string()).unwrap();
        let (etcd_port, peer_port) = (port(), port());
        let etcd = [
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"),
            format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let log = folder.join("etcd.log");
        let server = Self {
            _etcd: Guarded::start(&assets.join("etcd"), &etcd, &log, Some(&folder)),
            assets,
            folder,
            address: SocketAddr::from(([127, 0, 0, 1], port())),
            etcd_port,
            api_server: RefCell::new(None),
        };
        server.start_api_server().await;
        server.install().await;
        Some(server)
    }

    /// Starts kube-apiserver, on the port that it always has, and waits until it is ready.
    pub async fn start_api_server(&self) {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let arguments = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.address.port()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", path("certificates")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--audit-policy-file={}", path("audit.json")),
            format!("--audit-log-path={}", path("audit.log")),
            "--service-account-issuer=https://localhost/".to_owned(),
            format!("--service-account-key-file={}", path("sa.key")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        ];
        let program = self.assets.join("kube-apiserver");
        let log = self.folder.join("api.log");
        let started = Guarded::start(&program, &arguments, &log, None);
        *self.api_server.borrow_mut() = Some(started);
        self.ready().await;
    }

    /// Kills kube-apiserver; etcd stays.
    pub fn kill_api_server(&self) {
        drop(self.api_server.borrow_mut().take());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What an account has asked so far, as audit events.
    pub fn audit(&self, account: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(self.folder.join("audit.log")).unwrap();
        let lines = log.lines().map(serde_json::from_str);
        // The last line may still be in the making.
        let mut events: Vec<Value> = lines.map_while(Result::ok).collect();
        events.retain(|event| event["user"]["username"] == account);
        events
    }

    /// A kubeconfig for `account` at `address`, which may be a proxy's.
    pub fn kubeconfig(account: &str, address: SocketAddr) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {
                "server": format!("https://{address}"), "insecure-skip-tls-verify": true
            }}],
            "users": [{"name": "a", "user": {"token": account}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]
        })
        .to_string()
    }

    /// A new client.
    pub fn client(&self) -> Client {
        client(self.address)
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
        for definition in definitions::all() {
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
