//! MD5 of the bodies that one core takes in, many at once.
//!
//! MD5 cannot be computed faster than 0.7 GB/s within one body: every block needs the one before. Side by side in the
//! lanes of vector registers, several bodies take no longer than one. So stripes wait here until the tasks that can
//! run now have run, and all that have come are hashed together, [`ROUND_BYTES`] of each at a time.
//!
//! What must hold: a body's bytes are hashed once each, in order; who gives up waiting disturbs nobody.

use buckets_env::{AlignedBytes, Env};
use futures::channel::oneshot;
use md5_many::{Md5Many, Md5State};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Bodies hashed at once: twice the lanes of AVX2, which hides the latency of its instructions.
const LANES_MAX: usize = 16;
/// The library is fast where all of these have work (3.4 GB/s), and slower than one body alone where six have (0.16).
const LANES_UNIT: usize = 8;
/// Taken from each body before other tasks get a turn.
const ROUND_BYTES: usize = 16 << 10;
/// MD5's own unit.
const BLOCK_BYTES: usize = 64;

/// The hasher of one core.
#[derive(Clone)]
pub(crate) struct Md5Lanes {
    env: Env,
    waiting: Rc<RefCell<VecDeque<Job>>>,
    running: Rc<Cell<bool>>,
    engine: Md5Many,
}

/// The MD5 of a body so far.
#[derive(Clone, Copy)]
pub(crate) struct Md5 {
    state: Md5State,
    bytes: u64,
}

impl Md5 {
    pub(crate) fn new() -> Md5 {
        Md5 { state: Md5State::new(), bytes: 0 }
    }

    /// Adds bytes at once; see [`Md5Lanes::update`] for many.
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.state.update(data);
        self.bytes += data.len() as u64;
    }

    pub(crate) fn finish(&self) -> [u8; 16] {
        self.state.finalize()
    }
}

/// The next bytes of one body.
struct Job {
    md5: Md5,
    pieces: VecDeque<AlignedBytes>,
    done: oneshot::Sender<Md5>,
}

impl Job {
    /// Whole blocks at the front of what is left, after bytes that fill up or do not fill a block were hashed alone.
    fn ready(&mut self) -> usize {
        while let Some(piece) = self.pieces.front_mut() {
            let unaligned = (BLOCK_BYTES - self.md5.bytes as usize % BLOCK_BYTES) % BLOCK_BYTES;
            let alone = if piece.len() < BLOCK_BYTES { piece.len() } else { unaligned };
            if alone == 0 {
                return piece.len() / BLOCK_BYTES * BLOCK_BYTES;
            }
            self.md5.update(&piece[..alone]);
            self.took(alone);
        }
        0
    }

    fn took(&mut self, bytes: usize) {
        if let Some(piece) = self.pieces.front_mut() {
            if piece.len() == bytes {
                self.pieces.pop_front();
            } else {
                *piece = piece.slice(bytes..piece.len());
            }
        }
    }
}

impl Md5Lanes {
    pub(crate) fn new(env: Env) -> Md5Lanes {
        Md5Lanes { env, waiting: Rc::default(), running: Rc::default(), engine: Md5Many::new() }
    }

    /// Adds the pieces, in order, to a body's MD5.
    pub(crate) async fn update(&self, md5: Md5, pieces: impl IntoIterator<Item = AlignedBytes>) -> Md5 {
        let (done, after) = oneshot::channel();
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        self.waiting.borrow_mut().push_back(Job { md5, pieces, done });
        if !self.running.replace(true) {
            let lanes = self.clone();
            self.env.spawn(async move { lanes.run().await });
        }
        match after.await {
            Ok(md5) => md5,
            Err(oneshot::Canceled) => unreachable!("the hasher answers every body"),
        }
    }

    /// Hashes until nothing waits.
    async fn run(self) {
        let mut jobs: Vec<Job> = Vec::with_capacity(LANES_MAX);
        loop {
            while jobs.len() < LANES_MAX
                && let Some(job) = self.waiting.borrow_mut().pop_front()
            {
                jobs.push(job);
            }
            if jobs.is_empty() {
                self.running.set(false);
                return;
            }
            self.round(&mut jobs);
            for job in jobs.extract_if(.., |job| job.pieces.is_empty() || job.done.is_canceled()) {
                // Nobody waits where the request was given up.
                let _ = job.done.send(job.md5);
            }
            self.env.yield_if_needed().await;
        }
    }

