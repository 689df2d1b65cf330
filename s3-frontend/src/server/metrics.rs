//! What the front end counts, and how it is shown.
//!
//! What must hold: each core counts in its own memory, with plain additions nobody else makes; whoever is asked for the numbers sums
//! over the cores.

use crate::http::response::STATUSES;
use crate::s3::error::Code;
use crate::s3::route::Operation;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the duration histogram, in microseconds.
const BUCKETS_US: [u64; 15] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 60_000_000,
];

/// A number that one core counts and others read.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
    fn subtract(&self, by: u64) {
        self.0.fetch_sub(by, Ordering::Relaxed);
    }
    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct OperationCounters {
    statuses: [Counter; STATUSES.len()],
    errors: [Counter; Code::ALL.len()],
    /// Not cumulative; the last one is above all ends.
    durations: [Counter; BUCKETS_US.len() + 1],
    duration_us: Counter,
}

impl OperationCounters {
    fn new() -> OperationCounters {
        OperationCounters {
            statuses: std::array::from_fn(|_| Counter::default()),
            errors: std::array::from_fn(|_| Counter::default()),
            durations: std::array::from_fn(|_| Counter::default()),
            duration_us: Counter::default(),
        }
    }
}

/// The counters of one core.
pub(crate) struct CoreMetrics {
    operations: Vec<OperationCounters>,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    auth_success: Counter,
    auth_failure: Counter,
    in_flight: Counter,
    connections: Counter,
    pub(crate) connections_total: Counter,
    pub(crate) refused_total: Counter,
}

impl CoreMetrics {
    fn new() -> CoreMetrics {
        CoreMetrics {
            operations: Operation::ALL.iter().map(|_| OperationCounters::new()).collect(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            auth_success: Counter::default(),
            auth_failure: Counter::default(),
            in_flight: Counter::default(),
            connections: Counter::default(),
            connections_total: Counter::default(),
            refused_total: Counter::default(),
        }
    }

    /// A request has ended.
    pub(crate) fn request(&self, operation: Operation, status: u16, error: Option<Code>, took: Duration) {
        let counters = &self.operations[operation as usize];
        if let Some(at) = STATUSES.iter().position(|(known, _)| *known == status) {
            counters.statuses[at].add(1);
        }
        if let Some(code) = error {
            counters.errors[code as usize].add(1);
        }
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counters.durations[BUCKETS_US.partition_point(|end| *end < took)].add(1);
        counters.duration_us.add(took);
    }

    pub(crate) fn authenticated(&self, success: bool) {
        if success { self.auth_success.add(1) } else { self.auth_failure.add(1) }
    }

    pub(crate) fn in_flight(&self, begins: bool) {
        if begins { self.in_flight.add(1) } else { self.in_flight.subtract(1) }
    }

    pub(crate) fn connection(&self, opens: bool) {
        if opens { self.connections.add(1) } else { self.connections.subtract(1) }
    }
}

/// The counters of all cores of a node. Made once, before the cores start.
pub struct Metrics {
    cores: Vec<CoreMetrics>,
}

impl Metrics {
    /// Counters for so many cores.
    pub fn new(cores: usize) -> Metrics {
        Metrics { cores: (0..cores).map(|_| CoreMetrics::new()).collect() }
    }

    pub(crate) fn core(&self, core: usize) -> &CoreMetrics {
        &self.cores[core]
    }

    fn sum(&self, counter: impl Fn(&CoreMetrics) -> &Counter) -> u64 {
        self.cores.iter().map(|core| counter(core).read()).fold(0, u64::wrapping_add)
    }

    /// All of them, summed over the cores, in Prometheus' text format.
    pub fn to_text(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        self.write_requests(&mut out);
        self.write_durations(&mut out);
        let gauges: [Plain; 2] = [
            ("s3_requests_in_flight", "Requests in progress.", |core| &core.in_flight),
            ("s3_connections", "Open connections.", |core| &core.connections),
        ];
        let counters: [Plain; 6] = [
            ("s3_upload_bytes_total", "Bytes of request bodies.", |core| &core.received_bytes),
            ("s3_download_bytes_total", "Bytes of response bodies.", |core| &core.sent_bytes),
            ("s3_auth_success_total", "Signatures that were right.", |core| &core.auth_success),
            ("s3_auth_failure_total", "Signatures that were not.", |core| &core.auth_failure),
            ("s3_connections_total", "Connections accepted.", |core| &core.connections_total),
            ("s3_limited_total", "Connections and requests refused at a limit.", |core| &core.refused_total),
        ];
        let kinds = [("gauge", gauges.as_slice()), ("counter", counters.as_slice())];
        for (kind, plain) in kinds {
            for (name, help, counter) in plain {
                header(&mut out, name, help, kind);
                let _ = writeln!(out, "{name} {}", self.sum(counter));
            }
        }
        out
    }

