//! How the process ends.

use std::net::TcpListener;
use std::process::{Command, Stdio};

fn signal(process: u32, name: &str) {
    let kill = format!("kill -{name} {process}");
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("there is a shell").success());
}

/// Edge case 59: a second signal ends the process at once, with 1, whatever it is waiting for.
#[test]
fn edge_case_59_a_second_signal_ends_the_process() {
    // An API server that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound");
    let kubeconfig = std::env::temp_dir().join(format!("activator-{}", std::process::id()));
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
         clusters: [{{name: a, cluster: {{server: 'http://{address}'}}}}]\n\
         users: [{{name: a, user: {{}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
    );
    std::fs::write(&kubeconfig, text).expect("a writable folder");
    let mut process = Command::new(env!("CARGO_BIN_EXE_activator"))
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
    let (_connection, _) = silent.accept().expect("it asks the API server");
    signal(process.id(), "TERM");
    // Another one, or the kernel might make one of both.
    signal(process.id(), "INT");
    let status = process.wait().expect("it is our child");
    let _ = std::fs::remove_file(&kubeconfig);
    assert_eq!(status.code(), Some(1));
}
