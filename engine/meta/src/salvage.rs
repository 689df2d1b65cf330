//! Reads from a group that has lost its majority, as long as half of its voters are there.
//!
//! What must hold: a salvage shows every committed entry; and while it shows rows, no leader commits anything.
//!
//! With `v` voters every commit is durable on `q = v / 2 + 1` of them. Let a round be answered by a set `S` of at
//! least `v - q + 1` voters (half of them, where `v` is even).
//!
//! 1. *`S` holds every committed entry.* The `q` holders of an entry and `S` together are more than `v`, so at least
//!    one holder `h` is in `S`. Let `x` in `S` have the newest log by (last term, last index). If the last term of
//!    `x` is that of `h`'s last entry, both got their last entries from the same leader, and `x` reaches at least as
//!    far: it holds the entry (log matching). If it is a later term, then the leader of that term held every entry
//!    committed before it (leader completeness), and `x`, which got its last entry from it, holds everything before that
//!    entry too. A damaged replica has no seat and does not answer, one that was emptied counts only where it may help to
//!    elect a leader (`crate::admission`); a log position counts entries that are not flushed yet, because their
//!    acknowledgement may be under way.
//! 2. *Nothing is committed meanwhile.* Each voter of `S` stands still for `promise` after it answered: it takes no
//!    entry, gives no vote, starts no election; and it only does so where it leads nobody and no leader was heard
//!    lately. The voters outside `S` are at most `q - 1`: none of them can commit or lead with these alone. The round
//!    counts from before it was sent, and for less time (`lease`) than a promise lasts.
//! 3. *It ends by itself.* Every round asks all voters. As soon as `q` answer, or one knows a leader, all are let go
//!    and the next election decides. Rounds end when nobody asks for rows.
//!
//! Entries that are not known to be committed are shown too: nobody reachable can tell. They are laid over the rows in
//! memory only ([`View`]) and applied by nobody. A write whose outcome its client does not know may thus be seen
//! here and be gone later; an acknowledged one never is.

