//! The simulated outside world: one thread, virtual time, one seed.
//!
//! What must hold:
//! - A run is a function of its seed: the same seed gives the same sequence of polls, disk operations and
//!   messages, and the same [`Simulation::trace_hash`].
//! - Time passes only in events. A crash of a node drops all of its tasks at once and keeps of its disks what
//!   was flushed, plus a seeded part of the rest.
//! - The simulation is not kinder than the world: where the world promises nothing, the seed decides.
//!
//! ```
//! use buckets_env::sim::{Simulation, sweep};
//! use std::time::Duration;
//!
//! sweep(0..10, |seed| {
//!     let simulation = Simulation::new(seed);
//!     let node = simulation.node("a");
//!     let outcome = node.run(0, |env| async move {
//!         env.sleep(Duration::from_millis(5)).await;
//!         env.now()
//!     });
//!     assert!(outcome.is_ok());
//! });
//! ```

mod clock;
mod core_wake;
mod disk_io;
mod env;
mod executor;
mod fault;
mod file_system;
mod inode;
mod net;
mod plan;
mod replay;
mod rng;
mod stream;
mod sweep;
#[cfg(test)]
mod tests;
mod world;

pub use crate::{DiskFaults, Fault};
pub use env::{SimEnv, SimFile};
pub use executor::Schedule;
pub use fault::DiskIoCounts;
pub use net::{LinkOptions, NetworkCounts, NetworkOptions};
pub use plan::{Plan, smallest, sweep_plans};
pub use replay::assert_replays;
pub use rng::SimRng;
pub use stream::{SimDetached, SimListener, SimReadHalf, SimStream, SimWriteHalf};
pub use sweep::{sweep, sweep_and};
pub use world::{DiskLatency, SimOptions};

use crate::{Env, Stream, WakeCore};
use executor::Life;
use fault::OneShot;
use file_system::{Disk, FileSystem};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use world::{LifeEnd, Node, World};

/// A world of nodes in virtual time. Dropping it drops all tasks.
pub struct Simulation {
    world: Rc<World>,
}

impl Simulation {
    /// An empty world whose every decision follows from `seed`.
    pub fn new(seed: u64) -> Simulation {
        Simulation::with_options(seed, SimOptions::default())
    }

    /// An empty world that behaves as `options` say.
    pub fn with_options(seed: u64, options: SimOptions) -> Simulation {
        Simulation { world: World::new(seed, options) }
    }

    /// The node of this name, made where there is none.
    pub fn node(&self, name: &str) -> SimNode {
        SimNode { world: self.world.clone(), index: self.world.node(name) }
    }

    /// Runs until `main` is done. Panics where nothing could go on, and after
    /// [`SimOptions::run_until_max`] of virtual time.
    ///
    /// `main` is no part of any node: it outlives crashes, so it must not wait for disk operations of a node
    /// that crashes (that panics). Use [`SimNode::run`] for work that ends with its node.
    pub fn run_until<T>(&self, main: impl Future<Output = T>) -> T {
        match self.world.run_until(main, None) {
            Some(value) => value,
            None => unreachable!("only a node's life ends a run early"),
        }
    }

    /// Lets `duration` of virtual time pass.
    pub fn run_for(&self, duration: Duration) {
        self.world.run_for(duration);
    }

    /// Virtual time since the start of the simulation's clock.
    pub fn now(&self) -> crate::Instant {
        crate::Instant(self.world.now())
    }

    /// Cuts the way from one node to another, that way only: what is sent waits until [`Simulation::heal`], and
    /// the sender gives up after a while.
    pub fn cut(&self, from: &SimNode, to: &SimNode) {
        self.world.network.borrow_mut().cut(from.index, to.index);
    }

    /// Ends the cut of the way from one node to another.
    pub fn heal(&self, from: &SimNode, to: &SimNode) {
        self.world.network.borrow_mut().heal(&self.world, from.index, to.index);
    }

