//! What to run: flags, and job files that hold the same flags.
//!
//! What must hold: a [`Job`] is complete and checked; a job file knows nothing that flags do not know, and nothing in either
//! is ignored.

use super::content::SizeRange;
use super::exchange::Signing;
use super::workload::{Access, Action, Flow, Mix};
use crate::config::REGION_DEFAULT;
use crate::credentials::{self, Credentials, CredentialsError, CredentialsSection};
use crate::size::ByteSize;
use clap::Parser;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections of one job, over all threads.
const CONNECTIONS_MAX: usize = 65_536;
const THREADS_MAX: usize = 256;
/// The key space where none is given: so many keys, or as many as hold so many bytes.
const OBJECTS_DEFAULT: u64 = 10_000;
const OBJECTS_BYTES_DEFAULT: u64 = 1 << 30;
/// DELETE consumes its key space.
const OBJECTS_DELETE_DEFAULT: u64 = 100_000;

/// Measures an S3 server (or the engine in this process) in a closed loop, as fio measures disks
#[derive(Clone, Debug, Parser)]
#[command(name = "bucketsbench", version, args_override_self = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// Job file: sections of flags without dashes, [global] for all; jobs run one after the other. Flags on the command
    /// line win
    #[arg(value_name = "JOBFILE")]
    pub(crate) job_file: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure the client instead: answer S3 requests on HOST:PORT with as little work as can be
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) null_server: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) args: JobArgs,
}

const AFTER_HELP: &str = "Exit codes:
  0  all jobs ran, every request succeeded
  1  a job could not run
  2  wrong usage
  3  all jobs ran, but requests failed or answers were wrong

A job file:
  [global]
  endpoint=http://127.0.0.1:9000
  size=4KiB
  runtime=10s

  [put-32]
  rw=put
  iodepth=32

  [get-32]
  rw=get
  iodepth=32
  verify";

/// A flag that may be said as `--flag` or `--flag=no`; the latter takes it back.
macro_rules! switch {
    () => {
        clap::builder::BoolishValueParser::new()
    };
}

