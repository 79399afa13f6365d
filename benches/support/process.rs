//! Child processes and what the operating system says they cost.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

/// CPU time of a process, in microseconds. User and system time are counted in ticks of 10 ms; the
/// total comes from the scheduler's own nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    pub user_us: f64,
    pub system_us: f64,
    pub total_us: f64,
}

impl Cpu {
    /// What was spent since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user_us: self.user_us - earlier.user_us,
            system_us: self.system_us - earlier.system_us,
            total_us: self.total_us - earlier.total_us,
        }
    }

    /// The cost of one of `requests` requests.
    #[must_use]
    pub fn per(self, requests: u64) -> Self {
        let each = requests as f64;
        Self {
            user_us: self.user_us / each,
            system_us: self.system_us / each,
            total_us: self.total_us / each,
        }
    }
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// For messages.
    pub name: String,
}

impl Process {
    /// Starts `command` with its output thrown away.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `address` accepts connections.
    ///
    /// # Errors
    /// When the process ends first, or nothing listens after ten seconds.
    pub async fn listening(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.listening_within(address, Duration::from_secs(10))
            .await
    }

    /// The same with another patience.
    ///
    /// # Errors
    /// When the process ends first, or nothing listens in time.
    pub async fn listening_within(
        &mut self,
        address: SocketAddr,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Ok(());
            }
            self.still_runs()
                .with_context(|| format!("nothing listens on {address}"))?;
            if Instant::now() > deadline {
                bail!("{} does not listen on {address}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Asks the process to end and waits until it has.
    ///
    /// # Errors
    /// When it is still there after `patience`, or did not end well.
    pub async fn terminate(mut self, patience: Duration) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} ended with {status}", self.name),
                None if Instant::now() > deadline => {
                    bail!("{} goes on {patience:?} after SIGTERM", self.name)
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Nothing but an error when the process has ended.
    ///
    /// # Errors
    /// How it ended.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}", self.name),
            None => Ok(()),
        }
    }

    /// CPU time so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        cpu_of(self.pid()).with_context(|| format!("{} is gone", self.name))
    }

    /// Time on a processor of each living thread by its name, in microseconds.
    ///
    /// # Errors
    /// When the process is gone, or where the kernel keeps no such account.
    pub fn cpu_of_threads(&self) -> anyhow::Result<Vec<(String, f64)>> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()))?;
        let of = |task: std::fs::DirEntry| -> anyhow::Result<(String, f64)> {
            let name = std::fs::read_to_string(task.path().join("comm"))?;
            let spent = on_cpu_of_task(&task.path()).context("the kernel keeps no account")?;
            Ok((name.trim_end().to_owned(), spent))
        };
        tasks.map(|task| of(task?)).collect()
    }

    /// Resident memory now, in MiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss_mib(&self) -> anyhow::Result<f64> {
        status_field(self.pid(), "VmRSS:").map(|kib| kib / 1024.0)
    }

    /// The highest resident memory since the last [`Process::reset_peak`], in MiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn peak_rss_mib(&self) -> anyhow::Result<f64> {
        status_field(self.pid(), "VmHWM:").map(|kib| kib / 1024.0)
    }

    /// Forgets the memory peak, where the kernel allows it.
    pub fn reset_peak(&self) {
        // Refused on some kernels; the peak then covers the process's life, which judges harder.
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5");
    }

    /// Voluntary context switches of all threads so far: each is a wake-up.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn wakeups(&self) -> anyhow::Result<f64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()))?;
        let mut sum = 0.0;
        for task in tasks.flatten() {
            let status = std::fs::read_to_string(task.path().join("status"))?;
            sum += field(&status, "voluntary_ctxt_switches:").unwrap_or(0.0);
        }
        Ok(sum)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cpu_of(pid: u32) -> anyhow::Result<Cpu> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces and parentheses; fields count from the last ')'.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let ticks = |index: usize| -> anyhow::Result<f64> {
        let field = fields.get(index).context("/proc/PID/stat is too short")?;
        Ok(field.parse::<f64>()? * 1e6 / TICKS_PER_SECOND)
    };
    let (user_us, system_us) = (ticks(11)?, ticks(12)?);
    let total_us = on_cpu_us(pid).unwrap_or(user_us + system_us);
    Ok(Cpu {
        user_us,
        system_us,
        total_us,
    })
}

/// CPU time of the calling thread so far, in microseconds.
///
/// # Errors
/// Where the kernel keeps no such account.
pub fn thread_cpu_us() -> anyhow::Result<f64> {
    on_cpu_of_task(Path::new("/proc/thread-self")).context("the kernel keeps no account")
}

/// Resident memory of this process, in bytes.
///
/// # Errors
/// When `/proc` is not there.
pub fn own_rss_bytes() -> anyhow::Result<f64> {
    status_field(std::process::id(), "VmRSS:").map(|kib| kib * 1024.0)
}

/// Time on a processor of all living threads; `None` where the kernel keeps no such account.
fn on_cpu_us(pid: u32) -> Option<f64> {
    let mut micros = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .ok()?
        .flatten()
    {
        micros += on_cpu_of_task(&task.path())?;
    }
    Some(micros)
}

/// Time on a processor of one thread, by its folder; `None` where the kernel keeps no such account.
fn on_cpu_of_task(task: &Path) -> Option<f64> {
    let schedstat = std::fs::read_to_string(task.join("schedstat")).ok()?;
    let nanos = schedstat.split_whitespace().next()?.parse::<f64>().ok()?;
    Some(nanos / 1e3)
}

fn status_field(pid: u32, name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    field(&status, name).with_context(|| format!("/proc/{pid}/status has no {name}"))
}

fn field(status: &str, name: &str) -> Option<f64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
}

/// A loopback port that nothing listened on a moment ago.
///
/// # Errors
/// When no port can be bound.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

/// Builds `bin` of `package` with cargo and returns its path.
///
/// # Errors
/// When cargo fails or does not name the executable.
pub fn build(package: &str, bin: &str, profile: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            package,
            "--bin",
            bin,
            "--profile",
            profile,
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("{bin} does not build");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == bin)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo does not name the executable {bin}"))
}

/// Builds `program` as it is shipped, with `deploy/images`, and returns its path.
///
/// # Errors
/// When the script fails; it says why.
pub fn build_as_shipped(program: &str) -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new(root.join("deploy/images"))
        .args(["--binaries-only", "--only", program])
        .stdout(Stdio::null())
        .status()
        .context("deploy/images cannot be run")?;
    if !status.success() {
        bail!("{program} does not build as it is shipped");
    }
    Ok(root.join("target/images").join(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_cost() {
        let before = cpu_of(std::process::id()).unwrap();
        let spent = cpu_of(std::process::id()).unwrap().since(before);
        assert!(spent.total_us >= 0.0);
        assert!(status_field(std::process::id(), "VmRSS:").unwrap() > 0.0);
    }

    #[test]
    fn fields_are_found_by_name() {
        assert_eq!(
            field("VmHWM:\t  1024 kB\nVmRSS:\t 512 kB\n", "VmRSS:"),
            Some(512.0)
        );
        assert_eq!(field("", "VmRSS:"), None);
    }
}
