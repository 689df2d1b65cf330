//! The process of a node: whether it is there, and signals to it.
//!
//! What must hold: an id in a file proves nothing, since the kernel gives ids out again. A process counts as the node's only
//! where its command line says so, and signals go through a handle that was opened before that was looked at: where the
//! process has ended since, they reach nobody.

use super::directory::{LocalCluster, LocalNode};
use super::{LocalError, at};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The daemon's name, beside the program that runs.
const DAEMON: &str = "bucketsd";
/// How long a signal may take in which the process has no part.
pub const KILL_MAX: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);
/// So a daemon begins the sentence with which it ends where it cannot go on.
const ERROR_PREFIX: &str = "bucketsd: ";
/// So much of the end of a log is looked through for its last line, in bytes.
const LOG_END_BYTES: u64 = 4096;

/// What is known of a node's process.
#[derive(Debug)]
pub enum Found {
    /// None was started, or the last one was stopped.
    Stopped,
    /// One was started and is gone, and nobody had stopped it.
    Gone,
    /// It is there.
    Running(NodeProcess),
}

/// A process that is the node's.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its id.
    pub pid: i32,
    handle: OwnedFd,
}

/// The daemon that is started: the one beside this program. Errors: `NoDaemon`.
pub fn daemon() -> Result<PathBuf, LocalError> {
    let own = std::env::current_exe()
        .map_err(|error| LocalError::Io { what: "this program is not found".to_owned(), error })?;
    let daemon = own.with_file_name(DAEMON);
    if daemon.is_file() { Ok(daemon) } else { Err(LocalError::NoDaemon(daemon)) }
}

/// Starts the node's process, which lives on when this one ends.
pub fn spawn(cluster: &LocalCluster, node: &LocalNode, daemon: &Path) -> Result<(), LocalError> {
    let log = node.log();
    let open = |path: &Path| OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let output = open(&log).and_then(|file| Ok((file.try_clone()?, file))).map_err(at("written", &log))?;
    let mut command = Command::new(daemon);
    command.arg("--cluster").arg(&cluster.cluster.path);
    command.args(["--node", &node.name(), "--listen", &node.listen.to_string()]);
    command.args(["--cores", &cluster.cores.to_string()]);
    // The cluster file's are what is shown.
    command.env_remove(crate::credentials::ACCESS_KEY_VARIABLE);
    command.env_remove(crate::credentials::SECRET_KEY_VARIABLE);
    command.stdin(Stdio::null()).stdout(output.0).stderr(output.1);
    // Neither Ctrl-C nor the end of the terminal is meant for it.
    command.process_group(0).current_dir("/");
    let spawned = on_its_cpus(cluster, node, || command.spawn());
    let mut child = spawned.map_err(at("started", daemon))?;
    // The kernel lets this process go on a moment before the new one has a command line, by which it is found.
    let pid = child.id();
    while command_line(pid).is_empty() && child.try_wait().map_err(at("watched", daemon))?.is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid_file = node.pid_file();
    fs::write(&pid_file, format!("{pid}\n")).map_err(at("written", &pid_file))
}

/// Starts a process on the CPUs that are meant for a node: each daemon pins its cores to the first ones that it may use, and
/// those of several daemons would all be the same.
fn on_its_cpus<T>(cluster: &LocalCluster, node: &LocalNode, start: impl FnOnce() -> T) -> T {
    let Ok(all) = sched_getaffinity(None) else { return start() };
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    let mut own = CpuSet::new();
    cpus_of(node.number, cluster.cores, &usable).for_each(|cpu| own.set(cpu));
    // What this thread may use is what its child may use.
    let moved = sched_setaffinity(None, &own);
    let started = start();
    if moved.is_ok() {
        let _ = sched_setaffinity(None, &all);
    }
    started
}

/// As many CPUs as a node has cores, those of the nodes one after the other; numbers of nodes begin with 1.
fn cpus_of(number: usize, cores: usize, usable: &[usize]) -> impl Iterator<Item = usize> {
    let first = number.saturating_sub(1) * cores;
    usable.iter().cycle().skip(first % usable.len().max(1)).take(cores).copied()
}

/// The words it was started with, each with a zero byte behind it; none of a process that is gone.
fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Looks for the node's process.
pub fn find(cluster: &LocalCluster, node: &LocalNode) -> Result<Found, LocalError> {
    let pid_file = node.pid_file();
    let pid = match fs::read_to_string(&pid_file) {
        Ok(text) => text.trim().parse::<i32>().ok().and_then(Pid::from_raw),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Stopped),
        Err(error) => return Err(at("read", &pid_file)(error)),
    };
    let Some(pid) = pid else { return Ok(Found::Gone) };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        // The kernel says the latter of a thread's id.
        Err(Errno::SRCH | Errno::INVAL) => return Ok(Found::Gone),
        Err(error) => return Err(at("watched", &pid_file)(error.into())),
    };
    let pid = pid.as_raw_nonzero().get();
    match is_of_node(&command_line(pid.unsigned_abs()), &cluster.cluster.path, &node.name()) {
        true => Ok(Found::Running(NodeProcess { pid, handle })),
        false => Ok(Found::Gone),
    }
}