/// What one job does and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct JobArgs {
    /// What to do
    #[arg(long, value_name = "OPERATION", default_value = "get", help_heading = "Workload")]
    rw: Rw,
    /// Size of objects, or a range of sizes: 4KiB, 1KiB-1MiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB", help_heading = "Workload")]
    pub(crate) size: SizeRange,
    /// Keys in the key space. put without it writes new keys only, with it round and round over the same [default:
    /// 10000, fewer where that is more than 1 GiB; delete: 100000]
    #[arg(long, value_name = "N", help_heading = "Workload")]
    objects: Option<u64>,
    /// Put the key space before (get, head, list, walk, delete, mixed), unless a job of this run has left it there
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_value = "yes",
          default_missing_value = "yes", value_parser = switch!(), help_heading = "Workload")]
    prepare: bool,
    /// Delete what was put afterwards
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_value = "no",
          default_missing_value = "yes", value_parser = switch!(), help_heading = "Workload")]
    cleanup: bool,
    /// Compare every byte of every body, and every key of every listing, with what must be there
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_value = "no",
          default_missing_value = "yes", value_parser = switch!(), help_heading = "Workload")]
    verify: bool,
    /// Shares of --rw mixed, in per cent
    #[arg(
        long,
        value_name = "SHARES",
        default_value = "get=60,put=25,head=5,list=5,delete=5",
        help_heading = "Workload"
    )]
    mix: Mix,
    /// In which order get and head visit the keys
    #[arg(long, value_name = "ORDER", default_value = "random", help_heading = "Workload")]
    access: Access,
    /// Make each get a GET of a random range of so many bytes
    #[arg(long, value_name = "SIZE", help_heading = "Workload")]
    range: Option<ByteSize>,
    /// Keys per page of a listing
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=1000),
          help_heading = "Workload")]
    page_keys: u64,
    /// Changes all contents and the order of random keys
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Workload")]
    seed: u64,
    /// What all keys begin with
    #[arg(long, value_name = "TEXT", default_value = "bucketsbench/", help_heading = "Workload")]
    prefix: String,
    /// The bucket; made if it is not there
    #[arg(long, value_name = "NAME", default_value = "bucketsbench", help_heading = "Workload")]
    bucket: String,

    /// Connections per thread, one request at a time on each
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Load")]
    iodepth: usize,
    /// Threads
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Load")]
    numjobs: usize,
    /// Measure for so long, for example 10s, 500ms, 2m [default: 10s, unless --ops is given]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Load")]
    runtime: Option<Duration>,
    /// Measure so many operations
    #[arg(long, value_name = "N", help_heading = "Load")]
    ops: Option<u64>,
    /// Run for so long before measuring [default: 1s, with --ops 0s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Load")]
    warmup: Option<Duration>,
    /// Give up on a request after so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = "Load")]
    timeout: Duration,
    /// Pin the threads to these CPUs, in turn
    #[arg(long, value_name = "CPU,...", value_delimiter = ',', help_heading = "Load")]
    cpus: Vec<usize>,

    /// Drive the engine in this process instead of a server: on --numjobs cores, with --iodepth operations at once on
    /// each, on four disks with 2+2 that are formatted below DIR and stay there
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    engine: Option<PathBuf>,
    /// Memory for the engine's caches, all cores together
    #[arg(long, value_name = "SIZE", default_value = "256MiB", help_heading = "Server")]
    cache: ByteSize,
    /// The server
    #[arg(
        long,
        value_name = "URL",
        env = "BUCKETS_ENDPOINT",
        default_value = "http://127.0.0.1:9000",
        help_heading = "Server"
    )]
    endpoint: String,
    /// Region that signatures name
    #[arg(long, value_name = "NAME", default_value = REGION_DEFAULT, help_heading = "Server")]
    region: String,
    /// Access key [default: as bucketsctl finds it: BUCKETS_ROOT_ACCESS_KEY, then the credentials file]
    #[arg(long, value_name = "KEY", requires = "secret_key", help_heading = "Server")]
    access_key: Option<String>,
    /// Its secret; other users of this machine can see it, so prefer the environment
    #[arg(long, value_name = "SECRET", requires = "access_key", help_heading = "Server")]
    secret_key: Option<String>,
    /// File with the credentials
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    credentials: Option<PathBuf>,
    /// What of a request is signed
    #[arg(long, value_name = "WHAT", default_value = "head", help_heading = "Server")]
    sign: Signing,
    /// Let the kernel drop the bodies of GETs where they arrive, instead of copying them to this process; leaves more of
    /// the machine to the server
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_value = "no",
          default_missing_value = "yes", value_parser = switch!(), help_heading = "Server")]
    discard: bool,
    /// TCP congestion control of the client's sockets (of the null server's, with --null-server) [default: the system's]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) congestion: Option<String>,
    /// A process of the server, to show its processor time, memory and disk traffic; may be repeated
    #[arg(long, value_name = "PID", help_heading = "Server")]
    server_pid: Vec<u32>,
}

/// `--rw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Rw {
    /// PutObject
    Put,
    /// GetObject
    Get,
    /// HeadObject
    Head,
    /// ListObjectsV2, a page from anywhere in the key space
    List,
    /// ListObjectsV2, page after page over the whole key space
    Walk,
    /// DeleteObject, each key once
    Delete,
    /// Everything, in the shares of --mix
    Mixed,
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    After(Duration),
    Operations(u64),
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An S3 server.
    Server(SocketAddr),
    /// The engine, in this process.
    Engine { dir: PathBuf, cores: usize, cache_bytes: usize },
}

/// One job, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) flow: Flow,
    /// What all keys of the key space begin with.
    pub(crate) stem: String,
    pub(crate) objects: u64,
    pub(crate) sizes: SizeRange,
    pub(crate) prepare: bool,
    pub(crate) cleanup: bool,
    pub(crate) seed: u64,
    pub(crate) iodepth: usize,
    pub(crate) numjobs: usize,
    pub(crate) until: Until,
    pub(crate) warmup: Duration,
    pub(crate) timeout: Duration,
    pub(crate) cpus: Vec<usize>,
    pub(crate) target: Target,
    pub(crate) endpoint: super::exchange::Endpoint,
    pub(crate) server_pids: Vec<u32>,
}

