//! What a process has used, as /proc says it.
//!
//! What must hold: what cannot be read is absent, never zero.

use std::io;
use std::time::Duration;

/// A look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessUsage {
    /// User and system time of all its threads, those that ended included.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    /// The most that was resident at any time.
    pub(crate) resident_peak_bytes: u64,
    /// Written to and read from storage; absent where the kernel does not let us look.
    pub(crate) storage: Option<Storage>,
    /// Voluntary context switches of the threads that are there.
    pub(crate) switches: u64,
}

/// Bytes that passed between a process and storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

impl ProcessUsage {
    /// Errors: there is no such process, or /proc is not what it should be.
    pub(crate) fn of(pid: u32) -> io::Result<ProcessUsage> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let malformed =
            || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid} is not as expected"));
        let cpu =
            cpu_of_stat(&read("stat")?, rustix::param::clock_ticks_per_second()).ok_or_else(malformed)?;
        let status = read("status")?;
        let kilobytes = |name: &str| number_of(&status, name).map(|number| number * 1024);
        let io_text = read("io").unwrap_or_default();
        let storage = number_of(&io_text, "read_bytes").zip(number_of(&io_text, "write_bytes"));
        Ok(ProcessUsage {
            cpu,
            resident_bytes: kilobytes("VmRSS").ok_or_else(malformed)?,
            resident_peak_bytes: kilobytes("VmHWM").ok_or_else(malformed)?,
            storage: storage.map(|(read_bytes, written_bytes)| Storage { read_bytes, written_bytes }),
            switches: switches_of(pid),
        })
    }
}

fn switches_of(pid: u32) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_task = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        number_of(&status, "voluntary_ctxt_switches")
    };
    // A thread that has just ended counts nothing.
    tasks.flatten().filter_map(of_task).sum()
}

/// The number that follows `name:`.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// `utime` and `stime`. The process's name comes before them and may hold anything, so they are counted from its end.
fn cpu_of_stat(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) as f64 / ticks_per_second as f64))
}

/// What this process has used.
pub(crate) fn own_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "42 (a) R 1 (b)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 1 0 100 1000 10";
        assert_eq!(cpu_of_stat(stat, 100), Some(Duration::from_secs(3)));
        assert_eq!(cpu_of_stat("42 (a) S 1", 100), None);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let before = own_cpu();
        let mut sum = 0u64;
        for number in 0..20_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
        assert!(own_cpu() > before);
        let usage = ProcessUsage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 100_000 && usage.resident_peak_bytes >= usage.resident_bytes);
        assert!(ProcessUsage::of(u32::MAX).is_err());
    }
}
