//! The simulated network (being built: listening is refused).

use super::executor::Life;
use super::rng::SimRng;
use super::world::World;
use std::io;
use std::net::SocketAddr;
use std::task::Waker;

/// How the network behaves.
#[derive(Clone, Debug, Default)]
pub struct NetworkOptions {}

pub(super) struct Arrival;
pub(super) struct Network;

impl Network {
    pub(super) fn new(_options: NetworkOptions, _rng: SimRng) -> Network {
        Network
    }
    pub(super) fn end(&mut self) {}
}

pub(super) fn arrive(_world: &World, _arrival: Arrival) {}
pub(super) fn crash(_world: &World, _current: Life) -> Vec<Waker> {
    Vec::new()
}

/// A listening socket.
pub struct SimListener {}
/// A connected byte stream.
pub struct SimStream {}

fn unsupported() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

impl SimListener {
    pub(crate) async fn accept(&self) -> io::Result<SimStream> {
        Err(unsupported())
    }
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        Err(unsupported())
    }
}

impl SimStream {
    pub(crate) async fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        Err(unsupported())
    }
    pub(crate) async fn write_all(&mut self, _data: &[u8]) -> io::Result<()> {
        Err(unsupported())
    }
    pub(crate) async fn write_all_vectored(&mut self, _data: &[&[u8]]) -> io::Result<()> {
        Err(unsupported())
    }
    pub(crate) async fn shutdown_write(&mut self) -> io::Result<()> {
        Err(unsupported())
    }
    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        Err(unsupported())
    }
}
