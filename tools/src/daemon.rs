//! `bucketsd`: from flags to a running node, and from a signal to its end.
//!
//! What must hold: a start that cannot work ends with one sentence that says what is wrong and what to do, before any
//! disk is changed; every disk is claimed before it is opened; the port is open only once a core can answer on it; a signal
//! lets requests in progress end, flushes, and exits with 0.

use crate::cluster::{ClusterError, ClusterFile};
use crate::config::{ConfigError, LogFormat, NodeArgs, NodeCluster, NodeConfig};
use crate::credentials::{self, CredentialsError, CredentialsSection, Origin};
use crate::disk_faults::{self, DiskFaultsError};
use crate::format::{self, FormatDisksError, FormatRequest};
use crate::local_disks::{self, DiskLock, LockError};
use crate::report::Report;
use crate::resolve;
use crate::tls::TlsFilesError;
use buckets_engine::map::NodeMap;
use buckets_engine::node::{self, CoreSetup, DiskSizes, NodeOptions};
use buckets_engine::nodes::Network;
use buckets_engine::object::api::User;
use buckets_env::real::{self, CoreHandle, CoreOptions, CoreWaker, StartError, Warning};
use buckets_env::{CoreReceiver, CoreSender, Env, WakeCore, core_queue};
use buckets_peer::{PeerOptions, Tls};
use buckets_ring::assembly::{Assembly, AssemblyError, assemble};
use buckets_ring::endpoint::{NodeAddress, Scheme};
use buckets_ring::{BlockChecksum, Coding, Endpoint};
use buckets_s3::server::{Metrics, Options, Server};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

