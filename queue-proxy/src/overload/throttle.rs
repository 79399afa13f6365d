//! Whether the kernel stops this process for its CPU quota, by the account that its control group
//! keeps (`nr_throttled` in `cpu.stat`, in either version of the interface).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// A stop counts for so long: ten of the kernel's periods.
const RECENT: Duration = Duration::from_secs(1);

/// What is known of the stops.
#[derive(Debug)]
pub(super) struct Throttle {
    /// `/`, but for tests.
    root: PathBuf,
    /// The account when it was last read, and when that was.
    count: Option<(u64, Instant)>,
    /// When it was last seen to have grown.
    grown: Option<Instant>,
}

// === impl Throttle ===

impl Throttle {
    pub(super) fn new() -> Self {
        Self::under("/".into())
    }

    fn under(root: PathBuf) -> Self {
        Self {
            root,
            count: None,
            grown: None,
        }
    }

    /// Reads the account, anew each time, since a process can be moved: whether there was a stop of
    /// late. Never where there is no account, as for a process outside of any container.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        let count = self.read();
        // What it has grown by since a look long ago need not be of late.
        if let (Some((before, at)), Some(count)) = (self.count, count)
            && count > before
            && now - at < RECENT
        {
            self.grown = Some(now);
        }
        self.count = count.map(|count| (count, now));
        self.grown.is_some_and(|at| now - at < RECENT)
    }

    fn read(&self) -> Option<u64> {
        let groups = fs::read_to_string(self.root.join("proc/self/cgroup")).ok()?;
        let mounts = self.root.join("sys/fs/cgroup");
        groups
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .filter(|(controllers, _)| {
                // The second version has one hierarchy, without a name.
                controllers.is_empty() || controllers.split(',').any(|it| it == "cpu")
            })
            .find_map(|(controllers, path)| {
                let mount = mounts.join(controllers);
                // Without a namespace of its own a container sees the host's path and its own mount.
                account(&mount.join(path.trim_start_matches('/'))).or_else(|| account(&mount))
            })
    }
}

fn account(group: &Path) -> Option<u64> {
    let stat = fs::read_to_string(group.join("cpu.stat")).ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("nr_throttled "))
        .and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cgroup: &str, group: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/cgroup"), cgroup).unwrap();
        let group = root.path().join("sys/fs/cgroup").join(group);
        fs::create_dir_all(&group).unwrap();
        (root, group.join("cpu.stat"))
    }

    #[test]
    fn stops_are_found_in_either_interface_and_forgotten() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        for (cgroup, group) in [
            ("0::/\n", ""),
            ("0::/pod/app\n", "pod/app"),
            ("4:memory:/a\n2:cpu,cpuacct:/b\n0::/\n", "cpu,cpuacct/b"),
            ("1:cpu:/kubepods/on-the-host\n", "cpu"),
        ] {
            let (root, stat) = machine(cgroup, group);
            let mut throttle = Throttle::under(root.path().into());
            assert!(!throttle.look(at(0)), "{cgroup}");
            let write = |count| {
                fs::write(&stat, format!("nr_periods 9\nnr_throttled {count}\n")).unwrap();
            };
            write(7);
            assert!(!throttle.look(at(50)), "what was before is not known");
            assert!(!throttle.look(at(100)));
            write(8);
            assert!(throttle.look(at(150)), "{cgroup}");
            assert!(throttle.look(at(1_100)), "{cgroup}");
            assert!(!throttle.look(at(1_151)), "{cgroup}");
            write(9);
            assert!(
                !throttle.look(at(2_151)),
                "at some time since the last look"
            );
        }
    }

    #[test]
    fn without_an_account_there_are_no_stops() {
        let root = tempfile::tempdir().unwrap();
        assert!(!Throttle::under(root.path().into()).look(Instant::now()));
        let (root, stat) = machine("0::/\n", "");
        fs::write(stat, "usage_usec 5\n").unwrap();
        assert!(!Throttle::under(root.path().into()).look(Instant::now()));
    }
}