    /// Hashes as many bytes of every job as the one with the fewest has.
    fn round(&self, jobs: &mut [Job]) {
        let shortest = jobs.iter_mut().map(Job::ready).filter(|ready| *ready > 0).min();
        let Some(bytes) = shortest.map(|shortest| shortest.min(ROUND_BYTES)) else { return };
        let mut states = [Md5State::new(); LANES_MAX];
        let mut inputs: [&[u8]; LANES_MAX] = [&[]; LANES_MAX];
        let mut lanes = 0;
        for job in jobs.iter() {
            if let Some(piece) = job.pieces.front() {
                states[lanes] = job.md5.state;
                inputs[lanes] = &piece[..bytes];
                lanes += 1;
            }
        }
        if lanes == 1 {
            states[0].update(inputs[0]);
        } else {
            // Lanes without a body repeat the first one's, for nothing.
            let all = lanes.next_multiple_of(LANES_UNIT);
            let first = inputs[0];
            inputs[lanes..all].fill(first);
            self.engine.update_many(&mut states[..all], &inputs[..all]);
        }
        let hashed = jobs.iter_mut().filter(|job| !job.pieces.is_empty());
        for (job, state) in hashed.zip(states) {
            job.md5 = Md5 { state, bytes: job.md5.bytes + bytes as u64 };
            job.took(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_env::AlignedBuf;
    use buckets_env::sim::Simulation;
    use futures::future::{join_all, select};
    use md5::Digest;
    use std::pin::pin;

    /// Bytes that follow from a seed.
    fn body(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn reference(body: &[u8]) -> [u8; 16] {
        md5::Md5::digest(body).into()
    }

    /// Cuts a body into stripes and those into pieces of odd lengths, all from the seed.
    async fn hashed(lanes: &Md5Lanes, seed: u64, body: &[u8]) -> [u8; 16] {
        let mut md5 = Md5::new();
        let stripe_bytes = 1 + (seed as usize * 7919) % 60_000;
        for stripe in body.chunks(stripe_bytes) {
            let whole = AlignedBuf::padded_copy(stripe).freeze();
            let piece_bytes = 1 + (seed as usize * 104_729) % 30_000;
            let ends = (0..stripe.len()).step_by(piece_bytes);
            let pieces = ends.map(|at| whole.slice(at..stripe.len().min(at + piece_bytes)));
            md5 = lanes.update(md5, pieces).await;
        }
        md5.finish()
    }

    #[test]
    fn any_number_of_bodies_of_any_length_come_to_their_md5() {
        let simulation = Simulation::new(1);
        let node = simulation.node("hasher");
        node.run(0, |env| async move {
            let lanes = Md5Lanes::new(env);
            for count in 1..=40 {
                let bodies: Vec<Vec<u8>> = (0..count)
                    .map(|at| body(count * 100 + at, (at as usize * 6151 * count as usize) % 70_001))
                    .collect();
                let all = bodies.iter().enumerate().map(|(at, body)| hashed(&lanes, at as u64 + count, body));
                for (body, hash) in bodies.iter().zip(join_all(all).await) {
                    assert_eq!(hash, reference(body), "{count} bodies, one of {} bytes", body.len());
                }
            }
        })
        .unwrap();
    }

    #[test]
    fn a_body_that_is_given_up_disturbs_no_other() {
        let simulation = Simulation::new(2);
        let node = simulation.node("hasher");
        node.run(0, |env| async move {
            let lanes = Md5Lanes::new(env.clone());
            let (kept, lost) = (body(1, 500_000), body(2, 500_000));
            let losing = async {
                let lost = pin!(hashed(&lanes, 3, &lost));
                select(lost, pin!(env.yield_now())).await;
            };
            let (hash, ()) = futures::join!(hashed(&lanes, 4, &kept), losing);
            assert_eq!(hash, reference(&kept));
            assert_eq!(hashed(&lanes, 5, &kept).await, reference(&kept));
        })
        .unwrap();
    }
}
