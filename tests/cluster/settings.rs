//! What the suite is told by variables, and the images it brings along.

use std::path::{Path, PathBuf};
use std::process::Command;

use serving::environment::{Environment as _, ProcessEnvironment};

/// The tag that is installed, and the one that is found before.
pub(crate) const TAG: &str = "test";
pub(crate) const FIRST: &str = "first";

/// See the suite's own documentation.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Before the name of every image.
    pub(crate) prefix: String,
    import: Option<String>,
    programs: PathBuf,
}

// === impl Settings ===

impl Settings {
    /// From the environment; otherwise why there is nothing to do. That `KUBECONFIG` is set alone
    /// changes no cluster: people have it set for other reasons.
    pub(crate) fn read() -> Result<Self, &'static str> {
        let variable = |name: &str| {
            let value = ProcessEnvironment.variable(name);
            value.filter(|value| !value.is_empty())
        };
        variable("KUBECONFIG").ok_or("KUBECONFIG names none")?;
        let prefix = variable("PILOTLIGHT_TEST_IMAGES");
        let import = variable("PILOTLIGHT_TEST_IMPORT");
        if prefix.is_none() && import.is_none() {
            return Err(
                "neither PILOTLIGHT_TEST_IMAGES says which images are there, nor \
                 PILOTLIGHT_TEST_IMPORT how to bring them",
            );
        }
        let programs = variable("PILOTLIGHT_TEST_PROGRAMS");
        Ok(Self {
            prefix: prefix.unwrap_or_else(|| "dev.local/pilotlight".to_owned()),
            import,
            programs: programs.map_or_else(|| root().join("target/images"), PathBuf::from),
        })
    }

    pub(crate) fn image(&self, program: &str, tag: &str) -> String {
        format!("{}/{program}:{tag}", self.prefix)
    }

    /// Brings the images into the cluster, when told how.
    pub(crate) fn import_images(&self) {
        let Some(import) = &self.import else {
            return;
        };
        for (program, tag) in [
            ("queue-proxy", TAG),
            ("activator", TAG),
            ("autoscaler", TAG),
            ("sample-app", TAG),
            ("activator", FIRST),
            ("autoscaler", FIRST),
        ] {
            let path = self.programs.join(program);
            assert!(
                path.is_file(),
                "{} is missing: run deploy/images --binaries-only --sample-app",
                path.display()
            );
            // Words of the command are its own; the two that follow are whole.
            let command = Command::new("sh")
                .args(["-c", &format!("{import} \"$@\""), "import"])
                .arg(self.image(program, tag))
                .arg(&path)
                .output()
                .unwrap();
            succeeded(import, &command);
        }
    }
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Runs a script of `deploy/`; returns what it printed.
pub(crate) fn deploy(script: &str, arguments: &[&str]) -> String {
    let output = Command::new(root().join("deploy").join(script))
        .args(arguments)
        .output()
        .unwrap();
    succeeded(script, &output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn succeeded(what: &str, output: &std::process::Output) {
    assert!(
        output.status.success(),
        "{what}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
