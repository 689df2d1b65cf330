//! Two cores that ask each other over loopback sockets, as cores of two nodes do: round trips and bytes a second of one
//! connection, in the clear and with TLS, beside what plain sockets of two threads move. CPU seconds are those of both sides together: on a machine with
//! other work they say more than the wall clock. `cargo bench -p buckets-benches --bench peer`

use buckets_env::real::{CoreOptions, CoreWaker, run_core};
use buckets_env::{AlignedBuf, AlignedBytes, Env, Instant, WakeCore};
use buckets_peer::{
    Identity, Message, NodeId, Peer, PeerAddress, PeerOptions, PeerServer, Pem, Remote, Secret, Service,
    Target, Tls, VERSIONS, doors,
};
use buckets_ring::id::DeploymentId;
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::cell::Cell;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const HOST: &str = "127.0.0.1";
const BLOCK_BYTES: usize = 256 << 10;
const BLOCKS: usize = 4;

/// How much is done.
#[derive(Clone, Copy)]
struct Size {
    round_trips: usize,
    pipelined: usize,
    moved_bytes: usize,
}

const BENCH: Size = Size { round_trips: 20_000, pipelined: 200_000, moved_bytes: 4 << 30 };
/// Under `cargo test`.
const TINY: Size = Size { round_trips: 100, pipelined: 1000, moved_bytes: 16 << 20 };

/// Answers `get` with blocks, and everything else with nothing.
struct Blocks {
    blocks: Vec<AlignedBytes>,
}

impl Service for Blocks {
    fn serve(
        &self,
        _: Remote,
        message: Message,
        _: Option<Instant>,
    ) -> LocalBoxFuture<'static, Option<Message>> {
        let payload = if message.head.starts_with(b"get") { self.blocks.clone() } else { Vec::new() };
        Box::pin(std::future::ready(Some(Message { head: message.head, payload })))
    }

    fn take(&self, _: Remote, _: Message) {}
}

fn blocks() -> Vec<AlignedBytes> {
    (0..BLOCKS).map(|_| AlignedBuf::zeroed(BLOCK_BYTES).freeze()).collect()
}

fn identity(node: u8) -> Arc<Identity> {
    let Ok(secret) = Secret::new(b"a secret of the deployment") else { unreachable!("long enough") };
    let deployment = DeploymentId::from_bytes([9; 16]);
    Arc::new(Identity { deployment, node: NodeId([node; 16]), cores: 1, secret, versions: VERSIONS })
}

fn core<M, F>(index: usize, waker: &Arc<CoreWaker>, main: M) -> buckets_env::real::CoreHandle
where
    M: FnOnce(Env) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let options = CoreOptions { cpu: None, index, name: format!("core-{index}") };
    match run_core(options, waker.clone(), main) {
        Ok(core) => core,
        Err(error) => panic!("no core: {error}"),
    }
}

fn waker() -> Arc<CoreWaker> {
    match CoreWaker::new() {
        Ok(waker) => waker,
        Err(error) => panic!("no waker: {error}"),
    }
}

async fn ask(peer: &Peer, head: &'static [u8], payload: Vec<AlignedBytes>) -> usize {
    match peer.request(Message { head: Bytes::from_static(head), payload }, LIMIT).await {
        Ok(answer) => answer.payload.iter().map(|piece| piece.len()).sum(),
        Err(error) => panic!("no answer: {error}"),
    }
}

/// Lets `lanes` tasks of one core ask, each as soon as it has its answer, and ends when `count` answers are there.
async fn ask_many(
    env: &Env,
    peer: &Peer,
    (lanes, count): (usize, usize),
    (head, payload): (&'static [u8], Vec<AlignedBytes>),
) -> Duration {
    let left = Rc::new(Cell::new(count));
    let done = Rc::new(Cell::new(0));
    let start = env.now();
    for _ in 0..lanes {
        let (peer, payload, left, done) = (peer.clone(), payload.clone(), left.clone(), done.clone());
        env.spawn(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                ask(&peer, head, payload.clone()).await;
                done.set(done.get() + 1);
            }
        });
    }
    while done.get() < count {
        env.sleep(Duration::from_micros(500)).await;
    }
    env.now().since(start)
}

/// CPU time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of stat, counted behind the name in brackets: ticks of 10 ms.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn report_rate(name: &str, bytes: usize, took: Duration, cpu: f64) {
    let gigabytes = bytes as f64 / 1e9;
    let rate = gigabytes / took.as_secs_f64();
    println!("{name}: {rate:.2} GB/s, {:.2} GB per CPU second", gigabytes / cpu.max(0.01));
}

