//! What a job came to, for people and for programs.
//!
//! What must hold: a unit stands with every number; MB and GB are powers of ten; what was not measured is left out, never
//! shown as zero.

use super::job::{Job, Target, Until};
use super::measure::Measured;
use super::phase::Outcome;
use super::workload::{Action, Flow};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// One job.
#[derive(Debug, Serialize)]
pub(crate) struct JobReport {
    pub(crate) name: String,
    /// What was run, as a sentence.
    what: String,
    target: String,
    connections: usize,
    threads: usize,
    measured_seconds: f64,
    operations_per_second: f64,
    operations: BTreeMap<Action, OperationReport>,
    errors: BTreeMap<String, u64>,
    /// Answers that said success and were wrong.
    wrong_answers: u64,
    wrong_answer_examples: Vec<String>,
    reconnects: u64,
    client: ClientReport,
    servers: Vec<ServerReport>,
    operations_by_second: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct OperationReport {
    count: u64,
    per_second: f64,
    bytes: u64,
    mb_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_per_second: Option<f64>,
    latency_us: LatencyReport,
}

/// Microseconds.
#[derive(Debug, Serialize)]
struct LatencyReport {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct ClientReport {
    cpu_seconds: f64,
    cores: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_us_per_operation: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ServerReport {
    pid: u32,
    cpu_seconds: f64,
    cores: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_us_per_operation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds_per_gb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_switches_per_operation: Option<f64>,
    resident_bytes: u64,
    resident_peak_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_written_bytes: Option<u64>,
}

/// `sum / count`, where there is something to divide by.
fn per(sum: f64, count: f64) -> Option<f64> {
    (count > 0.0).then(|| sum / count)
}

impl JobReport {
    pub(crate) fn new(job: &Job, outcome: &Outcome) -> JobReport {
        let tally = &outcome.tally;
        let seconds = outcome.elapsed.as_secs_f64();
        let (count, bytes) = (tally.operations() as f64, tally.bytes() as f64);
        let operation = |(action, measured): (Action, &Measured)| {
            let report = OperationReport {
                count: measured.operations(),
                per_second: per(measured.operations() as f64, seconds).unwrap_or_default(),
                bytes: measured.bytes,
                mb_per_second: per(measured.bytes as f64 / 1e6, seconds).unwrap_or_default(),
                keys_per_second: per(measured.keys as f64, seconds).filter(|_| action == Action::List),
                latency_us: LatencyReport::new(measured),
            };
            (action, report)
        };
        let client_cpu = outcome.client_cpu.as_secs_f64();
        let servers = job.server_pids.iter().zip(&outcome.servers).filter_map(|(pid, looks)| {
            let (before, after) = looks.as_ref()?;
            let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
            let storage = before.storage.zip(after.storage);
            Some(ServerReport {
                pid: *pid,
                cpu_seconds: cpu,
                cores: per(cpu, seconds).unwrap_or_default(),
                cpu_us_per_operation: per(cpu * 1e6, count),
                cpu_seconds_per_gb: per(cpu, bytes / 1e9),
                context_switches_per_operation: per(
                    after.switches.saturating_sub(before.switches) as f64,
                    count,
                ),
                resident_bytes: after.resident_bytes,
                resident_peak_bytes: after.resident_peak_bytes,
                storage_read_bytes: storage.map(|(before, after)| after.read_bytes - before.read_bytes),
                storage_written_bytes: storage
                    .map(|(before, after)| after.written_bytes - before.written_bytes),
            })
        });
        JobReport {
            name: job.name.clone(),
            what: describe(job),
            target: match &job.target {
                Target::Server(_) => {
                    format!("http://{}/{}/{}", job.endpoint.authority, job.endpoint.bucket, job.stem)
                }
                Target::Engine { dir, .. } => format!("engine on {}", dir.display()),
            },
            connections: job.iodepth * job.numjobs,
            threads: job.numjobs,
            measured_seconds: seconds,
            operations_per_second: per(count, seconds).unwrap_or_default(),
            operations: tally.actions().map(operation).collect(),
            errors: tally.errors.clone(),
            wrong_answers: tally.mismatches.0,
            wrong_answer_examples: tally.mismatches.1.clone(),
            reconnects: tally.reconnects,
            client: ClientReport {
                cpu_seconds: client_cpu,
                cores: per(client_cpu, seconds).unwrap_or_default(),
                cpu_us_per_operation: per(client_cpu * 1e6, count),
            },
            servers: servers.collect(),
            operations_by_second: outcome.seconds.clone(),
        }
    }

    /// Whether every request succeeded.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.wrong_answers == 0 && !self.operations.is_empty()
    }