/// Why there is no job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    #[error("the job file {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("the job file {}, line {line}: {what}", path.display())]
    Line { path: PathBuf, line: usize, what: &'static str },
    #[error("the job file {} has no jobs; a job is a [name] with flags below it", path.display())]
    NoJobs { path: PathBuf },
    #[error("job {name}: {what}")]
    Flags { name: String, what: String },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

impl Cli {
    /// The jobs that the command line and the job file ask for.
    pub(crate) fn jobs(
        &self,
        raw: &[OsString],
        env: impl Fn(&str) -> Option<String> + Copy,
        run_id: u64,
    ) -> Result<Vec<Job>, JobError> {
        let Some(path) = &self.job_file else {
            let name = format!("{:?}", self.args.rw).to_lowercase();
            return Ok(vec![self.args.clone().checked(name, env, run_id)?]);
        };
        let text =
            std::fs::read_to_string(path).map_err(|error| JobError::Read { path: path.clone(), error })?;
        let file = JobFile::parse(&text).map_err(|(line, what)| JobError::Line {
            path: path.clone(),
            line,
            what,
        })?;
        if file.jobs.is_empty() {
            return Err(JobError::NoJobs { path: path.clone() });
        }
        let mut jobs = Vec::new();
        for (index, (name, flags)) in file.jobs.into_iter().enumerate() {
            let program = raw.first().cloned().unwrap_or_default();
            let flags = file.global.iter().chain(&flags).map(OsString::from);
            let all = std::iter::once(program).chain(flags).chain(raw.iter().skip(1).cloned());
            let cli = Cli::try_parse_from(all).map_err(|error| JobError::Flags {
                name: name.clone(),
                // Without the usage that clap repeats below.
                what: error.to_string().lines().next().unwrap_or_default().replacen("error: ", "", 1),
            })?;
            jobs.push(cli.args.checked(name, env, run_id.wrapping_add(index as u64))?);
        }
        Ok(jobs)
    }
}

/// A job file: the flags of its sections.
#[derive(Debug, Default, PartialEq, Eq)]
struct JobFile {
    global: Vec<String>,
    jobs: Vec<(String, Vec<String>)>,
}

impl JobFile {
    /// Errors: the line, from 1, and what is wrong with it.
    fn parse(text: &str) -> Result<JobFile, (usize, &'static str)> {
        let mut file = JobFile::default();
        let mut in_section = false;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                let name = name.strip_suffix(']').ok_or((number, "a section ends with `]`"))?.trim();
                if name.is_empty() {
                    return Err((number, "a section has a name"));
                }
                if name == "global" && !file.jobs.is_empty() {
                    return Err((number, "[global] comes first"));
                }
                if name != "global" {
                    file.jobs.push((name.to_owned(), Vec::new()));
                }
                in_section = true;
                continue;
            }
            if !in_section {
                return Err((number, "a flag stands below a [section]"));
            }
            let flags = file.jobs.last_mut().map_or(&mut file.global, |(_, flags)| flags);
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            if name.trim().starts_with('-') {
                return Err((number, "flags stand here without dashes"));
            }
            let name = name.trim().replace('_', "-");
            flags.push(match line.contains('=') {
                true => format!("--{name}={}", value.trim()),
                false => format!("--{name}"),
            });
        }
        Ok(file)
    }
}