    fn write_requests(&self, out: &mut String) {
        header(out, "s3_requests_total", "Requests by operation and status.", "counter");
        for operation in Operation::ALL {
            for (at, (status, _)) in STATUSES.iter().enumerate() {
                let count = self.sum(|core| &core.operations[*operation as usize].statuses[at]);
                if count > 0 {
                    let (method, name) = (operation.method(), operation.name());
                    let _ = writeln!(
                        out,
                        "s3_requests_total{{method=\"{method}\",operation=\"{name}\",status=\"{status}\"}} {count}"
                    );
                }
            }
        }
        header(out, "s3_errors_total", "Refused requests by error code.", "counter");
        for operation in Operation::ALL {
            for code in Code::ALL {
                let count = self.sum(|core| &core.operations[*operation as usize].errors[*code as usize]);
                if count > 0 {
                    let (code, name) = (code.name(), operation.name());
                    let _ = writeln!(
                        out,
                        "s3_errors_total{{error_type=\"{code}\",operation=\"{name}\"}} {count}"
                    );
                }
            }
        }
    }

    fn write_durations(&self, out: &mut String) {
        const NAME: &str = "s3_request_duration_seconds";
        header(out, NAME, "Time from a request's head to its last byte sent.", "histogram");
        for operation in Operation::ALL {
            let mut cumulative = 0;
            let mut lines = String::new();
            for at in 0..=BUCKETS_US.len() {
                cumulative += self.sum(|core| &core.operations[*operation as usize].durations[at]);
                let end = BUCKETS_US.get(at).map_or("+Inf".to_owned(), |end| (*end as f64 / 1e6).to_string());
                let name = operation.name();
                let _ = writeln!(lines, "{NAME}_bucket{{operation=\"{name}\",le=\"{end}\"}} {cumulative}");
            }
            if cumulative > 0 {
                let name = operation.name();
                let sum = self.sum(|core| &core.operations[*operation as usize].duration_us) as f64 / 1e6;
                out.push_str(&lines);
                let _ = writeln!(out, "{NAME}_sum{{operation=\"{name}\"}} {sum}");
                let _ = writeln!(out, "{NAME}_count{{operation=\"{name}\"}} {cumulative}");
            }
        }
    }
}

type Plain = (&'static str, &'static str, fn(&CoreMetrics) -> &Counter);

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_summed() {
        let metrics = Metrics::new(2);
        metrics.core(0).request(Operation::GetObject, 200, None, Duration::from_micros(300));
        metrics.core(1).request(Operation::GetObject, 200, None, Duration::from_secs(100));
        metrics.core(1).request(Operation::GetObject, 404, Some(Code::NoSuchKey), Duration::from_micros(250));
        metrics.core(0).received_bytes.add(7);
        metrics.core(1).in_flight(true);
        let text = metrics.to_text();
        for line in [
            "s3_requests_total{method=\"GET\",operation=\"GetObject\",status=\"200\"} 2",
            "s3_requests_total{method=\"GET\",operation=\"GetObject\",status=\"404\"} 1",
            "s3_errors_total{error_type=\"NoSuchKey\",operation=\"GetObject\"} 1",
            "s3_request_duration_seconds_bucket{operation=\"GetObject\",le=\"0.00025\"} 1",
            "s3_request_duration_seconds_bucket{operation=\"GetObject\",le=\"0.0005\"} 2",
            "s3_request_duration_seconds_bucket{operation=\"GetObject\",le=\"60\"} 2",
            "s3_request_duration_seconds_bucket{operation=\"GetObject\",le=\"+Inf\"} 3",
            "s3_request_duration_seconds_count{operation=\"GetObject\"} 3",
            "s3_upload_bytes_total 7",
            "s3_requests_in_flight 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(!text.contains("PutObject"));
    }
}