use crate::error::SalvageError;
use crate::event::Event;
use crate::host::{Core, GroupHost, Seat};
use crate::members::Members;
use crate::message::{GroupBody, GroupMessage, LogPosition};
use crate::status::RowsState;
use crate::view::View;
use buckets_env::Instant;
use buckets_index::Position;
use buckets_ring::id::{DiskUuid, GroupId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Salvages of this core, and the rounds that wait for answers.
#[derive(Default)]
pub(crate) struct Salvages {
    groups: RefCell<BTreeMap<GroupId, Rc<Salvage>>>,
    rounds: RefCell<BTreeMap<u64, Rc<Round>>>,
    /// How often this core has let a group's voters go on: what was found before does not hold any more then, whichever of several
    /// salvages that began at once it was.
    thaws: RefCell<BTreeMap<GroupId, u64>>,
}

#[derive(Default)]
struct Round {
    answers: RefCell<BTreeMap<DiskUuid, LogPosition>>,
    more: Event,
}

struct Salvage {
    used: Cell<Instant>,
    found: RefCell<Found>,
}

/// What the last round showed.
#[derive(Clone)]
struct Found {
    until: Instant,
    /// [`Salvages::thaws`] when the round began.
    thaws: u64,
    newest: DiskUuid,
    last: Position,
    /// Where the newest log is on this core.
    view: Option<View>,
}

impl Salvages {
    fn thaws(&self, group: GroupId) -> u64 {
        self.thaws.borrow().get(&group).copied().unwrap_or(0)
    }

    /// An answer to a round. False where it is none of this core's.
    pub(crate) fn answered(&self, from: DiskUuid, position: LogPosition) -> bool {
        let rounds = self.rounds.borrow();
        let Some(round) = rounds.get(&position.round) else { return false };
        round.answers.borrow_mut().insert(from, position);
        round.more.happen();
        true
    }
}

impl GroupHost {
    /// Rows to read from, read-only, where the group has no majority but at least half of its voters answer. The
    /// rows hold everything that was ever acknowledged, at this moment; ask again for each request.
    pub async fn salvage(&self, group: GroupId) -> Result<View, SalvageError> {
        let core = &self.core;
        let seat = core.seats_of(group).into_iter().next().ok_or(SalvageError::NoReplica)?;
        let known = core.salvages.groups.borrow().get(&group).cloned();
        if let Some(salvage) = known {
            salvage.used.set(core.env.now());
            if let Some(outcome) = salvage.answer(core.env.now(), core.salvages.thaws(group)) {
                return outcome;
            }
        }
        let found = core.begin_salvage(&seat).await?;
        let salvage = Rc::new(Salvage { used: Cell::new(core.env.now()), found: RefCell::new(found) });
        let outcome = salvage.answer(core.env.now(), core.salvages.thaws(group));
        let outcome = outcome.unwrap_or(Err(SalvageError::Unusable));
        // Of several that began at once, one goes on.
        let first = {
            let mut groups = core.salvages.groups.borrow_mut();
            let first = !groups.contains_key(&group);
            if first {
                groups.insert(group, salvage.clone());
            }
            first
        };
        if first {
            core.env.spawn(Core::keep_salvage(core.clone(), seat, salvage));
        }
        outcome
    }

    /// True while a salvage of the group is kept by this core.
    pub fn in_salvage(&self, group: GroupId) -> bool {
        self.core.salvages.groups.borrow().contains_key(&group)
    }
}

impl Salvage {
    /// `None` where the last round does not count any more.
    fn answer(&self, now: Instant, thaws: u64) -> Option<Result<View, SalvageError>> {
        let found = self.found.borrow();
        if now >= found.until || found.thaws != thaws {
            return None;
        }
        Some(found.view.clone().ok_or(SalvageError::Elsewhere { disk: found.newest }))
    }
}

impl Core {
    /// Looks first, so that no election is disturbed, then asks all voters to stand still.
    async fn begin_salvage(self: &Rc<Core>, seat: &Rc<Seat>) -> Result<Found, SalvageError> {
        let members = seat.replica.borrow().members();
        let answers = self.salvage_round(seat, &members, false).await;
        judge(&members, &answers)?;
        self.salvage_step(seat, &members, None).await
    }

    /// One round in which voters stand still.
    async fn salvage_step(
        self: &Rc<Core>,
        seat: &Rc<Seat>,
        members: &Members,
        before: Option<Found>,
    ) -> Result<Found, SalvageError> {
        let (began, thaws) = (self.env.now(), self.salvages.thaws(seat.key.0));
        let answers = self.salvage_round(seat, members, true).await;
        let judged = judge(members, &answers).and_then(|()| {
            // A leader may count on a voter that did not stand still.
            if answers.values().all(|position| position.frozen) {
                Ok(())
            } else {
                Err(SalvageError::Majority)
            }
        });
        if let Err(error) = judged {
            self.thaw(seat, members);
            return Err(error);
        }
        let here = |disk: DiskUuid| self.seat((seat.key.0, disk)).is_some();
        let newest = answers
            .iter()
            .filter(|(_, position)| !position.joining)
            .max_by_key(|(disk, position)| {
                (position.last.term, position.last.index, position.usable, here(**disk), **disk)
            })
            .map(|(disk, position)| (*disk, position.last));
        let (newest, last) = newest.ok_or(SalvageError::TooFew { reachable: 0, needed: needed(members) })?;
        let until = began.after(self.options.lease());
        let same = before.filter(|before| before.newest == newest && before.last == last);
        let view = match (same.and_then(|before| before.view), self.seat((seat.key.0, newest))) {
            (Some(view), Some(_)) => Some(view),
            (None, Some(newest)) => {
                let replica = newest.replica.borrow();
                if replica.rows() == RowsState::Loading {
                    return Err(SalvageError::Unusable);
                }
                let unapplied = replica.unapplied().map_err(|_| SalvageError::Unusable)?;
                Some(View::with_overlay(replica.index().clone(), replica.rows_id(), unapplied))
            }
            (_, None) => None,
        };
        Ok(Found { until, thaws, newest, last, view })
    }

    /// Renews a salvage until it must end or nobody wants it any more.
    async fn keep_salvage(self: Rc<Core>, seat: Rc<Seat>, salvage: Rc<Salvage>) {
        let members = seat.replica.borrow().members();
        let group = seat.key.0;
        tracing::warn!(%group, "a group without a majority is served read-only");
        loop {
            let pause = (self.options.lease() / 2).saturating_sub(self.options.salvage_round);
            self.env.sleep(pause).await;
            if seat.is_gone() || self.env.now().since(salvage.used.get()) > self.options.salvage_idle {
                self.thaw(&seat, &members);
                break;
            }
            let before = salvage.found.borrow().clone();
            match self.salvage_step(&seat, &members, Some(before)).await {
                Ok(found) => {
                    salvage.found.replace(found);
                }
                Err(_) => break,
            }
        }
        self.salvages.groups.borrow_mut().remove(&group);
        tracing::info!(%group, "a read-only group is let go");
    }

    /// Asks all voters, and waits for their answers.
    async fn salvage_round(
        self: &Rc<Core>,
        seat: &Rc<Seat>,
        members: &Members,
        freeze: bool,
    ) -> BTreeMap<DiskUuid, LogPosition> {
        let number = self.env.random_u64();
        let round = Rc::new(Round::default());
        self.salvages.rounds.borrow_mut().insert(number, round.clone());
        let body = GroupBody::LogPositionRequest { round: number, freeze };
        self.tell_voters(seat, members, &body);
        let everyone = async {
            loop {
                let seen = round.more.seen();
                if round.answers.borrow().len() == members.voters().len() {
                    return;
                }
                round.more.after(seen).await;
            }
        };
        self.env.timeout(self.options.salvage_round, everyone).await;
        self.salvages.rounds.borrow_mut().remove(&number);
        round.answers.take()
    }

    fn thaw(self: &Rc<Core>, seat: &Seat, members: &Members) {
        *self.salvages.thaws.borrow_mut().entry(seat.key.0).or_default() += 1;
        self.tell_voters(seat, members, &GroupBody::Thaw);
    }

    fn tell_voters(self: &Rc<Core>, seat: &Seat, members: &Members, body: &GroupBody) {
        let (group, from) = seat.key;
        for to in members.voters() {
            self.send(GroupMessage { group, from, to: *to, body: body.clone() });
        }
    }
}

/// Voters that must answer.
fn needed(members: &Members) -> usize {
    members.voters().len() - members.majority() + 1
}

fn judge(members: &Members, answers: &BTreeMap<DiskUuid, LogPosition>) -> Result<(), SalvageError> {
    let reachable = members.voters().iter().filter(|disk| answers.contains_key(disk)).count();
    if reachable >= members.majority() || answers.values().any(|position| position.leader) {
        return Err(SalvageError::Majority);
    }
    let joining = answers.values().filter(|position| position.joining).count();
    if reachable - joining < needed(members) {
        return Err(SalvageError::TooFew { reachable: reachable - joining, needed: needed(members) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(number: u8) -> DiskUuid {
        DiskUuid::from_bytes([number; 16])
    }

    fn judged(voters: u8, answering: u8, leader: bool) -> Result<(), SalvageError> {
        let disks: Vec<_> = (1..=voters).map(disk).collect();
        let members = Members::of_voters(&disks).unwrap();
        let position = LogPosition {
            round: 1,
            frozen: false,
            leader,
            usable: true,
            joining: false,
            last: Position::default(),
        };
        let answers = (1..=answering).map(|number| (disk(number), position)).collect();
        judge(&members, &answers)
    }

    #[test]
    fn half_of_the_voters_is_enough_and_a_majority_is_too_much() {
        for (voters, answering, enough) in [
            (4, 1, false),
            (4, 2, true),
            (2, 1, true),
            (2, 0, false),
            (8, 4, true),
            (8, 3, false),
            (1, 0, false),
        ] {
            assert_eq!(judged(voters, answering, false).is_ok(), enough, "{answering} of {voters}");
        }
        for (voters, answering) in [(4, 3), (4, 4), (3, 2), (2, 2), (5, 3), (1, 1)] {
            assert_eq!(judged(voters, answering, false), Err(SalvageError::Majority));
        }
        // With an odd number the voters that must answer are a majority: there is nothing to salvage.
        assert!(matches!(judged(5, 2, false), Err(SalvageError::TooFew { reachable: 2, needed: 3 })));
        assert_eq!(judged(4, 2, true), Err(SalvageError::Majority));
    }
}
