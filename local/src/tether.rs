//! Ties replicas to the life of this program: whatever ends it, even SIGKILL, ends them too.
//!
//! Two mechanisms, because each leaves a gap that the other closes. Every replica's first process
//! carries a parent-death signal, set by the hidden subcommand `exec-replica` just before it
//! becomes the app; the kernel delivers it, but only to that process. One guard process, started
//! before any replica, knows every process group; it reads a pipe whose other end only this program
//! holds, and when that closes it kills the groups with everything in them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, kill_process_group,
    set_parent_process_death_signal, setrlimit,
};

use crate::{exit, options};

/// This program, for starting further instances of itself, also after its file was replaced.
pub const SELF: &str = "/proc/self/exe";

/// Open files that are enough for every limit of the command line.
const MAX_OPEN_FILES: u64 = 1 << 20;

/// Groups that a guard keeps in mind; the bound on replicas is lower by far.
const MAX_GROUPS: usize = 100_000;

/// The running guard, replaced when somebody ends it. Dropping it makes the guard kill every group
/// it was told of.
#[derive(Debug)]
pub struct Guard {
    program: String,
    groups: BTreeSet<i32>,
    running: Option<(Child, ChildStdin)>,
}

// === impl Guard ===

impl Guard {
    /// Starts the guard in a process group of its own, so that signals to this program's group,
    /// such as Ctrl-C, pass it by.
    pub fn start(program: &str) -> io::Result<Self> {
        let mut guard = Self {
            program: program.to_owned(),
            groups: BTreeSet::new(),
            running: None,
        };
        guard.restart()?;
        Ok(guard)
    }

    /// Tells the guard of a new group.
    pub fn watch(&mut self, group: Pid) -> io::Result<()> {
        let group = group.as_raw_nonzero().get();
        self.groups.insert(group);
        self.tell(&format!("+{group}\n"))
    }

    /// Tells the guard that a group is gone and its number may come to mean another.
    pub fn forget(&mut self, group: Pid) -> io::Result<()> {
        let group = group.as_raw_nonzero().get();
        self.groups.remove(&group);
        self.tell(&format!("-{group}\n"))
    }

    /// Replaces a guard that has ended. To be called now and then.
    pub fn check(&mut self) -> io::Result<()> {
        self.tell("\n")
    }

    /// Writes to the guard, or starts another, which hears of every group.
    fn tell(&mut self, line: &str) -> io::Result<()> {
        if let Some((_, pipe)) = &mut self.running
            && pipe.write_all(line.as_bytes()).is_ok()
        {
            // One short write to a pipe is atomic, and the guard reads at once.
            return Ok(());
        }
        self.restart()
    }

    fn restart(&mut self) -> io::Result<()> {
        self.end();
        let mut child = Command::new(&self.program)
            .arg0("pilotlight")
            .arg("guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut pipe = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("the guard has no input"))?;
        for group in &self.groups {
            pipe.write_all(format!("+{group}\n").as_bytes())?;
        }
        self.running = Some((child, pipe));
        Ok(())
    }

    fn end(&mut self) {
        if let Some((mut child, pipe)) = self.running.take() {
            drop(pipe);
            // It kills what is left and ends; waiting keeps it from becoming a zombie.
            let _ = child.wait();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}

/// The arguments of a replica's first process, for [`hidden_command`] to read back.
pub fn exec_replica_arguments(parent: Pid, open_files: Option<u64>) -> Vec<String> {
    let mut arguments = vec![
        "exec-replica".to_owned(),
        format!("--parent={}", parent.as_raw_nonzero()),
    ];
    arguments.extend(open_files.map(|limit| format!("--open-files={limit}")));
    arguments.push("--".to_owned());
    arguments
}

/// Recognises what this program starts itself with, without the machinery of a command line.
/// Anything written in another way is left to that.
pub fn hidden_command(arguments: &[OsString]) -> Option<options::Command> {
    let mut words = arguments.iter().map(|word| word.to_str());
    if words.next()?? != "exec-replica" {
        return None;
    }
    let parent = words.next()??.strip_prefix("--parent=")?.parse().ok()?;
    let mut next = words.next()??;
    let mut open_files = None;
    if let Some(limit) = next.strip_prefix("--open-files=") {
        open_files = Some(limit.parse().ok()?);
        next = words.next()??;
    }
    if next != "--" {
        return None;
    }
    let command: Option<Vec<String>> = words.map(|word| word.map(str::to_owned)).collect();
    Some(options::Command::ExecReplica {
        parent,
        open_files,
        command: command.filter(|command| !command.is_empty())?,
    })
}

/// The subcommand `guard`: reads groups from `input` until its end, then kills those left.
pub fn guard(input: impl BufRead) -> u8 {
    for group in groups_left(input).into_iter().filter_map(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process_group(group, Signal::KILL);
    }
    exit::OK
}

fn groups_left(input: impl BufRead) -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    for line in input.lines() {
        let Ok(line) = line else { break };
        let (sign, number) = line.split_at(line.len().min(1));
        // Zero and less name no group but whole sets of processes.
        let Some(group) = number.parse().ok().filter(|group| *group > 0) else {
            continue;
        };
        if sign == "+" && groups.len() < MAX_GROUPS {
            groups.insert(group);
        } else if sign == "-" {
            groups.remove(&group);
        }
    }
    groups
}

/// The subcommand `exec-replica`: sets the parent-death signal and becomes the app, with the limit
/// of open files that this program itself was started with. Returns only when that fails, with what
/// to print and the code to exit with.
pub fn exec_replica(parent: i32, open_files: Option<u64>, command: &[String]) -> (String, u8) {
    if let Some(soft) = open_files {
        set_open_files(soft);
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return (
            format!("cannot set the parent-death signal: {error}"),
            exit::FAILED,
        );
    }
    // The parent may have died before the signal was set; then nobody would ever send it.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return ("pilotlight has ended".into(), exit::FAILED);
    }
    let Some((program, arguments)) = command.split_first() else {
        return ("no command given".into(), exit::USAGE);
    };
    let error = Command::new(program).args(arguments).exec();
    (
        format!("cannot start {program}: {error}"),
        exit::MISSING_COMMAND,
    )
}

/// Allows this process as many open files as it may have: every request needs some. The limit
/// before is returned, for the apps, which may rely on it being low.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let before = limit.current?;
    set_open_files(limit.maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES));
    Some(before)
}

