//! One app process and its group: start, exit, end.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::output;
use crate::console::{Console, Stream};
use crate::manifest::container::OWN_NAME;
use crate::tether::{exec_replica_arguments, signal_group};

/// Between SIGTERM and SIGKILL.
pub const KILL_DELAY: Duration = Duration::from_secs(5);

/// How long the end of an app's output is waited for once its group is gone; a process that left
/// the group may hold the pipe for ever.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(200);

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables added to those of this program.
    pub environment: Vec<(String, String)>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// The limit of open files, where it is not to be this program's own.
    pub open_files: Option<u64>,
    /// What stands before its lines.
    pub prefix: String,
}

/// A running app. Dropping it kills the whole group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    output: Vec<JoinHandle<()>>,
    ended: bool,
}

// === impl Process ===

impl Process {
    /// Starts an app through the hidden subcommand of `program` (this program itself). Must be
    /// called on a thread that lives as long as the app shall: the kernel ties them together.
    pub fn start(program: &str, launch: &Launch, console: &Console) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg0(OWN_NAME)
            .args(exec_replica_arguments(getpid(), launch.open_files))
            .args(own_name_replaced(&launch.command, program))
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(directory) = &launch.working_dir {
            command.current_dir(directory);
        }
        let mut child = command.spawn()?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or_else(|| io::Error::other("the process has no id"))?;
        let mut output = Vec::with_capacity(2);
        if let Some(stdout) = child.stdout.take() {
            let copied = output::copy(stdout, console.clone(), Stream::Out, launch.prefix.clone());
            output.push(tokio::task::spawn_local(copied));
        }
        if let Some(stderr) = child.stderr.take() {
            let copied = output::copy(
                stderr,
                console.clone(),
                Stream::Error,
                launch.prefix.clone(),
            );
            output.push(tokio::task::spawn_local(copied));
        }
        Ok(Self {
            child,
            group,
            output,
            ended: false,
        })
    }

    /// The group, whose number is that of its first process.
    pub const fn group(&self) -> Pid {
        self.group
    }

    /// Waits until the app's first process has ended. Cancel-safe.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the whole group to end, after [`KILL_DELAY`] without asking. Not cancel-safe in that
    /// dropping the future kills at once.
    pub async fn terminate(mut self) -> io::Result<ExitStatus> {
        signal_group(self.group, Signal::TERM)?;
        let waited = tokio::time::timeout(KILL_DELAY, self.child.wait()).await;
        let status = match waited {
            Ok(status) => status?,
            Err(_) => {
                signal_group(self.group, Signal::KILL)?;
                self.child.wait().await?
            }
        };
        self.finish().await;
        Ok(status)
    }

    /// Ends what is left of the group after its first process has ended, and lets the last lines be
    /// printed.
    pub async fn finish(mut self) {
        self.end_group();
        for copied in &mut self.output {
            let _ = tokio::time::timeout(OUTPUT_PATIENCE, copied).await;
        }
    }

    fn end_group(&mut self) {
        if !self.ended {
            self.ended = true;
            if let Err(error) = signal_group(self.group, Signal::KILL) {
                tracing::warn!(group = self.group.as_raw_nonzero(), %error, "cannot kill a process group");
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_group();
        for copied in &self.output {
            copied.abort();
        }
    }
}

/// The word `pilotlight` at the front stands for this program.
fn own_name_replaced<'a>(command: &'a [String], program: &'a str) -> impl Iterator<Item = &'a str> {
    command.iter().enumerate().map(move |(index, word)| {
        if index == 0 && word == OWN_NAME {
            program
        } else {
            word
        }
    })
}

/// How a process ended, in words.
pub fn describe_exit(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_name_stands_for_this_program_only_in_front() {
        let command = ["pilotlight".to_owned(), "pilotlight".to_owned()];
        let replaced: Vec<_> = own_name_replaced(&command, "/proc/self/exe").collect();
        assert_eq!(replaced, ["/proc/self/exe", "pilotlight"]);
    }

    #[test]
    fn exits_in_words() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(describe_exit(ExitStatus::from_raw(3 << 8)), "exit status 3");
        assert_eq!(describe_exit(ExitStatus::from_raw(9)), "killed by signal 9");
    }
}