/// What `--dev` formats its four directories with.
const DEV_CODING: Coding = match Coding::new(2, 2) {
    Some(coding) => coding,
    None => panic!("2+2 is a code"),
};
/// How long a start waits for its port. The kernel takes the rings of a killed process apart after the process has gone;
/// until then its sockets listen.
const FORMER_LIFE_MAX: Duration = Duration::from_secs(5);
const FORMER_LIFE_LOOK: Duration = Duration::from_millis(5);
/// A certificate that lasts less long than so many days is warned of.
const DAYS_LEFT_MIN: u64 = 14;
/// How long requests in progress get to end at SIGTERM, unless the configuration says otherwise.
const SHUTDOWN_DEFAULT: Duration = Duration::from_secs(30);

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Flags or configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The files of `[tls]`.
    #[error(transparent)]
    Tls(#[from] TlsFilesError),
    /// `--disk-faults`.
    #[error(transparent)]
    DiskFaults(#[from] DiskFaultsError),
    /// Root credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] StartError),
    /// The directories of `--dev`.
    #[error(transparent)]
    Format(#[from] FormatDisksError),
    /// The disks do not make a deployment.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// The disks are not those of the cluster file.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Some disk was given by mistake.
    #[error("{0}")]
    Mistake(String),
    /// The file system of a disk.
    #[error("{} is on a file system without direct I/O (O_DIRECT): use ext4 or xfs on a disk", .0.display())]
    NoDirectIo(std::path::PathBuf),
    /// A disk is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No active set.
    #[error("the deployment has no active erasure set: format disks with `bucketsctl format`")]
    NoSets,
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}; {advice}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What failed.
        error: std::io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// A thread or ring could not be made.
    #[error("a core cannot start: {0}")]
    Core(std::io::Error),
    /// The log filter.
    #[error("log level: {0}")]
    Log(String),
}

/// Runs a node until a signal ends it.
pub fn run(args: NodeArgs) -> Result<(), DaemonError> {
    let config = args.resolve(|name| std::env::var(name).ok())?;
    start_log(&config)?;
    let tls = tls(&config)?;
    if let Some(path) = &config.disk_faults {
        disk_faults::follow(path.clone())?;
    }
    if config.dev {
        make_dev_disks(&config)?;
    }
    warn(real::preflight(&[])?)?;
    let assembly = match &config.cluster {
        Some(NodeCluster { file, node: None }) => without_disks(file),
        _ => assembled(&config.disks)?,
    };
    if let Some(cluster) = &config.cluster {
        cluster.file.check_deployment(assembly.deployment)?;
        if let Some(exposure) = cluster.file.exposure() {
            tracing::warn!("{exposure}");
        }
    }
    // A disk that is not there does not keep the others from serving.
    let present: Vec<&Path> =
        assembly.members.iter().map(|member| Path::new(member.endpoint.path())).collect();
    warn(real::preflight(&present)?)?;
    let _locks = assembly
        .members
        .iter()
        .map(|member| DiskLock::acquire(&member.endpoint))
        .collect::<Result<Vec<_>, _>>()?;
    let address = free_address(config.listen)?;
    let environment = |name: &str| std::env::var(name).ok();
    let (root, origin) = match &config.cluster {
        // All nodes of a deployment have the same.
        Some(cluster) if config.credentials == CredentialsSection::default() => {
            credentials::find(environment, &cluster.file.credentials, &config.credentials_file)?
        }
        Some(_) => credentials::find(environment, &config.credentials, &config.credentials_file)?,
        None => credentials::find_or_generate(environment, &config.credentials, &config.credentials_file)?,
    };

    let cores = config.cores.unwrap_or_else(|| real::usable_cpus().len().max(1));
    let own = config.cluster.as_ref().map(own_node).transpose()?;
    let map = NodeMap::new(&assembly, own.as_ref(), cores, config.inline_bytes_max);
    let map = Arc::new(map.ok_or(DaemonError::NoSets)?);
    let network = match &config.cluster {
        Some(cluster) => Some(network(cluster, &map, tls.clone())?),
        None => None,
    };
    let options = NodeOptions {
        cache_bytes: usize::try_from(config.cache_bytes).unwrap_or(usize::MAX),
        root_user: User {
            access_key: root.access_key.clone(),
            secret_key: root.secret_key.clone(),
            created_unix_ms: 0,
            is_root: true,
        },
        disk_sizes: match &config.cluster {
            Some(cluster) => cluster.file.disk_sizes,
            None if config.dev => DiskSizes::Dev,
            None => DiskSizes::Full,
        },
    };
    // From here on a signal is waited for, not died of.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(DaemonError::Core)?;
    // Whose terminal is closed ends with it; else it is the word for reading files again.
    if tls.is_some() || !std::io::stderr().is_terminal() {
        signals.add_signal(SIGHUP).map_err(DaemonError::Core)?;
    }
    let running = start_cores(&config, address, map.clone(), &options, network.as_ref())?;
    tracing::info!(
        deployment = %assembly.deployment,
        disks = assembly.members.len(),
        absent = map.disks_of(map.own).filter(|(_, disk)| !disk.is_member).count(),
        nodes = map.nodes.len(),
        cores,
        encrypted = config.tls.is_some(),
        %address,
        "serving S3"
    );
    greet(&config, address, &root, &origin);
    // Ends only with a signal.
    while signals.forever().next() == Some(SIGHUP) {
        match &tls {
            Some(tls) => renew(&config, tls),
            None => tracing::info!("SIGHUP: there are no files of [tls] to be read again"),
        }
    }
    tracing::info!("ending: requests in progress are finished, disks are flushed");
    running.end();
    Ok(())
}

/// Of a gateway.
fn without_disks(file: &ClusterFile) -> Assembly {
    Assembly {
        deployment: file.deployment,
        block_checksum: file.block_checksum,
        topology: file.topology(),
        members: Vec::new(),
        refused: Vec::new(),
        absent: Vec::new(),
    }
}

/// The node's own name; a gateway gets one that no other has.
fn own_node(cluster: &NodeCluster) -> Result<NodeAddress, DaemonError> {
    match &cluster.node {
        Some(node) => Ok(node.clone()),
        None => {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|error| {
                DaemonError::Mistake(format!("no random numbers for the gateway's name: {error}"))
            })?;
            let host = format!("gateway-{}", hex::encode(random));
            Ok(NodeAddress { scheme: Scheme::Http, host, port: 0 })
        }
    }
}