impl JobArgs {
    fn checked(
        self,
        name: String,
        env: impl Fn(&str) -> Option<String>,
        run_id: u64,
    ) -> Result<Job, JobError> {
        let refuse = |what: String| JobError::Flags { name: name.clone(), what };
        let JobArgs { size, iodepth, numjobs, .. } = self;
        if numjobs == 0 || numjobs > THREADS_MAX {
            return Err(refuse(format!("--numjobs is 1 to {THREADS_MAX}")));
        }
        if iodepth == 0 || iodepth.saturating_mul(numjobs) > CONNECTIONS_MAX {
            return Err(refuse(format!("--iodepth x --numjobs is 1 to {CONNECTIONS_MAX}")));
        }
        if self.objects == Some(0) || self.ops == Some(0) {
            return Err(refuse("--objects and --ops are at least 1".to_owned()));
        }
        if self.range.is_some() && self.rw != Rw::Get {
            return Err(refuse("--range is for --rw get".to_owned()));
        }
        if self.range == Some(ByteSize(0)) {
            return Err(refuse("--range is at least 1 byte".to_owned()));
        }
        let page_keys = self.page_keys;
        let read =
            |action| Flow::Read { action, access: self.access, range: self.range.map(|range| range.0) };
        let flow = match self.rw {
            Rw::Put if self.objects.is_none() => Flow::PutNew,
            Rw::Put => Flow::PutAround,
            Rw::Get => read(Action::Get),
            Rw::Head => read(Action::Head),
            Rw::List => Flow::List { page_keys },
            Rw::Walk => Flow::Walk { page_keys },
            Rw::Delete => Flow::DeleteOnce,
            Rw::Mixed => Flow::Mixed { mix: self.mix, page_keys },
        };
        let fit = (OBJECTS_BYTES_DEFAULT / size.most.max(1)).clamp(1, OBJECTS_DEFAULT);
        let objects =
            self.objects.unwrap_or(if self.rw == Rw::Delete { OBJECTS_DELETE_DEFAULT } else { fit });
        if self.rw == Rw::Mixed && objects < (iodepth * numjobs) as u64 {
            return Err(refuse("--rw mixed needs at least one of --objects for each connection".to_owned()));
        }
        // New keys are new in every run and every job.
        let stem = match flow {
            Flow::PutNew => format!("{}new-{run_id:x}/", self.prefix),
            _ => format!("{}{size}/", self.prefix).replace(' ', "-"),
        };
        if stem.len() > 1000 {
            return Err(refuse("--prefix is too long for a key".to_owned()));
        }
        let until = match (self.runtime, self.ops) {
            (Some(_), Some(_)) => return Err(refuse("--runtime or --ops, not both".to_owned())),
            (None, Some(operations)) => Until::Operations(operations),
            (runtime, None) => Until::After(runtime.unwrap_or(Duration::from_secs(10))),
        };
        let warmup_default = Duration::from_secs(u64::from(self.ops.is_none()));
        let (authority, target) = match &self.engine {
            Some(dir) => {
                let cache_bytes = usize::try_from(self.cache.0).unwrap_or(usize::MAX);
                let target = Target::Engine { dir: dir.clone(), cores: numjobs, cache_bytes };
                (dir.display().to_string(), target)
            }
            None => {
                let (authority, address) = resolve(&self.endpoint).map_err(refuse)?;
                (authority, Target::Server(address))
            }
        };
        let credentials = match (&target, self.sign) {
            (Target::Engine { .. }, _) | (_, Signing::None) => None,
            _ => Some(self.credentials(env)?),
        };
        if self.discard && self.verify {
            return Err(refuse("--discard or --verify, not both".to_owned()));
        }
        let endpoint = super::exchange::Endpoint {
            authority,
            discard: self.discard,
            congestion: self.congestion,
            bucket: self.bucket,
            credentials,
            region: self.region,
            signing: self.sign,
            verify: self.verify,
        };
        Ok(Job {
            name,
            flow,
            stem,
            objects,
            sizes: size,
            prepare: self.prepare && !matches!(flow, Flow::PutNew | Flow::PutAround),
            cleanup: self.cleanup,
            seed: self.seed,
            iodepth,
            numjobs,
            until,
            warmup: self.warmup.unwrap_or(warmup_default),
            timeout: self.timeout,
            cpus: self.cpus,
            target,
            endpoint,
            server_pids: self.server_pid,
        })
    }

    fn credentials(&self, env: impl Fn(&str) -> Option<String>) -> Result<Credentials, CredentialsError> {
        let section = CredentialsSection {
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
            file: None,
        };
        let given = section.access_key.is_some();
        let file = self.credentials.clone().unwrap_or_else(|| credentials::default_file(&env));
        // A flag, also one that names a file, wins over the environment.
        let env = |name: &str| if given || self.credentials.is_some() { None } else { env(name) };
        Ok(credentials::find(env, &section, Path::new(&file))?.0)
    }
}

/// `host:port` and its address.
fn resolve(endpoint: &str) -> Result<(String, SocketAddr), String> {
    let refuse =
        || format!("`{endpoint}` is not an endpoint; write http://host:port (https is not supported here)");
    let rest = match endpoint.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err(refuse()),
        None => endpoint,
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '@', ' ', '?']) {
        return Err(refuse());
    }
    // The port is left out of the Host header where it is the default one, by all clients alike.
    let with_port = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let mut addresses = with_port.to_socket_addrs().map_err(|error| format!("{endpoint}: {error}"))?;
    let address = addresses.next().ok_or_else(refuse)?;
    Ok((authority.to_owned(), address))
}