    /// Cuts all ways, in both directions, between the nodes of `one` and those of `other`.
    pub fn partition(&self, one: &[&SimNode], other: &[&SimNode]) {
        for a in one {
            for b in other {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    /// Ends all cuts.
    pub fn heal_all(&self) {
        let mut network = self.world.network.borrow_mut();
        for (from, to) in network.cuts() {
            network.heal(&self.world, from, to);
        }
    }

    /// Sets delay and loss of the way from one node to another.
    pub fn set_link(&self, from: &SimNode, to: &SimNode, options: LinkOptions) {
        self.world.network.borrow_mut().set_link(from.index, to.index, options);
    }

    /// What the network has carried so far.
    pub fn network_counts(&self) -> NetworkCounts {
        self.world.network.borrow().counts()
    }

    /// A generator for the test's own decisions; each call gives an independent one.
    pub fn rng(&self) -> SimRng {
        self.world.fork_rng()
    }

    /// A hash over the sequence of all events so far (with their times): equal where a run repeats exactly.
    pub fn trace_hash(&self) -> u64 {
        self.world.trace_hash()
    }

    /// Events so far: polls of tasks, starts and ends of disk operations, messages.
    pub fn events(&self) -> u64 {
        self.world.events()
    }

    /// Ends it and says how many handles on it are left: those of the test, and of values that hold each other in a
    /// circle, which nobody frees any more.
    pub fn end(self) -> usize {
        self.world.end();
        Rc::strong_count(&self.world) - 1
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        sweep::add_virtual_time(self.world.age());
        self.world.end();
    }
}

/// The node crashed before its work was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node crashed")]
pub struct Crashed;

/// One simulated machine: cores, disks, an address. A handle; clones are the same node.
#[derive(Clone)]
pub struct SimNode {
    world: Rc<World>,
    index: u32,
}

impl SimNode {
    fn with<T>(&self, f: impl FnOnce(&mut Node) -> T) -> T {
        f(&mut self.world.nodes.borrow_mut()[self.index as usize])
    }

    fn life(&self) -> Life {
        self.world.life(self.index)
    }

    /// The name given to [`Simulation::node`].
    pub fn name(&self) -> String {
        self.with(|node| node.name.clone())
    }

    /// The node's address: what its listeners on an unspecified address are reached at.
    pub fn ip(&self) -> IpAddr {
        net::ip_of(self.index)
    }

    /// Connects from this node to a listener of any node.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let env = SimEnv { world: self.world.clone(), life: self.life(), core: 0 };
        env.connect(address).await
    }

    /// The world as core `core` sees it, until the node crashes. After a crash, take a new one and spawn again:
    /// that is the restart.
    pub fn env(&self, core: usize) -> Env {
        Env::Sim(SimEnv { world: self.world.clone(), life: self.life(), core })
    }

    /// What wakes core `core` from another core, for [`crate::core_queue`]. It stays good over crashes.
    pub fn waker(&self, core: usize) -> Arc<dyn WakeCore> {
        self.world.waker(self.index, core)
    }

    /// Runs until `work`, as part of this node, is done or the node has crashed.
    pub fn run<F: Future>(&self, core: usize, work: impl FnOnce(Env) -> F) -> Result<F::Output, Crashed> {
        self.world.run_until(work(self.env(core)), Some(self.life())).ok_or(Crashed)
    }

    /// The power fails now: all tasks of the node are dropped, unflushed changes of its disks are kept, lost or
    /// torn, its connections end.
    pub fn crash(&self) {
        self.world.crash(self.index, LifeEnd::PowerFails);
    }

    /// The process is killed now, and the machine goes on: all tasks are dropped, operations in flight are done or
    /// not, what was written stays, flushed or not. Peers see their connections reset.
    pub fn kill(&self) {
        self.world.crash(self.index, LifeEnd::ProcessKilled);
    }

    /// Crashes the node at its `n`-th changing disk operation from now (1 is the next): write, flush,
    /// reservation, hole, creation, rename, removal. The operation is then in flight, or just done and not
    /// acknowledged.
    pub fn crash_at_io(&self, n: u64) {
        assert!(n > 0, "the next operation is number one");
        self.with(|node| node.crash_at_io = Some(node.changing_ios + n));
    }

    /// Takes [`SimNode::crash_at_io`] back.
    pub fn cancel_crash(&self) {
        self.with(|node| node.crash_at_io = None);
    }

    /// Changing disk operations started since the node was made: what [`SimNode::crash_at_io`] counts.
    pub fn changing_ios(&self) -> u64 {
        self.with(|node| node.changing_ios)
    }

    /// Crashes so far.
    pub fn crashes(&self) -> u32 {
        self.life().number
    }

    /// Ends at the next crash of the node. Not for tasks of the node itself.
    pub async fn crashed(&self) {
        let life = self.life();
        std::future::poll_fn(|cx| self.world.poll_crashed(life, cx)).await;
    }

    /// Tasks of the node that have not ended.
    pub fn task_count(&self) -> usize {
        self.world.task_count(self.index)
    }

    /// Stops the process for `time` (SIGSTOP, then SIGCONT): none of its tasks runs, while its clocks go on, disk operations
    /// in flight end, and what is sent to it waits. A crash ends it.
    pub fn pause(&self, time: Duration) {
        let until = self.world.now() + world::nanos(time);
        self.with(|node| node.paused_until = node.paused_until.max(until));
    }

    /// Stops the machine for `time`, as a virtual machine that is not scheduled: like [`SimNode::pause`], but its monotonic
    /// clock stands still, too.
    pub fn suspend(&self, time: Duration) {
        let now = self.world.now();
        self.pause(time);
        self.with(|node| node.clock.stop(now, node.paused_until));
    }

    /// Moves the node's wall clock by `by_ms` milliseconds. Monotonic time is not concerned.
    pub fn jump_wall_clock(&self, by_ms: i64) {
        self.with(|node| node.wall_clock_offset_ms += by_ms);
    }

    /// Lets the node's monotonic clock, and with it its sleeps, gain `ppm` millionths on virtual time from now on,
    /// or lose where negative.
    pub fn drift_clock(&self, ppm: i32) {
        let now = self.world.now();
        self.with(|node| node.clock.set_drift(now, ppm));
    }

    /// The disk that is everything below `prefix`, declared now if it was not. What lies below no declared disk
    /// is on the node's root disk, `/`.
    pub fn disk(&self, prefix: impl AsRef<Path>) -> SimDisk {
        let index = self.with(|node| node.files.declare_disk(prefix.as_ref()));
        SimDisk { node: self.clone(), index }
    }

    /// What a file holds as reads see it, without I/O: for checks.
    pub fn peek_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        self.with(|node| node.files.content(path.as_ref()))
    }

    /// All files below `prefix`, sorted, without I/O: for checks.
    pub fn files(&self, prefix: impl AsRef<Path>) -> Vec<PathBuf> {
        self.with(|node| node.files.files_below(prefix.as_ref()))
    }
}

/// One disk of a simulated node.
#[derive(Clone)]
pub struct SimDisk {
    node: SimNode,
    index: usize,
}

impl SimDisk {
    fn with<T>(&self, f: impl FnOnce(&mut FileSystem, &mut SimRng) -> T) -> T {
        self.node.with(|node| f(&mut node.files, &mut node.disk_rng))
    }