/// What encrypts between this node and others.
fn tls(config: &NodeConfig) -> Result<Option<Tls>, DaemonError> {
    let Some(files) = &config.tls else { return Ok(None) };
    if let Some(exposure) = files.exposure() {
        tracing::warn!("{exposure}");
    }
    let own = config.cluster.as_ref().and_then(|cluster| cluster.node.as_ref());
    let tls = files.load(own.map(|node| node.host.as_str()))?;
    if let Some(days) = days_left(&tls).filter(|days| *days < DAYS_LEFT_MIN) {
        tracing::warn!(
            "tls.certificate: {} or what leads from it to the CA expires in {days} days; issue a new one and send SIGHUP",
            files.certificate.display()
        );
    }
    Ok(Some(tls))
}

/// Reads the files again; those that cannot be used change nothing.
fn renew(config: &NodeConfig, current: &Tls) {
    match tls(config) {
        Ok(Some(newer)) => {
            current.renew(&newer);
            tracing::info!(
                days_left = days_left(current),
                "new connections between nodes use the files of [tls] as they are now"
            );
        }
        Ok(None) => {}
        Err(error) => tracing::error!("the files of [tls] stay as they were read before: {error}"),
    }
}

/// Until this node is not let in any more.
fn days_left(tls: &Tls) -> Option<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(tls.expires_unix_s()?.saturating_sub(now.as_secs()) / 86_400)
}

/// How this node reaches the others.
fn network(cluster: &NodeCluster, map: &Arc<NodeMap>, tls: Option<Tls>) -> Result<Network, DaemonError> {
    let listen = match &cluster.node {
        Some(node) => Some(free_address(resolve::own_address(&map.own_node().name, node.port))?),
        None => None,
    };
    resolve::follow(map.clone()).map_err(DaemonError::Core)?;
    Ok(Network {
        listen,
        secret: cluster.file.secret.clone(),
        options: PeerOptions { tls, ..PeerOptions::default() },
    })
}

fn start_log(config: &NodeConfig) -> Result<(), DaemonError> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log_level)
        .map_err(|error| DaemonError::Log(error.to_string()))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second initialisation is only possible in tests; the first one stays.
    let _ = match config.log_format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Human => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    Ok(())
}

/// What is not as it should be, but works; without direct I/O it does not.
fn warn(warnings: Vec<Warning>) -> Result<(), DaemonError> {
    for warning in warnings {
        match warning {
            Warning::NoDirectIo { path } => return Err(DaemonError::NoDirectIo(path)),
            other => tracing::warn!("{other}"),
        }
    }
    Ok(())
}

/// Makes what is missing of the four directories; formats them where none is formatted.
fn make_dev_disks(config: &NodeConfig) -> Result<(), DaemonError> {
    let any_formatted = config.disks.iter().any(|disk| local_disks::system_dir(disk).exists());
    if any_formatted {
        return Ok(());
    }
    if let Some(parent) = config.disks.first().and_then(|disk| Path::new(disk.path()).parent()) {
        std::fs::create_dir_all(parent)
            .map_err(|error| DaemonError::Mistake(format!("{} cannot be made: {error}", parent.display())))?;
    }
    let request = FormatRequest {
        disks: config.disks.clone(),
        coding: DEV_CODING,
        block_checksum: BlockChecksum::Xxh3,
        force: false,
        make_missing: true,
        sizes: DiskSizes::Dev,
    };
    Ok(format::execute(format::plan(&request)?)?)
}