    /// For people.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: {}", self.name, self.what)?;
        let heads = ["", "ops/s", "MB/s", "mean us", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"];
        let mut rows = vec![heads.map(str::to_owned)];
        for (action, operation) in &self.operations {
            let LatencyReport { mean, p50, p90, p99, p99_9, max } = operation.latency_us;
            let mut row =
                [0.0, 0.0, mean, p50, p90, p99, p99_9, max].map(|us: f64| grouped(us.round() as u64));
            row[0] = rate(operation.per_second);
            row[1] =
                if operation.bytes > 0 { format!("{:.1}", operation.mb_per_second) } else { "-".to_owned() };
            let mut cells = row.into_iter();
            rows.push(std::array::from_fn(|column| match column {
                0 => action.to_string(),
                _ => cells.next().unwrap_or_default(),
            }));
        }
        for row in &rows {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        if let Some(keys) = self.operations.get(&Action::List).and_then(|list| list.keys_per_second) {
            writeln!(out, "  listed: {} keys/s", rate(keys))?;
        }
        let per_operation = |cpu: Option<f64>| cpu.map(|us| format!(", {us:.1} us/op")).unwrap_or_default();
        let client = &self.client;
        let whose = if self.target.starts_with("engine") { "engine and client" } else { "client" };
        writeln!(out, "  {whose}: {:.2} cores{}", client.cores, per_operation(client.cpu_us_per_operation))?;
        for server in &self.servers {
            writeln!(out, "  server {}: {}", server.pid, server.sentence())?;
        }
        for (name, count) in &self.errors {
            writeln!(out, "  ERROR {name}: {}", grouped(*count))?;
        }
        for example in &self.wrong_answer_examples {
            writeln!(out, "  WRONG {example}")?;
        }
        if self.operations.is_empty() {
            writeln!(out, "  nothing succeeded within the measured time")?;
        }
        if self.reconnects > 0 {
            writeln!(out, "  reconnects: {}", grouped(self.reconnects))?;
        }
        writeln!(out)
    }
}

impl ServerReport {
    fn sentence(&self) -> String {
        let mut parts = vec![format!("{:.2} cores", self.cores)];
        parts.extend(self.cpu_us_per_operation.map(|us| format!("{us:.1} us/op")));
        parts.extend(self.cpu_seconds_per_gb.map(|seconds| format!("{seconds:.2} CPU s/GB")));
        parts.extend(self.context_switches_per_operation.map(|count| format!("{count:.2} switches/op")));
        let mib = |bytes: u64| grouped(bytes >> 20);
        parts.push(format!("RSS {} MiB (peak {})", mib(self.resident_bytes), mib(self.resident_peak_bytes)));
        if let (Some(read), Some(written)) = (self.storage_read_bytes, self.storage_written_bytes) {
            parts.push(format!("disks: {} MiB read, {} MiB written", mib(read), mib(written)));
        }
        parts.join(", ")
    }
}

impl LatencyReport {
    fn new(measured: &Measured) -> LatencyReport {
        let us = |quantile| measured.latencies.value_at_quantile(quantile) as f64 / 1e3;
        LatencyReport {
            mean: measured.latencies.mean() / 1e3,
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p99_9: us(0.999),
            max: measured.latencies.max() as f64 / 1e3,
        }
    }
}

/// The machine that all this was measured on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    memory_bytes: Option<u64>,
}

impl Machine {
    pub(crate) fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let meminfo = read("/proc/meminfo");
        let memory =
            meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
        let kernel = rustix::system::uname();
        Machine {
            cpu: model.map(|(_, model)| model.to_owned()).unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.release().to_string_lossy().into_owned(),
            memory_bytes: memory.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib << 10),
        }
    }
}

fn describe(job: &Job) -> String {
    let what = match job.flow {
        Flow::CreateBucket | Flow::PutOnce => "prepare".to_owned(),
        Flow::PutNew => "put, new keys".to_owned(),
        Flow::PutAround => format!("put, over {} keys", grouped(job.objects)),
        Flow::DeleteOnce => format!("delete, {} keys", grouped(job.objects)),
        Flow::Read { action, range, .. } => {
            let range = range.map(|range| format!(", ranges of {}", crate::size::ByteSize(range)));
            format!("{action}{}, {} keys", range.unwrap_or_default(), grouped(job.objects))
        }
        Flow::List { page_keys } => format!("list, pages of {page_keys} of {} keys", grouped(job.objects)),
        Flow::Walk { page_keys } => format!("walk, pages of {page_keys} of {} keys", grouped(job.objects)),
        Flow::Mixed { mix, .. } => format!("mixed ({mix}), {} keys", grouped(job.objects)),
    };
    let until = match job.until {
        Until::After(time) => format!("{} s", time.as_secs_f64()),
        Until::Operations(count) => format!("{} operations", grouped(count)),
    };
    let connections = match (job.numjobs, job.iodepth) {
        (cores, depth) if matches!(job.target, Target::Engine { .. }) => {
            format!("engine on {cores} core(s) x {depth}")
        }
        (1, 1) => "1 connection".to_owned(),
        (1, depth) => format!("{depth} connections"),
        (jobs, depth) => format!("{jobs} threads x {depth} connections"),
    };
    let verified = if job.endpoint.verify { ", verified" } else { "" };
    let warmup = job.warmup.as_secs_f64();
    format!("{what}, {}, {connections}, {until} after {warmup} s of warm-up{verified}", job.sizes)
}

fn rate(per_second: f64) -> String {
    if per_second < 100.0 { format!("{per_second:.1}") } else { grouped(per_second.round() as u64) }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!((per(1.0, 0.0), per(1.0, 2.0)), (None, Some(0.5)));
    }

    #[test]
    fn the_machine_says_what_it_is() {
        let machine = Machine::here();
        assert!(machine.cpus > 0 && !machine.kernel.is_empty() && machine.memory_bytes > Some(1 << 20));
    }
}
