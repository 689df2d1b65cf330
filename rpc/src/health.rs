//! What is thought of a peer, from what is heard of it.
//!
//! What must hold:
//! - A peer that answers late is slow, not dead: as long as anything is heard of it in time it is not suspected.
//! - A peer that comes and goes is not trusted at once when it comes: each fall within [`HealthOptions::flap_memory`] of the
//!   one before doubles the time that it has to stay.
//! - Nothing here decides whether a peer may be asked; that is for who asks.
//!
//! Times are durations since any fixed start.

use std::time::Duration;

/// A peer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthState {
    /// Connected and prompt.
    Up,
    /// Connected, and much later with its answers than it has been: ask others first.
    Slow,
    /// Not heard of for a while, not connected yet, or back and not trusted yet.
    Suspect,
    /// Not heard of for long.
    Down,
}

impl HealthState {
    /// As metrics and logs show it.
    pub fn name(self) -> &'static str {
        match self {
            HealthState::Up => "up",
            HealthState::Slow => "slow",
            HealthState::Suspect => "suspect",
            HealthState::Down => "down",
        }
    }
}

/// When a peer is what.
#[derive(Clone, Debug)]
pub struct HealthOptions {
    /// A round trip longer than this, and than `slow_ratio` times the best seen, is slow.
    pub slow_after: Duration,
    /// See `slow_after`.
    pub slow_ratio: u32,
    /// A round trip longer than this is slow in any case.
    pub slow_always: Duration,
    /// Nothing was heard for so long: suspect.
    pub suspect_after: Duration,
    /// Nothing was heard for so long: down.
    pub down_after: Duration,
    /// How long a peer has to stay that fell a second time; doubles with each further fall.
    pub trust_after: Duration,
    /// The longest that it has to stay.
    pub trust_after_max: Duration,
    /// A fall is forgotten after so long.
    pub flap_memory: Duration,
}

impl Default for HealthOptions {
    fn default() -> HealthOptions {
        HealthOptions {
            slow_after: Duration::from_millis(20),
            slow_ratio: 8,
            slow_always: Duration::from_millis(500),
            suspect_after: Duration::from_millis(2500),
            down_after: Duration::from_secs(6),
            trust_after: Duration::from_secs(1),
            trust_after_max: Duration::from_secs(30),
            flap_memory: Duration::from_secs(120),
        }
    }
}

/// Whether anything is heard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Good,
    Quiet,
    Gone,
}

/// One peer's health.
#[derive(Debug)]
pub struct Health {
    options: HealthOptions,
    connected: bool,
    heard: Duration,
    /// A ping is under way since.
    pinged: Option<Duration>,
    /// Smoothed round trip.
    round_trip: Option<Duration>,
    best_round_trip: Option<Duration>,
    slow: bool,
    well: bool,
    falls: u32,
    fell: Duration,
    trusted_from: Duration,
}

impl Health {
    /// Of a peer of which nothing is known: suspect, and down if that stays so.
    pub fn new(options: HealthOptions, now: Duration) -> Health {
        Health {
            options,
            connected: false,
            heard: now,
            pinged: None,
            round_trip: None,
            best_round_trip: None,
            slow: false,
            well: false,
            falls: 0,
            fell: Duration::ZERO,
            trusted_from: Duration::ZERO,
        }
    }

    /// A proven connection is there.
    pub fn connected(&mut self, now: Duration) {
        self.connected = true;
        self.pinged = None;
        self.heard(now);
    }

    /// The connection is gone.
    pub fn lost(&mut self, now: Duration) {
        self.connected = false;
        self.pinged = None;
        self.look(now);
    }

    /// Anything came from the peer.
    pub fn heard(&mut self, now: Duration) {
        self.look(now);
        self.heard = self.heard.max(now);
        self.look(now);
    }

    /// A ping was sent.
    pub fn pinged(&mut self, now: Duration) {
        self.pinged.get_or_insert(now);
    }

    /// It was answered.
    pub fn answered(&mut self, now: Duration, round_trip: Duration) {
        self.pinged = None;
        self.heard(now);
        let smoothed = self.round_trip.map_or(round_trip, |before| (before * 3 + round_trip) / 4);
        self.round_trip = Some(smoothed);
        // The best is forgotten slowly: a way may change for good.
        let best =
            self.best_round_trip.map_or(round_trip, |best| best + best / 256 + Duration::from_nanos(1));
        self.best_round_trip = Some(best.min(round_trip));
        self.judge(smoothed);
    }

