//! The monotonic clock of a simulated node.
//!
//! What must hold: it never goes back, and a sleep never ends early by it. It may be faster or slower than
//! virtual time, as clocks of machines are.

use std::time::Duration;

use super::world::nanos;

const MILLION: u128 = 1_000_000;
/// Real clocks drift by far less; more than this would stop or double time.
const DRIFT_PPM_MAX: i32 = 500_000;

/// A clock that shows `shown` until virtual time `since`, and from then on drifts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NodeClock {
    since: u64,
    shown: u64,
    drift_ppm: i32,
}

impl NodeClock {
    pub(super) fn now(&self, world_now: u64) -> u64 {
        let passed = world_now.saturating_sub(self.since);
        if self.drift_ppm == 0 {
            return self.shown + passed;
        }
        self.shown + (u128::from(passed) * self.rate() / MILLION) as u64
    }

    /// Lets the clock gain `ppm` millionths (or lose, where negative) from now on.
    pub(super) fn set_drift(&mut self, world_now: u64, ppm: i32) {
        assert!(ppm.abs() <= DRIFT_PPM_MAX, "a clock may drift by {DRIFT_PPM_MAX} ppm at most");
        *self = NodeClock { since: world_now, shown: self.now(world_now), drift_ppm: ppm };
    }

    /// Lets the clock stand still until then.
    pub(super) fn stop(&mut self, world_now: u64, until: u64) {
        *self = NodeClock { since: until, shown: self.now(world_now), drift_ppm: self.drift_ppm };
    }

    /// Virtual nanoseconds until `duration` has passed on this clock.
    pub(super) fn virtual_nanos(&self, duration: Duration) -> u64 {
        if self.drift_ppm == 0 {
            return nanos(duration);
        }
        u64::try_from((duration.as_nanos().saturating_mul(MILLION)).div_ceil(self.rate())).unwrap_or(u64::MAX)
    }

    fn rate(&self) -> u128 {
        (1_000_000 + i64::from(self.drift_ppm)).unsigned_abs().into()
    }
}