    fn with_disk<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        self.with(|files, _| f(&mut files.disks[self.index]))
    }

    /// Sets the faults by chance and the slowness.
    pub fn faults(&self, faults: DiskFaults) {
        self.with_disk(|disk| disk.faults = faults);
    }

    /// Lets `fault` strike once: the operation concerned after `skip` others that it could have struck.
    pub fn strike(&self, fault: Fault, skip: u64) {
        self.with_disk(|disk| disk.planned.push(OneShot { fault, skip }));
    }

    /// Takes back the planned strikes of `fault` that have not come.
    pub fn call_off(&self, fault: Fault) {
        self.with_disk(|disk| disk.planned.retain(|shot| shot.fault != fault));
    }

    /// Takes back all faults: those by chance, the planned ones and slowness. Damage already done stays.
    pub fn heal(&self) {
        self.with_disk(|disk| {
            disk.faults = DiskFaults::default();
            disk.planned.clear();
        });
    }

    /// Sets the size of the disk, in bytes; beyond it writes and reservations end with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.with_disk(|disk| disk.capacity_bytes = bytes);
    }

    /// Flips the bits of `mask` in the stored byte at `offset` of the file at `path`. False where there is none.
    pub fn flip_byte(&self, path: impl AsRef<Path>, offset: u64, mask: u8) -> bool {
        self.with(|files, _| files.flip(path.as_ref(), offset, mask))
    }

    /// Flips one random bit in each of `count` random stored bytes, and says where.
    pub fn rot(&self, count: usize) -> Vec<(PathBuf, u64)> {
        self.with(|files, rng| {
            let mut places = Vec::new();
            for _ in 0..count {
                let Some((path, offset)) = files.random_place(self.index, rng) else { break };
                files.flip(&path, offset, 1 << rng.below(8));
                places.push((path, offset));
            }
            places
        })
    }

    /// Makes reads of the page at `offset` fail with EIO until it is written again. False where there is no file.
    pub fn make_unreadable(&self, path: impl AsRef<Path>, offset: u64) -> bool {
        self.with(|files, _| files.make_unreadable(path.as_ref(), offset))
    }

    /// Pulls the disk out: its cache is lost, its names are not found, open files fail with EIO for good.
    pub fn remove(&self) {
        self.with(|files, rng| files.pull(self.index, rng));
    }

    /// Puts a removed disk back, with what it held.
    pub fn restore(&self) {
        self.with_disk(|disk| disk.removed = false);
    }

    /// Whether the disk is pulled out.
    pub fn is_removed(&self) -> bool {
        self.with_disk(|disk| disk.removed)
    }

    /// Sets the size of the disk so that `bytes` are left on it.
    pub fn leave_free(&self, bytes: u64) {
        self.with_disk(|disk| disk.capacity_bytes = disk.used_bytes() + bytes);
    }

    /// Removes everything on the disk, durably. Open files go on without a name.
    pub fn wipe(&self) {
        self.with(|files, _| files.empty(self.index));
    }

    /// What the disk has done so far.
    pub fn io_counts(&self) -> DiskIoCounts {
        self.with_disk(|disk| disk.counts)
    }
}