/// Which disk is which. A disk given by mistake ends the start; one that is not there does not.
fn assembled(disks: &[Endpoint]) -> Result<Assembly, DaemonError> {
    let found: Vec<_> = disks.iter().map(local_disks::identify).collect();
    let assembly = assemble(&found)?;
    for refused in &assembly.refused {
        if refused.reason.is_mistake() {
            return Err(DaemonError::Mistake(refused.to_string()));
        }
        tracing::error!("{refused}");
    }
    Ok(assembly)
}

/// The address with a port that nobody listens on. Cores share the port among themselves, and so would two nodes by
/// mistake: an exclusive bind tells, and waits until what listened in a former life of this process is gone.
fn free_address(address: SocketAddr) -> Result<SocketAddr, DaemonError> {
    let until = Instant::now() + FORMER_LIFE_MAX;
    let bound = loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(FORMER_LIFE_LOOK);
            }
            bound => break bound,
        }
    };
    let probe = bound.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => "stop what listens there, or choose another port with --listen",
            std::io::ErrorKind::PermissionDenied => "choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
            std::io::ErrorKind::AddrNotAvailable => "choose an address of this machine with --listen",
            _ => "choose another address with --listen",
        };
        DaemonError::Listen { address, error, advice }
    })?;
    probe.local_addr().map_err(|error| DaemonError::Listen { address, error, advice: "try again" })
}

struct Running {
    cores: Vec<CoreHandle>,
    ends: Vec<CoreSender<End>>,
    drained: mpsc::Receiver<()>,
}

/// The steps of a core's end.
enum End {
    /// Accept nothing more; let requests in progress end.
    Drain,
    /// Flush and close the disks. Only when every core has drained: a request needs the disks of all of them.
    Close,
}

impl Running {
    fn end(self) {
        // Queues hold both steps; a core that did not get to serve says at once that it has drained.
        for end in &self.ends {
            let _ = end.send(End::Drain);
        }
        for _ in &self.ends {
            let _ = self.drained.recv();
        }
        for end in &self.ends {
            let _ = end.send(End::Close);
        }
        self.cores.into_iter().for_each(CoreHandle::join);
    }
}

fn start_cores(
    config: &NodeConfig,
    address: SocketAddr,
    map: Arc<NodeMap>,
    options: &NodeOptions,
    network: Option<&Network>,
) -> Result<Running, DaemonError> {
    let cores = usize::from(map.own_node().cores().unwrap_or(1));
    let wakers: Vec<Arc<CoreWaker>> =
        (0..cores).map(|_| CoreWaker::new()).collect::<Result<_, _>>().map_err(DaemonError::Core)?;
    let shared: Vec<Arc<dyn WakeCore>> =
        wakers.iter().map(|waker| waker.clone() as Arc<dyn WakeCore>).collect();
    let setups = node::connect(map, shared.clone(), options, network);
    let metrics = Arc::new(Metrics::new(cores));
    let (started_tx, started_rx) = mpsc::channel();
    let (drained_tx, drained) = mpsc::channel();
    let mut running = Running { cores: Vec::new(), ends: Vec::new(), drained };
    for (index, (setup, waker)) in setups.into_iter().zip(wakers).enumerate() {
        let (end_tx, end_rx) = core_queue(2, shared[index].clone());
        let serve = ServeCore {
            address,
            options: server_options(config),
            shutdown: config
                .limits
                .shutdown_seconds_max
                .map_or(SHUTDOWN_DEFAULT, |seconds| Duration::from_secs(u64::from(seconds))),
            metrics: metrics.clone(),
            tls: network.and_then(|network| network.options.tls.clone()),
            index,
            started: started_tx.clone(),
            drained: drained_tx.clone(),
        };
        let core = CoreOptions { cpu: None, index, name: format!("core-{index}") };
        let handle = real::run_core(core, waker, move |env| serve.run(env, setup, end_rx));
        running.cores.push(handle.map_err(DaemonError::Core)?);
        running.ends.push(end_tx);
    }
    drop(started_tx);
    for _ in 0..cores {
        // A core that is gone without a word has ended the process.
        if let Ok(Err(error)) = started_rx.recv() {
            let advice = "choose another address with --listen";
            running.end();
            return Err(DaemonError::Listen { address, error, advice });
        }
    }
    Ok(running)
}