/// `10s`, `500ms`, `2m`, `1h`, or plain seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("write for example 10s, 500ms, 2m or 1h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "write for example 10s, 500ms, 2m or 1h".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn env(name: &str) -> Option<String> {
        match name {
            credentials::ACCESS_KEY_VARIABLE => Some("envkey".to_owned()),
            credentials::SECRET_KEY_VARIABLE => Some("env-secret".to_owned()),
            _ => None,
        }
    }

    fn jobs(args: &[&str]) -> Result<Vec<Job>, String> {
        let raw: Vec<OsString> =
            std::iter::once("bucketsbench").chain(args.iter().copied()).map(OsString::from).collect();
        let cli = Cli::try_parse_from(&raw).map_err(|error| error.to_string())?;
        cli.jobs(&raw, env, 7).map_err(|error| error.to_string())
    }

    fn job_file(text: &str, args: &[&str]) -> Result<Vec<Job>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        jobs(&[&[file.path().to_str().unwrap()], args].concat())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_make_a_whole_job() {
        let job = jobs(&[]).unwrap().remove(0);
        assert_eq!(job.flow, Flow::Read { action: Action::Get, access: Access::Random, range: None });
        assert_eq!(
            (job.objects, job.until, job.warmup),
            (10_000, Until::After(Duration::from_secs(10)), Duration::from_secs(1))
        );
        assert_eq!(job.endpoint.authority, "127.0.0.1:9000");
        assert_eq!(job.endpoint.credentials.unwrap().access_key, "envkey");
        assert!(job.prepare && !job.cleanup);
        assert_eq!(jobs(&["--size=16MiB"]).unwrap()[0].objects, 64);
        assert_eq!(jobs(&["--rw=put", "--ops=5"]).unwrap()[0].flow, Flow::PutNew);
        assert_eq!(jobs(&["--rw=put", "--objects=5"]).unwrap()[0].flow, Flow::PutAround);
        let given = jobs(&["--access-key=mine", "--secret-key=my-secret"]).unwrap().remove(0);
        assert_eq!(given.endpoint.credentials.unwrap().access_key, "mine");
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        for (args, reason) in [
            (&["--iodepth=0"][..], "--iodepth"),
            (&["--numjobs=300"], "--numjobs"),
            (&["--ops=5", "--runtime=1s"], "not both"),
            (&["--ops=0"], "at least 1"),
            (&["--discard", "--verify"], "not both"),
            (&["--rw=put", "--range=4KiB"], "--range"),
            (&["--rw=mixed", "--objects=3", "--iodepth=4"], "each connection"),
            (&["--endpoint=https://localhost:1"], "not supported"),
            (&["--endpoint=http://localhost:1/path"], "endpoint"),
            (&["--runtime=5x"], "10s"),
            (&["--access-key=mine"], "secret"),
            (&["--page-keys=1001"], "1..=1000"),
            (&["/does/not/exist"], "job file"),
        ] {
            let error = jobs(args).unwrap_err();
            assert!(error.contains(reason), "{args:?}: {error}");
        }
    }

    #[test]
    fn a_job_file_holds_flags_and_the_command_line_wins() {
        let text = "# comment\n[global]\nsize = 64KiB\niodepth=32\nserver_pid=1\n\n[a]\nrw=put\n[b]\nrw=head\niodepth=4\nverify\nprepare=no\n";
        let all = job_file(text, &["--runtime=2s", "--size=1KiB"]).unwrap();
        let names: Vec<_> = all
            .iter()
            .map(|job| (job.name.as_str(), job.iodepth, job.endpoint.verify, job.prepare))
            .collect();
        assert_eq!(names, [("a", 32, false, false), ("b", 4, true, false)]);
        for job in &all {
            assert_eq!((job.sizes.most, job.until), (1024, Until::After(Duration::from_secs(2))));
            assert_eq!(job.server_pids, [1]);
        }
        assert_ne!(all[0].stem, all[1].stem);
    }

    #[test]
    fn a_job_file_that_is_not_understood_says_where() {
        for (text, reason) in [
            ("rw=put\n", "line 1"),
            ("[a\n", "line 1"),
            ("[a]\n[global]\n", "line 2"),
            ("[a]\n--rw=put\n", "line 2"),
            ("# nothing\n", "no jobs"),
            ("[a]\nspeed=9\n", "job a: unexpected argument '--speed'"),
            ("[a]\nrw=fly\n", "job a: invalid value 'fly'"),
        ] {
            let error = job_file(text, &[]).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_read_as_written() {
        for (text, millis) in
            [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1.5", 1500), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        for bad in ["", "s", "1d", "-1s", "1e400"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
