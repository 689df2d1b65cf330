//! Who may answer a read without asking, and who must not help a new leader yet. Pure: time comes in.
//!
//! What must hold: while one replica may answer reads by its lease, no other replica can have become the leader
//! and committed something newer.
//!
//! - A replica that processes a heartbeat (or entries) of its leader *promises*: until [`Promise::until`] by its own
//!   clock it grants no vote and starts no election, except in a leader's own transfer of leadership.
//! - A leader that starts a round at `t0` and then gets answers from a majority may answer reads until
//!   `t0 + lease`. Each of these voters promised at some moment after `t0`, for longer than the lease.
//! - A new leader needs a vote of at least one of them. So it appears after the lease ended, as long as the clocks
//!   of the two nodes do not run apart by an eighth.
//! - A promise lives in memory. So a replica that (re)starts behaves as if it had promised at that moment, unless
//!   all voters live in the process that started with it: then no older leader is left that could hold a lease.
//! - A transfer of leadership breaks promises on purpose. So a leader that once tried one in a term takes no lease
//!   in that term any more: the message that starts the election may be delayed for any time.
//!
//! The check of raft-rs itself (`check_quorum`) is not enough here: it counts ticks instead of reading a clock, and
//! forgets the leader when any message of a higher term arrives.

use buckets_env::Instant;
use std::time::Duration;

/// What a voter promised to its leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    until: Instant,
}

impl Promise {
    /// At start, `held` where an older leader may still count on this voter.
    pub(crate) fn at_start(now: Instant, promise: Duration, held: bool) -> Promise {
        Promise { until: if held { now.after(promise) } else { Instant(0) } }
    }

    /// The leader was heard.
    pub(crate) fn renew(&mut self, now: Instant, promise: Duration) {
        self.until = self.until.max(now.after(promise));
    }

    /// No vote may be granted and no election started.
    pub(crate) fn binds(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// What a leader was promised by a majority.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lease {
    term: u64,
    until: Option<Instant>,
    /// No lease in this term: a transfer was tried.
    barred_term: u64,
}

impl Lease {
    /// A round that began at `began` in `term` was answered by a majority.
    pub(crate) fn grant(&mut self, term: u64, began: Instant, lease: Duration) {
        if term == self.barred_term || term < self.term {
            return;
        }
        let until = began.after(lease);
        if term > self.term {
            *self = Lease { term, until: Some(until), barred_term: self.barred_term };
        } else {
            self.until = self.until.max(Some(until));
        }
    }

    /// Reads may be answered now by the leader of `term`.
    pub(crate) fn covers(&self, term: u64, now: Instant) -> bool {
        self.term == term && self.until.is_some_and(|until| now < until)
    }

    /// More than half of a lease's time has gone.
    pub(crate) fn wants_renewal(&self, term: u64, now: Instant, lease: Duration) -> bool {
        !self.covers(term, now.after(lease / 2))
    }

    /// No lease is ever granted in `term` (any more).
    pub(crate) fn bar(&mut self, term: u64) {
        self.barred_term = term;
        self.end();
    }

    /// Nothing is answered by this lease any more.
    pub(crate) fn end(&mut self) {
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_nanos(800);
    const PROMISE: Duration = Duration::from_nanos(900);

    #[test]
    fn a_lease_counts_from_the_beginning_of_the_round() {
        let mut lease = Lease::default();
        assert!(!lease.covers(0, Instant(0)));
        lease.grant(3, Instant(1000), LEASE);
        assert!(lease.covers(3, Instant(1799)));
        assert!(!lease.covers(3, Instant(1800)));
        assert!(!lease.covers(4, Instant(1100)) && !lease.covers(2, Instant(1100)));
        assert!(!lease.wants_renewal(3, Instant(1399), LEASE));
        assert!(lease.wants_renewal(3, Instant(1400), LEASE));
    }

    #[test]
    fn an_older_round_takes_nothing_away() {
        let mut lease = Lease::default();
        lease.grant(3, Instant(1000), LEASE);
        lease.grant(3, Instant(900), LEASE);
        lease.grant(2, Instant(5000), LEASE);
        assert!(lease.covers(3, Instant(1799)) && !lease.covers(2, Instant(5001)));
    }

    #[test]
    fn a_term_with_a_transfer_has_no_lease() {
        let mut lease = Lease::default();
        lease.grant(3, Instant(1000), LEASE);
        lease.bar(3);
        assert!(!lease.covers(3, Instant(1001)));
        lease.grant(3, Instant(1100), LEASE);
        assert!(!lease.covers(3, Instant(1101)));
        lease.grant(4, Instant(1200), LEASE);
        assert!(lease.covers(4, Instant(1201)));
    }

    #[test]
    fn a_restarted_voter_holds_its_vote() {
        assert!(!Promise::at_start(Instant(5), PROMISE, false).binds(Instant(5)));
        let mut promise = Promise::at_start(Instant(5), PROMISE, true);
        assert!(promise.binds(Instant(904)) && !promise.binds(Instant(905)));
        promise.renew(Instant(1000), PROMISE);
        promise.renew(Instant(990), PROMISE);
        assert!(promise.binds(Instant(1899)) && !promise.binds(Instant(1900)));
    }
}