struct ServeCore {
    address: SocketAddr,
    options: Options,
    shutdown: Duration,
    metrics: Arc<Metrics>,
    tls: Option<Tls>,
    index: usize,
    started: mpsc::Sender<std::io::Result<()>>,
    drained: mpsc::Sender<()>,
}

impl ServeCore {
    async fn run(self, env: Env, setup: CoreSetup, end: CoreReceiver<End>) {
        let started = node::start(env.clone(), setup).await;
        let (store, listener) = match started.and_then(|store| Ok((store, env.listen(self.address)?))) {
            Ok(started) => started,
            Err(error) => {
                let _ = self.started.send(Err(error));
                end.recv().await;
                let _ = self.drained.send(());
                end.recv().await;
                return;
            }
        };
        let report = Report::new(store.clone(), self.tls.clone());
        let server = Server::new(env.clone(), store.clone(), report, self.metrics, self.index, self.options);
        env.spawn(server.clone().serve(listener));
        let _ = self.started.send(Ok(()));
        while !matches!(end.recv().await, End::Drain) {}
        server.drain(self.shutdown).await;
        store.retire().await;
        let _ = self.drained.send(());
        while !matches!(end.recv().await, End::Close) {}
        store.close().await;
    }
}

fn server_options(config: &NodeConfig) -> Options {
    let mut options = Options { region: config.region.clone(), ..Options::default() };
    if let Some(connections) = config.limits.connections_per_core_max {
        options.limits.connections_max = connections as usize;
    }
    if let Some(requests) = config.limits.requests_per_core_max {
        options.limits.in_flight_max = requests as usize;
    }
    options
}

/// What a person needs to try it.
fn greet(config: &NodeConfig, address: SocketAddr, root: &credentials::Credentials, origin: &Origin) {
    if config.log_format == LogFormat::Json {
        return greet_machine(address, root, origin);
    }
    let endpoint = match address.ip().is_unspecified() {
        true => format!("http://127.0.0.1:{}", address.port()),
        false => format!("http://{address}"),
    };
    println!("Buckets serves S3 at {endpoint}");
    match origin {
        Origin::Generated(path) => {
            println!("Root credentials, made now and stored in {} (shown only this once):", path.display());
            println!("  access key  {}\n  secret key  {}", root.access_key, root.secret_key);
        }
        Origin::File(path) => println!("Root credentials: {}", path.display()),
        Origin::Environment => println!("Root credentials: from the environment"),
        Origin::Configuration => println!("Root credentials: from the configuration"),
    }
    if config.dev {
        let secret = match origin {
            Origin::Generated(_) => root.secret_key.clone(),
            _ => "...".to_owned(),
        };
        println!("Try it:");
        println!("  export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={secret}", root.access_key);
        println!("  export AWS_DEFAULT_REGION={} AWS_ENDPOINT_URL={endpoint}", config.region);
        println!("  aws s3 mb s3://photos");
        println!("  aws s3 cp README.md s3://photos/");
        println!("  aws s3 ls s3://photos/");
    }
}

/// The same as one line of JSON, for who reads the output by program.
fn greet_machine(address: SocketAddr, root: &credentials::Credentials, origin: &Origin) {
    let mut greeting =
        serde_json::json!({ "endpoint": format!("http://{address}"), "accessKey": root.access_key });
    if let Origin::Generated(path) = origin {
        greeting["secretKey"] = root.secret_key.clone().into();
        greeting["credentialsFile"] = path.display().to_string().into();
    }
    println!("{greeting}");
}
