//! What gateways are reading. Nobody can ask them, as no node knows of them: what they fetched of late counts as being read.
//!
//! What must hold: a part that a gateway goes on fetching is not freed; memory is bounded, whatever they fetch. Pure.

use buckets_env::Instant;
use buckets_ring::id::ObjectId;
use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

/// A part counts for so long after it was fetched, and for at most twice that: whoever sends it to a client that takes
/// its time comes back for the next blocks within this.
const HOLD: Duration = Duration::from_secs(60);
/// Parts remembered at a time (twice; 16 bytes each, and the table). Where more are fetched they are forgotten sooner.
const PARTS_MAX: usize = 32_768;

/// Of one core.
#[derive(Debug, Default)]
pub(crate) struct GuestReads(RefCell<Generations>);

#[derive(Debug, Default)]
struct Generations {
    since: Option<Instant>,
    current: HashSet<ObjectId>,
    before: HashSet<ObjectId>,
}

impl GuestReads {
    /// A gateway has fetched blocks of a part.
    pub(crate) fn note(&self, part: ObjectId, now: Instant) {
        let mut generations = self.0.borrow_mut();
        generations.age(now);
        generations.current.insert(part);
    }

    /// Whether a gateway may still be reading it.
    pub(crate) fn may_read(&self, part: ObjectId, now: Instant) -> bool {
        let mut generations = self.0.borrow_mut();
        generations.age(now);
        generations.current.contains(&part) || generations.before.contains(&part)
    }
}

impl Generations {
    fn age(&mut self, now: Instant) {
        let age = now.since(*self.since.get_or_insert(now));
        if age >= HOLD || self.current.len() >= PARTS_MAX {
            self.before = std::mem::take(&mut self.current);
            self.since = Some(now);
        }
        if age >= HOLD * 2 {
            self.before.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32) -> ObjectId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        ObjectId::from_bytes(bytes)
    }

    #[test]
    fn what_was_fetched_is_held_for_a_minute_and_not_for_longer_than_two() {
        for later in [0, 20, 59] {
            let reads = GuestReads::default();
            let start = Instant(7).after(Duration::from_secs(5));
            reads.note(part(1), start);
            let fetched = start.after(Duration::from_secs(later));
            reads.note(part(2), fetched);
            assert!(reads.may_read(part(2), fetched.after(HOLD)));
            assert!(!reads.may_read(part(2), fetched.after(HOLD * 2)));
            assert!(!reads.may_read(part(3), fetched));
        }
        // Nothing happened for long.
        let reads = GuestReads::default();
        reads.note(part(1), Instant(7));
        assert!(!reads.may_read(part(1), Instant(7).after(HOLD * 9)));
    }

    #[test]
    fn what_goes_on_being_fetched_is_held_for_as_long_as_that() {
        let reads = GuestReads::default();
        for seconds in (0..3600).step_by(50) {
            let now = Instant(7).after(Duration::from_secs(seconds));
            assert!(seconds == 0 || reads.may_read(part(1), now));
            reads.note(part(1), now);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let reads = GuestReads::default();
        for number in 0..10 * PARTS_MAX as u32 {
            reads.note(part(number), Instant(7));
        }
        let generations = reads.0.borrow();
        assert!(generations.current.len() + generations.before.len() <= 2 * PARTS_MAX);
        assert!(
            generations.before.contains(&part(9 * PARTS_MAX as u32))
                || generations.current.contains(&part(9 * PARTS_MAX as u32))
        );
    }
}