/// Whether a command line is that of the node's daemon.
fn is_of_node(command_line: &[u8], cluster_file: &Path, node: &str) -> bool {
    let mut arguments = command_line.split(|byte| *byte == 0);
    let program = arguments.next().and_then(|program| program.rsplit(|byte| *byte == b'/').next());
    let arguments: Vec<&[u8]> = arguments.collect();
    let has = |flag: &str, value: &[u8]| arguments.windows(2).any(|pair| pair == [flag.as_bytes(), value]);
    program == Some(DAEMON.as_bytes())
        && has("--cluster", cluster_file.as_os_str().as_bytes())
        && has("--node", node.as_bytes())
}

impl NodeProcess {
    /// Whether it was paused.
    pub fn is_paused(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        state_of(&stat) == Some('T')
    }

    /// Lets it do nothing more until it is resumed.
    pub fn pause(&self) -> Result<(), LocalError> {
        self.signal(Signal::STOP)?;
        let until = Instant::now() + KILL_MAX;
        while !self.is_paused() && !self.ends_within(LOOK)? && Instant::now() < until {}
        Ok(())
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<(), LocalError> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end, also where it is paused.
    pub fn terminate(&self) -> Result<(), LocalError> {
        self.signal(Signal::TERM)?;
        self.signal(Signal::CONT)
    }

    /// Ends it at once. False where it is still there after a while.
    pub fn kill(&self) -> Result<bool, LocalError> {
        self.signal(Signal::KILL)?;
        self.ends_within(KILL_MAX)
    }

    /// Whether it has ended, or does so within a time.
    pub fn ends_within(&self, time: Duration) -> Result<bool, LocalError> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut watched = [PollFd::new(&self.handle, PollFlags::IN)];
            match poll(&mut watched, Some(&timeout)) {
                Ok(ended) => return Ok(ended > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("waited for", error)),
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), LocalError> {
        match pidfd_send_signal(&self.handle, signal) {
            // It has ended, which is seen elsewhere.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(self.failed("signalled", error)),
        }
    }

    fn failed(&self, what: &str, error: Errno) -> LocalError {
        LocalError::Io { what: format!("process {} cannot be {what}", self.pid), error: error.into() }
    }
}

/// The letter of the state in `/proc/PID/stat`, behind the program's name, which may contain anything.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

/// Why the last process ended, where the last line of its log says so.
pub fn last_error(log: &Path) -> Option<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_END_BYTES)))?;
        let mut end = Vec::new();
        file.take(LOG_END_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read().ok()?;
    let text = String::from_utf8_lossy(&end);
    text.lines().last()?.strip_prefix(ERROR_PREFIX).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_daemon_of_this_node_of_this_cluster_is_meant() {
        let cluster = Path::new("/srv/c/cluster.toml");
        let is = |arguments: &[&str]| is_of_node(arguments.join("\0").as_bytes(), cluster, "127.0.0.1:9100");
        let of =
            ["--cluster", "/srv/c/cluster.toml", "--node", "127.0.0.1:9100", "--listen", "127.0.0.1:9000"];
        let with = |program: &'static str| [&[program][..], &of].concat();
        assert!(is(&with("/usr/bin/bucketsd")) && is(&with("bucketsd")));
        for program in ["", "/usr/bin/vi", "/usr/bin/bucketsd2", "/usr/bin/bucketsd/vi"] {
            assert!(!is(&with(program)), "{program}");
        }
        assert!(!is(&["bucketsd", "--cluster", "/srv/c/cluster.toml", "--node", "127.0.0.1:9101"]));
        assert!(!is(&["bucketsd", "--cluster", "/srv/d/cluster.toml", "--node", "127.0.0.1:9100"]));
        assert!(!is(&["bucketsd"]) && !is(&[]));
    }

    #[test]
    fn the_state_stands_behind_any_name() {
        assert_eq!(state_of("17 (bucketsd) S 1 17"), Some('S'));
        assert_eq!(state_of("17 (a) S (b) T 1 17"), Some('T'));
        assert_eq!(state_of(""), None);
    }

    #[test]
    fn only_a_last_line_that_is_an_error_says_why_a_process_ended() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        assert_eq!(last_error(&log), None);
        fs::write(&log, format!("{}\nbucketsd: no é\n", "x".repeat(9000))).unwrap();
        assert_eq!(last_error(&log).as_deref(), Some("no é"));
        fs::write(&log, "bucketsd: no\nINFO serving S3\n").unwrap();
        assert_eq!(last_error(&log), None);
    }

    #[test]
    fn nodes_share_cpus_only_where_there_are_too_few() {
        let cpus = |number, cores| cpus_of(number, cores, &[0, 1, 4, 5]).collect::<Vec<_>>();
        assert_eq!([cpus(1, 1), cpus(2, 1), cpus(4, 1), cpus(5, 1)], [[0], [1], [5], [0]]);
        assert_eq!([cpus(1, 2), cpus(2, 2), cpus(3, 2)], [[0, 1], [4, 5], [0, 1]]);
        assert_eq!(cpus(2, 3), [5, 0, 1]);
        assert_eq!(cpus(3, 6), [0, 1, 4, 5, 0, 1]);
        assert_eq!(cpus_of(3, 2, &[]).count(), 0);
    }

    #[test]
    fn a_signal_reaches_the_process_that_was_looked_at() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let process = NodeProcess { pid: pid.as_raw_nonzero().get(), handle };
        process.pause().unwrap();
        assert!(process.is_paused());
        process.resume().unwrap();
        assert!(!process.ends_within(Duration::ZERO).unwrap());
        assert!(process.kill().unwrap());
        assert!(!child.wait().unwrap().success());
        // Its id may be another process's now.
        process.terminate().unwrap();
    }
}
