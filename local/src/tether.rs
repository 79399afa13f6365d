//! Ties replicas to the life of this program: whatever ends it, even SIGKILL, ends them too.
//!
//! Two mechanisms, because each leaves a gap that the other closes. Every replica's first process
//! carries a parent-death signal, set by the hidden subcommand `exec-replica` just before it
//! becomes the app; the kernel delivers it, but only to that process. One guard process, started
//! before any replica, knows every process group; it reads a pipe whose other end only this program
//! holds, and when that closes it kills the groups with everything in them.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};

use crate::exit;

/// This program, for starting further instances of itself, also after its file was replaced.
pub const SELF: &str = "/proc/self/exe";

/// Groups that a guard keeps in mind; the bound on replicas is lower by far.
const MAX_GROUPS: usize = 100_000;

/// The running guard. Dropping it makes the guard kill every group it was told of.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    pipe: Option<std::process::ChildStdin>,
}

// === impl Guard ===

impl Guard {
    /// Starts the guard in a process group of its own, so that signals to this program's group,
    /// such as Ctrl-C, pass it by.
    pub fn start(program: &str) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg0("pilotlight")
            .arg("guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Tells the guard of a new group.
    pub fn watch(&mut self, group: Pid) -> io::Result<()> {
        self.tell('+', group)
    }

    /// Tells the guard that a group is gone and its number may come to mean another.
    pub fn forget(&mut self, group: Pid) -> io::Result<()> {
        self.tell('-', group)
    }

    fn tell(&mut self, sign: char, group: Pid) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        // One short write to a pipe is atomic, and the guard reads at once.
        pipe.write_all(format!("{sign}{}\n", group.as_raw_nonzero()).as_bytes())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe = None;
        // It kills what is left and ends; waiting keeps it from becoming a zombie.
        let _ = self.child.wait();
    }
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

/// The subcommand `exec-replica`: sets the parent-death signal and becomes the app. Returns only
/// when that fails, with what to print and the code to exit with.
pub fn exec_replica(parent: i32, command: &[String]) -> (String, u8) {
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
