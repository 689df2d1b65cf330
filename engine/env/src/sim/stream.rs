//! Listeners and streams over the simulated network.
//!
//! What must hold: a dropped stream closes its end, also amid an operation; nothing of a crashed node's sockets
//! goes on.

use super::disk_io::never;
use super::env::SimEnv;
use super::executor::Life;
use super::net::{Attempt, EndKey, node_at};
use super::world::{World, nanos};
use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Time between two attempts to connect over a cut link, in milliseconds.
const CONNECT_RETRY_MS: u64 = 500;

fn wake_all(wakes: Vec<Waker>) {
    for waker in wakes {
        waker.wake();
    }
}

/// A listening socket of one simulated core.
pub struct SimListener {
    world: Rc<World>,
    life: Life,
    listener: u32,
}

impl SimListener {
    pub(super) fn bind(env: &SimEnv, address: SocketAddr) -> io::Result<SimListener> {
        let SimEnv { world, life, .. } = env;
        if !world.is_alive(*life) {
            return Err(ErrorKind::NotConnected.into());
        }
        let listener = world.network.borrow_mut().listen(*life, address)?;
        Ok(SimListener { world: world.clone(), life: *life, listener })
    }

    pub(crate) async fn accept(&self) -> io::Result<SimStream> {
        let end = std::future::poll_fn(|cx| {
            if !self.world.is_alive(self.life) {
                self.world.assert_not_driving(self.life);
                return Poll::Pending;
            }
            poll_of(self.world.network.borrow_mut().accept(self.listener, cx.waker()))
        })
        .await?;
        Ok(SimStream::new(&self.world, self.life, end))
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        let network = self.world.network.borrow();
        network.listener_address(self.listener).ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.world.network.borrow_mut().close_listener(&self.world, self.listener);
    }
}

fn poll_of<T>(attempt: Attempt<T>) -> Poll<io::Result<T>> {
    match attempt {
        Attempt::Done(value) => Poll::Ready(Ok(value)),
        Attempt::Wait => Poll::Pending,
        Attempt::Failed(kind) => Poll::Ready(Err(kind.into())),
    }
}

/// One end of a connection between simulated nodes.
pub struct SimStream {
    reading: SimReadHalf,
    writing: SimWriteHalf,
}

/// What reads of one end.
pub struct SimReadHalf {
    end: Rc<OpenEnd>,
}

/// What writes to one end.
pub struct SimWriteHalf {
    end: Rc<OpenEnd>,
}

/// Closed when its last handle is dropped.
struct OpenEnd {
    world: Rc<World>,
    life: Life,
    key: EndKey,
    /// Another core has it now.
    detached: Cell<bool>,
}

impl Drop for OpenEnd {
    fn drop(&mut self) {
        // A crash has closed the ends of the lives it ended.
        if self.world.is_alive(self.life) && !self.detached.get() {
            self.world.network.borrow_mut().close(&self.world, self.key);
        }
    }
}

/// An end on its way to another core.
pub struct SimDetached {
    life: Life,
    key: EndKey,
    left: Arc<LeftEnds>,
    attached: bool,
}

impl Drop for SimDetached {
    fn drop(&mut self) {
        if !self.attached {
            self.left.ends.lock().unwrap_or_else(PoisonError::into_inner).push((self.life, self.key));
        }
    }
}

/// Detached ends that nobody attached; the world closes them after the poll in which they were dropped.
#[derive(Default)]
pub(super) struct LeftEnds {
    ends: Mutex<Vec<(Life, EndKey)>>,
}

impl LeftEnds {
    pub(super) fn close(&self, world: &World) {
        let left = std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner));
        for (life, key) in left {
            if world.is_alive(life) {
                world.network.borrow_mut().close(world, key);
            }
        }
    }
}

impl SimStream {
    fn new(world: &Rc<World>, life: Life, key: EndKey) -> SimStream {
        let end = Rc::new(OpenEnd { world: world.clone(), life, key, detached: Cell::new(false) });
        SimStream { reading: SimReadHalf { end: end.clone() }, writing: SimWriteHalf { end } }
    }