/// What the kernel moves between two threads that do nothing else.
fn plain_sockets(bytes: usize) -> std::io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr()?;
    let (start, cpu) = (std::time::Instant::now(), cpu_seconds());
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let data = vec![1; BLOCKS * BLOCK_BYTES];
        (0..bytes / data.len()).try_for_each(|_| stream.write_all(&data))
    });
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; BLOCK_BYTES];
    while stream.read(&mut buffer)? > 0 {}
    match sender.join() {
        Ok(sent) => sent?,
        Err(_) => panic!("the sender panicked"),
    }
    report_rate("plain sockets", bytes, start.elapsed(), cpu_seconds() - cpu);
    Ok(())
}

async fn measure(env: Env, peer: Peer, size: Size) {
    ask(&peer, b"warm up", Vec::new()).await;
    let mut times = Vec::with_capacity(size.round_trips);
    for _ in 0..size.round_trips {
        let start = env.now();
        ask(&peer, &[7; 64], Vec::new()).await;
        times.push(env.now().since(start));
    }
    times.sort();
    println!(
        "round trip, 64 bytes, one at a time: median {:?}, p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    let cpu = cpu_seconds();
    let took = ask_many(&env, &peer, (64, size.pipelined), (&[7; 64], Vec::new())).await;
    let (count, cpu) = (size.pipelined as f64, cpu_seconds() - cpu);
    println!(
        "64 bytes, 64 at a time: {:.0} a second, {:.1} us of CPU each",
        count / took.as_secs_f64(),
        cpu * 1e6 / count
    );
    let bytes = BLOCKS * BLOCK_BYTES;
    let count = size.moved_bytes / bytes;
    for (name, head, payload) in [("sent", &b"put"[..], blocks()), ("received", b"get", Vec::new())] {
        let cpu = cpu_seconds();
        let took = ask_many(&env, &peer, (16, count), (head, payload)).await;
        let name = format!("payloads of {BLOCKS} x {BLOCK_BYTES} bytes {name}, 16 at a time");
        report_rate(&name, count * bytes, took, cpu_seconds() - cpu);
    }
}

/// Certificates of a CA of their own, for both sides.
fn tls() -> Option<Tls> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().ok()?).ok()?;
    let key = KeyPair::generate().ok()?;
    let own = CertificateParams::new([HOST.to_owned()]).ok()?.signed_by(&key, &issuer).ok()?;
    let (ca, certificate, key) = (issuer.pem(), own.pem(), key.serialize_pem());
    let pem = Pem { ca: ca.as_bytes(), certificate: certificate.as_bytes(), key: key.as_bytes() };
    Tls::new(pem, Some(HOST)).ok()
}

fn measure_with(options: PeerOptions, size: Size) {
    let (report, address) = mpsc::channel::<SocketAddr>();
    let (stop, stopped) = mpsc::channel::<()>();
    let server_waker = waker();
    let mut doors = doors(&[server_waker.clone() as Arc<dyn WakeCore>]);
    let of_server = options.clone();
    let server = core(0, &server_waker, move |env| async move {
        let listener = match env.listen(SocketAddr::from(([127, 0, 0, 1], 0))) {
            Ok(listener) => listener,
            Err(error) => panic!("cannot listen: {error}"),
        };
        let (Ok(address), Some(door)) = (listener.local_address(), doors.pop()) else { panic!("no address") };
        let service = Rc::new(Blocks { blocks: blocks() });
        let server = PeerServer::start(&env, 0, identity(2), listener, door, service, of_server);
        let _ = report.send(address);
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            env.sleep(Duration::from_millis(20)).await;
        }
        server.close();
    });
    let Ok(address) = address.recv() else { panic!("the server did not start") };
    let client = core(1, &waker(), move |env| async move {
        let target = Target { node: Some(NodeId([2; 16])), core: 0 };
        let to = PeerAddress { address, host: HOST.to_owned(), target };
        let peer = Peer::new(&env, 0, identity(1), to, options);
        measure(env, peer, size).await;
    });
    client.join();
    let _ = stop.send(());
    server.join();
}

fn main() {
    let size = if std::env::args().any(|argument| argument == "--bench") { BENCH } else { TINY };
    let Some(tls) = tls() else { panic!("no certificates") };
    for (name, tls) in [("in the clear", None), ("TLS", Some(tls))] {
        println!("{name}:");
        measure_with(PeerOptions { tls, ..PeerOptions::default() }, size);
    }
    println!("plain sockets:");
    if let Err(error) = plain_sockets(size.moved_bytes) {
        panic!("plain sockets failed: {error}");
    }
}
