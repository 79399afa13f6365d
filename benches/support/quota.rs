//! A control group with a CPU quota, in either version of the kernel's interface.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Of what a quota is a share: the kubelet's default.
const PERIOD_MICROS: u64 = 100_000;

/// A group that limits its processes; removed when this is dropped. Drop what runs in it first.
#[derive(Debug)]
pub struct Quota {
    folder: PathBuf,
}

impl Quota {
    /// A group whose processes get `milli` thousandths of a CPU together.
    ///
    /// # Errors
    /// When there is no CPU controller that this process may use; mostly root may.
    pub fn new(milli: u64) -> anyhow::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("pilotlight-{milli}m-{}", std::process::id());
        let quota = PERIOD_MICROS * milli / 1000;
        let first = root.join("cpu");
        let (folder, settings) = if first.is_dir() {
            let settings = vec![
                ("cpu.cfs_period_us", PERIOD_MICROS.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
                // Nothing but the quota is to hold the group back, whatever else runs here.
                ("cpu.shares", "262144".to_owned()),
            ];
            (first.join(name), settings)
        } else {
            let settings = vec![
                ("cpu.max", format!("{quota} {PERIOD_MICROS}")),
                ("cpu.weight", "10000".to_owned()),
            ];
            (root.join(name), settings)
        };
        let unusable = || format!("no CPU quota can be set in {}", folder.display());
        std::fs::create_dir(&folder).with_context(unusable)?;
        let group = Self { folder };
        for (file, value) in settings {
            let path = group.folder.join(file);
            std::fs::write(&path, value)
                .with_context(|| format!("no CPU quota can be set in {}", path.display()))?;
        }
        Ok(group)
    }

    /// Moves a process with all its threads into the group.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn hold(&self, pid: u32) -> anyhow::Result<()> {
        std::fs::write(self.folder.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("process {pid} cannot be given a CPU quota"))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A group of the dead can stay for a moment; an empty one that is left behind costs nothing.
        let _ = std::fs::remove_dir(&self.folder);
    }
}