/// Sets the soft limit; without permission it stays.
fn set_open_files(soft: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(soft),
            maximum,
        },
    );
}

/// Sends a signal to a group; a group that is gone is no error.
pub fn signal_group(group: Pid, signal: Signal) -> io::Result<()> {
    match kill_process_group(group, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_that_was_ended_is_replaced_and_hears_of_every_group() {
        let folder = tempfile::tempdir().expect("a folder");
        let heard = folder.path().join("heard");
        let program = folder.path().join("guard");
        let script = format!("#!/bin/sh\nexec cat >> {}\n", heard.display());
        std::fs::write(&program, script).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("executable");
        let group = Pid::from_raw(4_000_000).expect("positive");
        let mut guard = Guard::start(&program.display().to_string()).expect("started");
        guard.watch(group).expect("told");
        let (child, _) = guard.running.as_mut().expect("running");
        child.kill().expect("killed");
        child.wait().expect("ended");
        guard.check().expect("replaced");
        drop(guard);
        let heard = std::fs::read_to_string(heard).expect("heard");
        // Whether the first guard lived to hear it is a matter of luck.
        assert!(heard.ends_with("+4000000\n"), "{heard:?}");
    }

    #[test]
    fn open_files_are_raised_and_the_limit_before_is_told() {
        let before = raise_open_files().expect("a limit");
        let now = getrlimit(Resource::Nofile).current.expect("a limit");
        assert!(now >= before);
        set_open_files(before);
        assert_eq!(getrlimit(Resource::Nofile).current, Some(before));
    }

    #[test]
    fn its_own_command_lines_are_read_back() {
        let parent = Pid::from_raw(7).expect("positive");
        for open_files in [None, Some(1024)] {
            let mut words = exec_replica_arguments(parent, open_files);
            words.extend(["app".to_owned(), "--".to_owned()]);
            let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
            let Some(options::Command::ExecReplica {
                parent,
                open_files: read,
                command,
            }) = hidden_command(&words)
            else {
                panic!("{words:?}");
            };
            assert_eq!((parent, read), (7, open_files));
            assert_eq!(command, ["app", "--"]);
        }
        for other in [
            &["run"][..],
            &["exec-replica"],
            &["exec-replica", "--parent=7", "--"],
            &[],
        ] {
            let words: Vec<OsString> = other.iter().map(Into::into).collect();
            assert!(hidden_command(&words).is_none(), "{other:?}");
        }
    }

    #[test]
    fn the_guard_keeps_what_was_not_forgotten() {
        let left = groups_left(&b"+10\n+11\nnonsense\n\n-10\n+12\n-99\n+0\n+"[..]);
        assert_eq!(left, BTreeSet::from([11, 12]));
    }

    #[test]
    fn the_guard_kills_whole_groups_at_the_end_of_its_input() {
        let mut leader = Command::new("sh")
            .args(["-c", "sleep 1000 & echo started; wait"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut output = io::BufReader::new(leader.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("started");
        let input = format!("+{}\n", leader.id());
        assert_eq!(guard(input.as_bytes()), exit::OK);
        // The pipe ends only when the sleeping grandchild is gone as well.
        let mut rest = Vec::new();
        io::Read::read_to_end(&mut output, &mut rest).expect("the end");
        assert!(!leader.wait().expect("ended").success());
    }
}
