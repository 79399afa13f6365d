//! How the process ends.

use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};

fn signal(process: u32, name: &str) {
    let kill = format!("kill -{name} {process}");
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("there is a shell").success());
}

/// An activator that waits for its API server, which takes connections and says nothing.
struct Starting {
    process: Child,
    kubeconfig: std::path::PathBuf,
    _silent: TcpListener,
    _connection: std::net::TcpStream,
}

impl Starting {
    fn new(test: &str) -> Self {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = silent.local_addr().expect("bound");
        let name = format!("activator-{test}-{}", std::process::id());
        let kubeconfig = std::env::temp_dir().join(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters: [{{name: a, cluster: {{server: 'http://{address}'}}}}]\n\
             users: [{{name: a, user: {{}}}}]\n\
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).expect("a writable folder");
        let process = Command::new(env!("CARGO_BIN_EXE_activator"))
            .env_clear()
            .envs([
                ("POD_NAME", "activator-0"),
                ("POD_IP", "127.0.0.1"),
                ("SYSTEM_NAMESPACE", "knative-serving"),
            ])
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        // It listens to signals before it asks anybody anything.
        let (connection, _) = silent.accept().expect("it asks the API server");
        Self {
            process,
            kubeconfig,
            _silent: silent,
            _connection: connection,
        }
    }

    fn signal(&self, name: &str) {
        signal(self.process.id(), name);
    }

    fn end(mut self) -> ExitStatus {
        let status = self.process.wait().expect("it is our child");
        let _ = std::fs::remove_file(&self.kubeconfig);
        status
    }
}

/// Who is told to end during the start does not wait for the API server, which would end it with 1.
#[test]
fn a_signal_ends_the_start() {
    let starting = Starting::new("start");
    starting.signal("TERM");
    assert_eq!(starting.end().code(), Some(0));
}

/// Edge case 59: a second signal ends the process at once, with 1, whatever it is waiting for.
#[test]
fn edge_case_59_a_second_signal_ends_the_process() {
    let starting = Starting::new("second");
    // Both are there when it looks, and of two alike the kernel might make one.
    for name in ["STOP", "TERM", "INT", "CONT"] {
        starting.signal(name);
    }
    assert_eq!(starting.end().code(), Some(1));
}