    /// The smoothed round trip, where one is known.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// What the peer is now.
    pub fn state(&mut self, now: Duration) -> HealthState {
        self.look(now);
        if let Some(waiting) = self.pinged.map(|since| now.saturating_sub(since)) {
            // A ping that is late tells before its answer does.
            let late = self.is_late(waiting);
            self.slow |= late;
        }
        match self.reach(now) {
            Reach::Gone => HealthState::Down,
            Reach::Quiet => HealthState::Suspect,
            Reach::Good if now < self.trusted_from => HealthState::Suspect,
            Reach::Good if self.slow => HealthState::Slow,
            Reach::Good => HealthState::Up,
        }
    }

    fn judge(&mut self, round_trip: Duration) {
        // Slow ends where half of what made it slow would not.
        self.slow = self.is_late(round_trip) || self.slow && self.is_late(round_trip * 2);
    }

    fn is_late(&self, round_trip: Duration) -> bool {
        let usual =
            self.best_round_trip.map_or(self.options.slow_always, |best| best * self.options.slow_ratio);
        round_trip > self.options.slow_always || round_trip > self.options.slow_after.max(usual)
    }

    fn reach(&self, now: Duration) -> Reach {
        let silence = now.saturating_sub(self.heard);
        if silence >= self.options.down_after {
            Reach::Gone
        } else if !self.connected || silence >= self.options.suspect_after {
            Reach::Quiet
        } else {
            Reach::Good
        }
    }

    /// Notes falls and returns.
    fn look(&mut self, now: Duration) {
        match (self.well, self.reach(now)) {
            (true, Reach::Quiet | Reach::Gone) => {
                self.well = false;
                let forgotten = now.saturating_sub(self.fell) >= self.options.flap_memory;
                self.falls = if forgotten { 1 } else { self.falls.saturating_add(1) };
                self.fell = now;
            }
            (false, Reach::Good) => {
                self.well = true;
                // One fall is a restart; the second in a row begins to look like more.
                let doubled = self.falls.checked_sub(2).map_or(Duration::ZERO, |times| {
                    self.options.trust_after.saturating_mul(1 << times.min(16))
                });
                self.trusted_from = now + doubled.min(self.options.trust_after_max);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn connected(at: Duration) -> Health {
        let mut health = Health::new(HealthOptions::default(), at);
        health.connected(at);
        health.answered(at, MS);
        health
    }

    #[test]
    fn a_peer_nothing_is_known_of_is_suspect_then_down() {
        let mut health = Health::new(HealthOptions::default(), SECOND);
        assert_eq!(health.state(2 * SECOND), HealthState::Suspect);
        assert_eq!(health.state(8 * SECOND), HealthState::Down);
        health.connected(9 * SECOND);
        assert_eq!(health.state(9 * SECOND), HealthState::Up);
    }

    #[test]
    fn late_answers_make_it_slow_and_silence_suspect_then_down() {
        let mut health = connected(SECOND);
        let mut now = SECOND;
        for _ in 0..20 {
            now += SECOND;
            health.pinged(now - 300 * MS);
            assert_eq!(health.state(now), HealthState::Slow);
            health.answered(now, 300 * MS);
            assert_eq!(health.state(now), HealthState::Slow);
        }
        for _ in 0..20 {
            now += SECOND;
            health.answered(now, MS);
        }
        assert_eq!(health.state(now), HealthState::Up);
        assert_eq!(health.state(now + 3 * SECOND), HealthState::Suspect);
        assert_eq!(health.state(now + 7 * SECOND), HealthState::Down);
    }

    #[test]
    fn a_far_peer_is_not_slow() {
        let mut health = Health::new(HealthOptions::default(), SECOND);
        health.connected(SECOND);
        for second in 1..50 {
            health.answered(second * SECOND, 80 * MS);
            assert_eq!(health.state(second * SECOND), HealthState::Up);
        }
        assert_eq!(health.round_trip(), Some(80 * MS));
    }

    #[test]
    fn a_peer_that_comes_and_goes_has_to_stay_longer_each_time() {
        let mut health = connected(SECOND);
        let mut now = SECOND;
        for expected in [0, 1, 2, 4, 8, 16, 30, 30] {
            now += SECOND;
            health.lost(now);
            assert_eq!(health.state(now), HealthState::Suspect);
            now += MS;
            health.connected(now);
            let mut waited = Duration::ZERO;
            while health.state(now) != HealthState::Up {
                now += 100 * MS;
                waited += 100 * MS;
                health.heard(now);
            }
            assert_eq!(waited, expected * SECOND);
        }
        // Long good, and all is forgotten.
        for _ in 0..200 {
            now += SECOND;
            health.heard(now);
        }
        health.lost(now);
        health.connected(now + MS);
        assert_eq!(health.state(now + MS), HealthState::Up);
    }
}
