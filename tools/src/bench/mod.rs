//! `bucketsbench`: load in a closed loop, and what it cost on both sides.
//!
//! What must hold: a number is only printed for requests whose answers were what they had to be; client and server are
//! measured over the same window; whoever reads a number can see the command that makes it again.

mod content;
mod engine_host;
mod event_loop;
mod exchange;
mod job;
mod measure;
mod null_server;
mod phase;
mod process_usage;
mod report;
mod response;
mod signer;
#[cfg(test)]
mod tests;
mod workload;

pub use job::Cli;

use clap::Parser;
use content::Content;
use engine_host::{EngineError, EngineHost, Order};
use event_loop::Assignment;
use job::{Job, JobError, Target, Until};
use measure::{Live, Tally};
use phase::{Outcome, PhaseError, Schedule};
use report::{JobReport, Machine};
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use workload::{Flow, Window, Workload};

/// Connections that put a key space before it is measured, and delete it afterwards.
const SETUP_CONNECTIONS: usize = 32;
/// Requests failed or answers were wrong.
const EXIT_UNCLEAN: u8 = 3;

/// Why the jobs were not all run.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Phase(#[from] PhaseError),
    #[error("cannot connect to {authority}: {error}; is the server running there?")]
    Connect { authority: String, error: io::Error },
    #[error("{0}; is it the server's process id?")]
    Process(String),
    #[error("the bucket {bucket} could not be made: {reason}")]
    Bucket { bucket: String, reason: String },
    #[error("{name}: {stage} ended with {done} of {wanted} done: {reason}")]
    Setup { name: String, stage: &'static str, done: u64, wanted: u64, reason: String },
    #[error("standard output: {0}")]
    Output(io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the null server cannot serve on its address: {0}")]
    NullServer(io::Error),
}

/// Runs the command line.
pub fn main(raw: &[OsString], env: impl Fn(&str) -> Option<String> + Copy, out: &mut dyn Write) -> ExitCode {
    let cli = match Cli::try_parse_from(raw) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.run(raw, env, out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_UNCLEAN),
        // Somebody piped us into `head`.
        Err(BenchError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done where even this fails.
            let _ = writeln!(io::stderr(), "bucketsbench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    machine: Machine,
    command: Vec<String>,
    unix_seconds: u64,
    jobs: &'a [JobReport],
}

/// Where a job's requests go.
enum Store {
    Server(std::net::SocketAddr),
    Engine { host: EngineHost, target: Target },
}

impl Store {
    /// Where the job says; `before` is where the last one went.
    fn of(job: &Job, before: Option<Store>) -> Result<Store, BenchError> {
        match (before, &job.target) {
            (Some(Store::Engine { host, target }), wanted) if target == *wanted => {
                Ok(Store::Engine { host, target })
            }
            (before, wanted) => {
                if let Some(before) = before {
                    before.end();
                }
                Ok(match wanted {
                    Target::Server(address) => {
                        event_loop::reach(*address).map_err(|error| BenchError::Connect {
                            authority: job.endpoint.authority.clone(),
                            error,
                        })?;
                        Store::Server(*address)
                    }
                    Target::Engine { dir, cores, cache_bytes } => {
                        let host = EngineHost::start(dir, *cores, *cache_bytes)?;
                        Store::Engine { host, target: wanted.clone() }
                    }
                })
            }
        }
    }

    fn end(self) {
        if let Store::Engine { host, .. } = self {
            host.end();
        }
    }
}

/// A key space that is there.
#[derive(PartialEq, Eq)]
struct KeySpace {
    authority: String,
    bucket: String,
    stem: String,
    objects: u64,
    seed: u64,
}

impl Cli {
    /// Whether every request succeeded.
    fn run(
        &self,
        raw: &[OsString],
        env: impl Fn(&str) -> Option<String> + Copy,
        out: &mut dyn Write,
    ) -> Result<bool, BenchError> {
        if let Some(address) = self.null_server {
            let listener = TcpListener::bind(address).map_err(BenchError::NullServer)?;
            let size = usize::try_from(self.args.size.most).unwrap_or(usize::MAX);
            return null_server::serve(&listener, size, self.args.congestion.as_deref())
                .map(|()| true)
                .map_err(BenchError::NullServer);
        }
        let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let jobs = self.jobs(raw, env, unix_seconds.as_micros() as u64)?;
        let mut present = Vec::new();
        let mut reports = Vec::new();
        let mut store = None;
        for job in &jobs {
            let before = store.take();
            let report = job.run(store.insert(Store::of(job, before)?), &mut present)?;
            if !self.json {
                report.write(out).and_then(|()| out.flush()).map_err(BenchError::Output)?;
            }
            reports.push(report);
        }
        if let Some(store) = store {
            store.end();
        }
        if self.json {
            let command = raw.iter().map(|word| word.to_string_lossy().into_owned());
            let report = Report {
                machine: Machine::here(),
                command: without_secrets(command),
                unix_seconds: unix_seconds.as_secs(),
                jobs: &reports,
            };
            serde_json::to_writer_pretty(&mut *out, &report)
                .map_err(|error| BenchError::Output(error.into()))?;
            writeln!(out).map_err(BenchError::Output)?;
        }
        Ok(reports.iter().all(JobReport::is_clean))
    }
}

/// The command line as it may be shown.
fn without_secrets(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut secret_follows = false;
    let hide = |word: String| {
        let hidden = std::mem::replace(&mut secret_follows, word == "--secret-key");
        match () {
            () if hidden => "***".to_owned(),
            () if word.starts_with("--secret-key=") => "--secret-key=***".to_owned(),
            () => word,
        }
    };
    words.map(hide).collect()
}

impl Job {
    /// Makes the bucket and the key space, measures, and cleans up. `present` is what earlier jobs have left.
    fn run(&self, store: &Store, present: &mut Vec<KeySpace>) -> Result<JobReport, BenchError> {
        for pid in &self.server_pids {
            process_usage::ProcessUsage::of(*pid)
                .map_err(|error| BenchError::Process(format!("process {pid}: {error}")))?;
        }
        self.make_bucket(store)?;
        let space = KeySpace {
            authority: self.endpoint.authority.clone(),
            bucket: self.endpoint.bucket.clone(),
            stem: self.stem.clone(),
            objects: self.objects,
            seed: self.seed,
        };
        if self.prepare && !present.contains(&space) {
            self.set_up(store, Flow::PutOnce, self.objects, "preparing")?;
        }
        // Whatever else was below this stem, it is no longer as it was.
        present.retain(|other| {
            (&other.authority, &other.bucket, &other.stem) != (&space.authority, &space.bucket, &space.stem)
        });

        let begin = Instant::now();
        let measure_from = begin + self.warmup;
        let (until, operations_max) = match self.until {
            Until::After(runtime) => (Some(measure_from + runtime), None),
            Until::Operations(count) => (None, Some(count)),
        };
        let window = Window { measure_from, until };
        let connections = (self.numjobs, self.iodepth);
        let (outcome, begun) =
            self.phase(store, &self.name, self.flow, self.objects, connections, window, operations_max)?;

        let put = match self.flow {
            Flow::PutNew => begun,
            Flow::PutAround => begun.min(self.objects),
            Flow::DeleteOnce => 0,
            _ => self.objects,
        };
        let kept = self.prepare && !matches!(self.flow, Flow::DeleteOnce | Flow::Mixed { .. });
        if self.cleanup && put > 0 {
            self.set_up(store, Flow::DeleteOnce, put, "cleaning up")?;
        } else if kept {
            present.push(space);
        }
        Ok(JobReport::new(self, &outcome))
    }

    fn make_bucket(&self, store: &Store) -> Result<(), BenchError> {
        let window = Window { measure_from: Instant::now(), until: None };
        let (outcome, _) = self.phase(store, &self.name, Flow::CreateBucket, 1, (1, 1), window, None)?;
        match outcome.tally.operations() {
            0 => {
                let reason = reasons(&outcome);
                Err(BenchError::Bucket { bucket: self.endpoint.bucket.clone(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Puts or deletes the key space.
    fn set_up(&self, store: &Store, flow: Flow, objects: u64, stage: &'static str) -> Result<(), BenchError> {
        let name = format!("{}, {stage}", self.name);
        let connections = (1, SETUP_CONNECTIONS.min(usize::try_from(objects).unwrap_or(usize::MAX)));
        let window = Window { measure_from: Instant::now(), until: None };
        let (outcome, _) = self.phase(store, &name, flow, objects, connections, window, None)?;
        let done = outcome.tally.operations();
        if done < objects {
            let reason = reasons(&outcome);
            return Err(BenchError::Setup { name: self.name.clone(), stage, done, wanted: objects, reason });
        }
        Ok(())
    }

    /// Runs a flow; besides its outcome, how many keys it has begun.
    #[expect(
        clippy::too_many_arguments,
        reason = "what differs between preparing, measuring and cleaning up"
    )]
    fn phase(
        &self,
        store: &Store,
        name: &str,
        flow: Flow,
        objects: u64,
        (threads, depth): (usize, usize),
        window: Window,
        operations_max: Option<u64>,
    ) -> Result<(Outcome, u64), BenchError> {
        let content = Content::new(&self.stem, self.seed, self.sizes);
        let space = (self.stem.clone(), objects);
        let connections = (threads * depth) as u64;
        let workload = Workload::new(flow, space, content, window, connections, operations_max);
        let workload = Arc::new(workload);
        let schedule = Schedule { name, threads, cpus: &self.cpus, window, server_pids: &self.server_pids };
        let outcome = schedule.run(|index, live| match store {
            Store::Server(address) => event_loop::run(Assignment {
                endpoint: &self.endpoint,
                address: *address,
                picker: workload.picker(index * depth, depth, self.seed),
                connections: depth,
                window,
                timeout: self.timeout,
                live,
            }),
            Store::Engine { host, .. } => {
                let lanes = (index * depth, depth);
                Ok(self.on_core(host, index, lanes, &workload, window, live))
            }
        })?;
        Ok((outcome, workload.numbers_begun()))
    }
}

impl Job {
    /// Has one of the engine's cores do a thread's share, and waits for it.
    fn on_core(
        &self,
        host: &EngineHost,
        core: usize,
        lanes: (usize, usize),
        workload: &Arc<Workload>,
        window: Window,
        live: &Arc<Live>,
    ) -> Tally {
        let (tally, done) = mpsc::sync_channel(1);
        host.order(
            core,
            Order {
                workload: workload.clone(),
                lanes,
                seed: self.seed,
                window,
                bucket: self.endpoint.bucket.clone(),
                verify: self.endpoint.verify,
                live: live.clone(),
                tally,
            },
        );
        match done.recv() {
            Ok(tally) => tally,
            Err(_) => unreachable!("a core does its order, or ends the process with a panic"),
        }
    }
}

fn reasons(outcome: &Outcome) -> String {
    let reasons: Vec<String> =
        outcome.tally.errors.iter().map(|(name, count)| format!("{count} x {name}")).collect();
    if reasons.is_empty() { "no answer".to_owned() } else { reasons.join(", ") }
}
