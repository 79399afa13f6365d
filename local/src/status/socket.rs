//! The socket between a running program and `pilotlight status`.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serving::environment::Environment;
use tokio::net::UnixListener;

use super::Report;
use crate::exit::{self, Exit};

/// The longest answer that is read.
const MAX_ANSWER: u64 = 64 << 20;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the socket of a front port is. The folder is private to the user; it is made when needed.
pub fn path(environment: &dyn Environment, port: u16) -> io::Result<PathBuf> {
    let folder = environment
        .variable("XDG_RUNTIME_DIR")
        .filter(|folder| Path::new(folder).is_dir())
        .map_or_else(
            || {
                let user = rustix::process::geteuid().as_raw();
                PathBuf::from(format!("/tmp/pilotlight-{user}"))
            },
            |folder| Path::new(&folder).join("pilotlight"),
        );
    make_private(&folder)?;
    Ok(folder.join(format!("{port}.sock")))
}

fn make_private(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // Somebody else may have made it to listen in.
    let found = fs::symlink_metadata(folder)?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !own || found.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} is not a folder that only you can open; remove it",
            folder.display()
        )));
    }
    Ok(())
}

/// A bound socket; dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    /// Accepts those who ask.
    pub listener: UnixListener,
    path: PathBuf,
}

// === impl Socket ===

impl Socket {
    /// Binds the socket, in place of one whose program has ended.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        if path.exists() {
            if UnixStream::connect(&path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another pilotlight answers there",
                ));
            }
            fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A file left behind is found to be dead by the next program.
        let _ = fs::remove_file(&self.path);
    }
}

/// Asks the program behind a socket.
pub fn ask(path: &Path, port: u16) -> Result<Report, Exit> {
    let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Exit::new(
            exit::NOT_RUNNING,
            format!("no pilotlight runs on port {port}; start one with: pilotlight run -f FILE"),
        ),
        _ => Exit::new(
            exit::FAILED,
            format!("cannot connect to {}: {error}", path.display()),
        ),
    })?;
    let failed = |error: &dyn std::fmt::Display| {
        Exit::new(
            exit::FAILED,
            format!("no usable answer from the pilotlight on port {port}: {error}"),
        )
    };
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(|error| failed(&error))?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER)
        .read_to_end(&mut answer)
        .map_err(|error| failed(&error))?;
    serde_json::from_slice(&answer).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn only_the_user_can_open_it_and_a_dead_one_is_replaced() {
        let runtime = tempfile::tempdir().expect("a folder");
        let environment = BTreeMap::from([(
            "XDG_RUNTIME_DIR".to_owned(),
            runtime.path().display().to_string(),
        )]);
        let path = path(&environment, 8080).expect("a path");
        assert!(path.ends_with("pilotlight/8080.sock"));
        let missing = ask(&path, 8080).expect_err("nothing runs");
        assert_eq!(missing.code, exit::NOT_RUNNING);
        // A socket whose program was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert_eq!(ask(&path, 8080).expect_err("dead").code, exit::NOT_RUNNING);
        let socket = Socket::bind(path.clone()).expect("bound");
        let mode = fs::metadata(&path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Socket::bind(path.clone()).is_err(), "it is alive");
        // The attempt above has left a connection behind.
        let _ = socket.listener.accept().await.expect("accepted");
        let report = Report {
            pid: 7,
            ..Report::default()
        };
        let sent = serde_json::to_vec(&report).expect("JSON");
        let asked = path.clone();
        let asking = tokio::task::spawn_blocking(move || ask(&asked, 8080));
        let (mut stream, _) = socket.listener.accept().await.expect("accepted");
        stream.write_all(&sent).await.expect("written");
        drop(stream);
        assert_eq!(asking.await.expect("no panic").expect("a report"), report);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_others_can_open_is_refused() {
        let runtime = tempfile::tempdir().expect("a folder");
        let folder = runtime.path().join("pilotlight");
        fs::create_dir(&folder).expect("made");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("changed");
        assert!(make_private(&folder).is_err());
    }
}
