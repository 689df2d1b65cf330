//! Every limit of replication, with its unit last, and the relations that must hold between them.

use std::time::Duration;

/// Largest payload of one entry, in bytes: the largest row of the index and some small ones beside it.
pub const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Longest key in a payload, in bytes.
pub const KEY_BYTES_MAX: usize = buckets_index::KEY_BYTES_MAX;
/// Longest value in a payload, in bytes.
pub const VALUE_BYTES_MAX: usize = buckets_index::VALUE_BYTES_MAX;
/// Most voters of a group: min(K + M, 2 M + 1) with K and M at most 16.
pub const VOTERS_MAX: usize = 32;

/// How long a follower that heard its leader grants no vote, in thousandths of the shortest election timeout,
/// by its own clock.
const PROMISE_PER_MILLE: u32 = 900;
/// How long a leader that a majority heard may answer reads, in thousandths of the shortest election timeout,
/// by its own clock, counted from before it asked.
const LEASE_PER_MILLE: u32 = 800;

// The clocks of two nodes may run apart by this ratio (here 12.5 %) before a lease could outlive a promise.
const _: () = assert!(LEASE_PER_MILLE < PROMISE_PER_MILLE && PROMISE_PER_MILLE < 1000);

/// The numbers that tests and the simulator change.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time between two ticks of every group. A late executor ticks late; it never catches up by ticking twice.
    pub tick: Duration,
    /// Shortest election timeout, in ticks.
    pub election_ticks_min: usize,
    /// Longest election timeout of a first try, in ticks (exclusive); a second one may take as much longer again.
    pub election_ticks_max: usize,
    /// Ticks between two heartbeats.
    pub heartbeat_ticks: usize,
    /// Entries of one append message together, in bytes.
    pub message_bytes_max: u64,
    /// Append messages to one follower that are not answered yet.
    pub inflight_messages_max: usize,
    /// Entries of one leader that are not committed yet together, in bytes.
    pub uncommitted_bytes_max: u64,
    /// Proposals of one group that are not answered yet.
    pub proposals_max: usize,
    /// Reads of one group that wait for a confirmation of leadership.
    pub reads_max: usize,
    /// Messages that wait for one replica; more are dropped.
    pub inbox_messages_max: usize,
    /// Committed entries that wait to be applied by one replica together, in bytes; above it a follower takes no
    /// more entries and a leader no more proposals.
    pub apply_backlog_bytes_max: usize,
    /// Entries applied before other tasks of the core get their turn.
    pub apply_slice_entries_max: usize,
    /// A proposal without an outcome is given up (outcome unknown).
    pub propose_timeout: Duration,
    /// A read that cannot confirm leadership is given up.
    pub read_timeout: Duration,
    /// Rows of one snapshot page together, in bytes (one row may be longer).
    pub snapshot_page_bytes: usize,
    /// Snapshots that one core serves at the same time.
    pub snapshots_served_max: usize,
    /// Snapshots that one core fetches at the same time.
    pub snapshots_fetched_max: usize,
    /// A request for a snapshot page is sent again after this time.
    pub snapshot_retry: Duration,
    /// A served snapshot that nobody asks for is let go after this time; a fetch that gets no page ends after it.
    pub snapshot_idle: Duration,
    /// A leader that is not the preferred one hands over after this time.
    pub leader_return_after: Duration,
    /// How long a replica that just started asks for votes again and again.
    pub start_period: Duration,
    /// Time between two such requests.
    pub start_campaign_every: Duration,
    /// The voter at rank `r` of the preference waits `r` times this long at the start.
    pub start_rank_delay: Duration,
    /// Answers of one round of a salvage are waited for this long.
    pub salvage_round: Duration,
    /// A salvage that nobody asks for ends after this time.
    pub salvage_idle: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            tick: Duration::from_millis(50),
            election_ticks_min: 20,
            election_ticks_max: 28,
            heartbeat_ticks: 4,
            message_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            uncommitted_bytes_max: 64 << 20,
            proposals_max: 4096,
            reads_max: 65_536,
            inbox_messages_max: 4096,
            apply_backlog_bytes_max: 64 << 20,
            apply_slice_entries_max: 64,
            propose_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5),
            snapshot_page_bytes: 512 << 10,
            snapshots_served_max: 8,
            snapshots_fetched_max: 2,
            snapshot_retry: Duration::from_millis(300),
            snapshot_idle: Duration::from_secs(10),
            leader_return_after: Duration::from_secs(5),
            start_period: Duration::from_secs(5),
            start_campaign_every: Duration::from_millis(20),
            start_rank_delay: Duration::from_millis(150),
            salvage_round: Duration::from_millis(150),
            salvage_idle: Duration::from_secs(3),
        }
    }
}

impl Options {
    /// The shortest time in which a silent leader is given up.
    pub fn election_timeout_min(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks_min).unwrap_or(u32::MAX)
    }

    /// The longest time in which a silent leader is given up.
    pub fn election_timeout_max(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks_max).unwrap_or(u32::MAX)
    }

    /// How long a replica that heard its leader grants no vote.
    pub(crate) fn promise(&self) -> Duration {
        self.election_timeout_min() * PROMISE_PER_MILLE / 1000
    }

    /// How long what a majority promised may be relied on, counted from before it was asked.
    pub(crate) fn lease(&self) -> Duration {
        self.election_timeout_min() * LEASE_PER_MILLE / 1000
    }

    /// The relations that the algorithms rely on. Panics where they do not hold.
    pub(crate) fn check(&self) {
        assert!(self.heartbeat_ticks >= 1);
        assert!(
            self.election_ticks_min > 2 * self.heartbeat_ticks,
            "a lost heartbeat must not start an election"
        );
        assert!(self.election_ticks_max > self.election_ticks_min + 4, "timeouts of voters must differ");
        assert!(self.uncommitted_bytes_max >= self.message_bytes_max);
        assert!(self.uncommitted_bytes_max >= ENTRY_BYTES_MAX as u64);
        assert!(self.salvage_round * 3 < self.lease(), "a salvage is renewed before it ends");
        assert!(self.apply_slice_entries_max > 0 && self.inflight_messages_max > 0);
    }
}