    /// Connects to `to`: refused where nobody listens, timed out where a link on the way stays cut.
    pub(super) async fn connect(env: &SimEnv, to: SocketAddr) -> io::Result<SimStream> {
        let SimEnv { world, life, .. } = env;
        if !world.is_alive(*life) {
            return never(world, *life).await;
        }
        let here = life.node;
        let there = if to.ip().is_loopback() { Some(here) } else { node_at(to.ip()) };
        let deadline = world.now().saturating_add(nanos(world.network.borrow().options().connect_timeout));
        loop {
            if let Some(there) = there.filter(|there| (*there as usize) < world.nodes.borrow().len()) {
                let delay = world.network.borrow_mut().draw_delay(here, there);
                env.sleep(Duration::from_nanos(delay)).await;
                let cut = {
                    let network = world.network.borrow();
                    network.is_cut(here, there) || network.is_cut(there, here)
                };
                if !cut {
                    let mut wakes = Vec::new();
                    let end = world.network.borrow_mut().connect(*life, to, &mut wakes);
                    wake_all(wakes);
                    let stream = end.map(|end| SimStream::new(world, *life, end));
                    let delay = world.network.borrow_mut().draw_delay(there, here);
                    env.sleep(Duration::from_nanos(delay)).await;
                    return Ok(stream?);
                }
            }
            if world.now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            env.sleep(Duration::from_millis(CONNECT_RETRY_MS)).await;
        }
    }

    pub(crate) fn split(self) -> (SimReadHalf, SimWriteHalf) {
        (self.reading, self.writing)
    }

    pub(crate) fn detach(self) -> SimDetached {
        let OpenEnd { world, life, key, detached } = &*self.reading.end;
        detached.set(true);
        SimDetached { life: *life, key: *key, left: world.left_ends.clone(), attached: false }
    }

    pub(super) fn attach(env: &SimEnv, mut detached: SimDetached) -> SimStream {
        assert!(Arc::ptr_eq(&detached.left, &env.world.left_ends), "a stream does not change worlds");
        assert_eq!(detached.life.node, env.life.node, "a stream does not change nodes");
        detached.attached = true;
        SimStream::new(&env.world, detached.life, detached.key)
    }

    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reading.read(buf).await
    }

    pub(crate) async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.writing.write_all(data).await
    }

    pub(crate) async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        self.writing.write_all_vectored(data).await
    }

    pub(crate) async fn shutdown_write(&mut self) -> io::Result<()> {
        self.writing.shutdown_write().await
    }

    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        let OpenEnd { world, key, .. } = &*self.reading.end;
        world.network.borrow_mut().peer_address(*key).ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl SimReadHalf {
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let OpenEnd { world, life, key, .. } = &*self.end;
        std::future::poll_fn(|cx| {
            if !world.is_alive(*life) {
                world.assert_not_driving(*life);
                return Poll::Pending;
            }
            let mut wakes = Vec::new();
            let attempt = world.network.borrow_mut().read(*key, buf, cx.waker(), &mut wakes);
            wake_all(wakes);
            poll_of(attempt)
        })
        .await
    }
}

impl SimWriteHalf {
    pub(crate) async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let OpenEnd { world, life, key, .. } = &*self.end;
        let mut sent = 0;
        std::future::poll_fn(|cx| {
            if !world.is_alive(*life) {
                world.assert_not_driving(*life);
                return Poll::Pending;
            }
            while sent < data.len() {
                let mut network = world.network.borrow_mut();
                match network.write(world, *key, &data[sent..], cx.waker()) {
                    Attempt::Done(part) => sent += part,
                    Attempt::Wait => return Poll::Pending,
                    Attempt::Failed(kind) => return Poll::Ready(Err(kind.into())),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    pub(crate) async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        for slice in data {
            self.write_all(slice).await?;
        }
        Ok(())
    }

    pub(crate) async fn shutdown_write(&mut self) -> io::Result<()> {
        let OpenEnd { world, life, key, .. } = &*self.end;
        if !world.is_alive(*life) {
            return never(world, *life).await;
        }
        Ok(world.network.borrow_mut().shutdown_write(world, *key)?)
    }
}
