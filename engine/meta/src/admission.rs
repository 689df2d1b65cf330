//! When a replica may vote: at the beginning of a group, and after its disk was emptied.
//!
//! What must hold: no voter breaks a promise that it cannot remember. A replica whose store says nothing is *blank*: a new
//! group's, or one whose disk was replaced under its old identity and that may have voted and acknowledged entries in the
//! life before. It hears nothing of the consensus until *every* other voter has told how it stands, in one round that began
//! in this life.
//!
//! - **Founding.** Where every other voter is blank or founding, nobody has ever asked for a vote: the replica notes
//!   durably that it is founding, and votes once all have noted that, or one already votes. For those that do not come it waits some
//!   seconds; then a majority is enough. Whoever is blank later counts as emptied, which is right for one that was, and costs
//!   one that never began nothing but the detour.
//! - **Joining.** Else the group has a history. Let `floor` be the highest term that any voter (this one included) told of,
//!   and `reach` the end of the newest log, by (term, index), of those who forgot nothing. These must be at least
//!   `v - q + 1` of `v` voters, `q` being a majority: then one of them holds each entry that was ever committed, or its
//!   leader does (the argument of `crate::salvage`). The replica goes on in term `floor + 1`, takes entries, and votes *as if its own log
//!   ended at `reach`*: only for logs that end there or later. It neither asks for votes nor counts for a salvage before its own log
//!   ends there, from when on it is a voter like others.
//!
//! Why that is safe, for a voter `n` that was emptied:
//! 1. *No second vote in a term, no acknowledgement that stands for nothing.* Whoever asked `n` for a vote, or counts an
//!    entry as acknowledged by `n`, in the life before, did so as candidate or leader of a term that it had noted durably
//!    before `n` heard of it. It either answered the round, so that its term is at most `floor`, or was emptied itself and counts
//!    nothing any more. What `n` does now is done in terms above `floor`.
//! 2. *Entries that were committed with `n`'s help stay.* Let `e` be one of term `t`, and take the first leader `l` of a later
//!    term that lacks it. A voter that had acknowledged `e` in the life it votes in does not vote for `l` (Raft). So all voters of `l` that
//!    had acknowledged `e` were emptied in between. Take one: at its round some voter that forgot nothing held `e`, or
//!    the leader of `t` did, which is how `e` gets committed later at all. So the log that ended at `reach` held `e`, or was of a
//!    term between, whose leader held `e` (`l` is the first that lacks it). A log that ends at `reach` or later holds it too.
//! 3. *A crash while joining.* The note of joining stands where the vote of a term would, and goes with the first hard state that is
//!    written once the log ends at `reach`, behind those entries. Until then a start asks again, and `floor` covers all terms it voted in.

use crate::message::{Stage, Standing};
use buckets_disk::HardState;
use buckets_env::Instant;
use buckets_index::Position;
use buckets_ring::id::DiskUuid;
use std::collections::BTreeMap;
use std::time::Duration;

/// Stands where a vote would, while the replica joins (or founds, in term 0). No disk has this number but by a chance of 2^-64, and
/// such a disk's vote would cost a round of asking.
pub(crate) const JOINING_NOTE: u64 = u64::MAX;

/// So often the others are asked in the first seconds, and later.
const ASK_EVERY: Duration = Duration::from_millis(50);
const ASK_EVERY_LATER: Duration = Duration::from_secs(1);
const EAGER: Duration = Duration::from_secs(5);

/// What the answers of a round allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Some have not answered, or too many were emptied: nothing yet.
    Wait,
    /// To note durably; then ask again.
    Found,
    /// To vote from now on.
    Vote,
    /// To go on in this term as a voter that joins.
    Join {
        /// Above every term of which its life before may have known.
        term: u64,
        /// Votes go to logs that end here or later.
        reach: Position,
    },
}

/// Of one replica.
pub(crate) struct Admission {
    stage: Stage,
    /// Known once the others have told; see the module.
    reach: Option<Position>,
    /// When it came to be at this stage.
    began: Instant,
    ask_at: Instant,
    round: u64,
    answers: BTreeMap<DiskUuid, Standing>,
}

impl Admission {
    /// By what the store holds. A group of one has nobody who could know better.
    pub(crate) fn at_start(stored: HardState, last_index: u64, others: usize, now: Instant) -> Admission {
        let stage = match (stored.term, stored.vote) {
            _ if others == 0 => Stage::Voting,
            (0, JOINING_NOTE) => Stage::Founding,
            (_, JOINING_NOTE) => Stage::Joining,
            (0, 0) if last_index == 0 => Stage::Blank,
            _ => Stage::Voting,
        };
        Admission { stage, reach: None, began: now, ask_at: now, round: 0, answers: BTreeMap::new() }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// A voter like others.
    pub(crate) fn is_voting(&self) -> bool {
        self.stage == Stage::Voting
    }

    /// Takes part in the consensus, be it with less than a whole vote.
    pub(crate) fn takes_part(&self) -> bool {
        self.is_voting() || self.reach.is_some()
    }

    /// May a candidate whose log ends at `last` have this voter's vote, as far as the life before is concerned?
    pub(crate) fn may_vote_for(&self, last: Position) -> bool {
        self.is_voting() || self.reach.is_some_and(|reach| is_at_least(last, reach))
    }

    /// The number of the round to ask everybody in, where it is time to.
    pub(crate) fn ask(&mut self, now: Instant, random: impl FnOnce() -> u64) -> Option<u64> {
        if self.takes_part() || now < self.ask_at {
            return None;
        }
        let is_early = now.since(self.began) < EAGER;
        self.ask_at = now.after(if is_early { ASK_EVERY } else { ASK_EVERY_LATER });
        self.answers.clear();
        self.round = random();
        Some(self.round)
    }

    /// An answer. What all of them allow, once they are complete.
    pub(crate) fn answered(
        &mut self,
        from: DiskUuid,
        standing: Standing,
        own_term: u64,
        voters: &[DiskUuid],
        now: Instant,
    ) -> Verdict {
        if self.takes_part() || standing.round != self.round || !voters.contains(&from) {
            return Verdict::Wait;
        }
        self.answers.insert(from, standing);
        let is_complete = self.answers.len() + 1 == voters.len();
        // Who founds has forgotten nothing, and need not hear all.
        if !is_complete && self.stage != Stage::Founding {
            return Verdict::Wait;
        }
        let is_patient = now.since(self.began) < EAGER;
        let verdict = judge(self.stage, own_term, self.answers.values(), voters.len(), is_patient);
        if verdict == Verdict::Wait && !is_complete {
            return Verdict::Wait;
        }
        // What allows something is judged once.
        self.round = 0;
        self.answers.clear();
        verdict
    }

    /// Who has not answered the round that is under way.
    pub(crate) fn awaits<'a>(&'a self, voters: &'a [DiskUuid]) -> impl Iterator<Item = DiskUuid> + 'a {
        let is_asking = !self.takes_part();
        voters.iter().filter(move |disk| is_asking && !self.answers.contains_key(disk)).copied()
    }

    /// The note of founding is durable.
    pub(crate) fn founding(&mut self, now: Instant) {
        if self.stage == Stage::Blank {
            self.stage = Stage::Founding;
            // The others have only just been heard, too.
            (self.began, self.ask_at) = (now, now);
        }
    }

    pub(crate) fn join(&mut self, reach: Position) {
        self.stage = Stage::Joining;
        self.reach = Some(reach);
    }

    pub(crate) fn vote(&mut self) {
        self.stage = Stage::Voting;
        self.reach = None;
    }

    /// It joins, and its own log ends where others' did.
    pub(crate) fn has_caught_up(&self, last: Position) -> bool {
        self.stage == Stage::Joining && self.may_vote_for(last)
    }
}

fn is_at_least(last: Position, reach: Position) -> bool {
    (last.term, last.index) >= (reach.term, reach.index)
}

fn judge<'a>(
    own: Stage,
    own_term: u64,
    others: impl Iterator<Item = &'a Standing> + Clone,
    voters: usize,
    is_patient: bool,
) -> Verdict {
    let any = |stages: &[Stage]| others.clone().any(|standing| stages.contains(&standing.stage));
    let has_history = any(&[Stage::Joining, Stage::Voting]);
    let founding = others.clone().filter(|standing| standing.stage == Stage::Founding).count();
    match own {
        Stage::Voting => Verdict::Wait,
        // It has never voted, as nobody had when it noted that.
        Stage::Founding if has_history => Verdict::Vote,
        Stage::Founding if founding + 1 == voters => Verdict::Vote,
        Stage::Founding if !is_patient && founding + 1 > voters / 2 => Verdict::Vote,
        Stage::Founding => Verdict::Wait,
        Stage::Blank if !has_history => Verdict::Found,
        Stage::Blank | Stage::Joining => {
            let remembers = |standing: &&Standing| matches!(standing.stage, Stage::Founding | Stage::Voting);
            let majority = voters / 2 + 1;
            if others.clone().filter(remembers).count() < voters - majority + 1 {
                return Verdict::Wait;
            }
            let floor = others.clone().map(|standing| standing.term).fold(own_term, u64::max);
            let newest = others.filter(remembers).map(|standing| standing.last);
            let reach = newest.max_by_key(|last| (last.term, last.index)).unwrap_or_default();
            Verdict::Join { term: floor + 1, reach }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(stage: Stage, term: u64, last: (u64, u64)) -> Standing {
        Standing { round: 7, stage, term, last: Position { term: last.0, index: last.1 } }
    }

    fn judged(own: Stage, others: &[Standing]) -> Verdict {
        judge(own, 0, others.iter(), others.len() + 1, true)
    }

    const BLANK: (Stage, u64, (u64, u64)) = (Stage::Blank, 0, (0, 0));

    #[test]
    fn a_group_is_founded_only_by_all_of_its_voters() {
        let blank = standing(BLANK.0, BLANK.1, BLANK.2);
        let founding = standing(Stage::Founding, 0, (0, 0));
        assert_eq!(judged(Stage::Blank, &[blank, blank]), Verdict::Found);
        assert_eq!(judged(Stage::Blank, &[blank, founding]), Verdict::Found);
        assert_eq!(judged(Stage::Founding, &[blank, blank]), Verdict::Wait);
        assert_eq!(judged(Stage::Founding, &[blank, founding]), Verdict::Wait);
        assert_eq!(judged(Stage::Founding, &[founding, founding]), Verdict::Vote);
        // Not for ever.
        let later = |others: &[Standing]| judge(Stage::Founding, 0, others.iter(), others.len() + 1, false);
        assert_eq!(later(&[blank, founding]), Verdict::Vote);
        assert_eq!([later(&[blank]), later(&[blank, blank])], [Verdict::Wait; 2]);
        // The others were quicker.
        assert_eq!(judged(Stage::Founding, &[standing(Stage::Voting, 3, (3, 9)), blank]), Verdict::Vote);
    }

    #[test]
    fn an_emptied_voter_joins_above_every_term_and_behind_every_log() {
        let joined =
            judged(Stage::Blank, &[standing(Stage::Voting, 5, (5, 80)), standing(Stage::Voting, 6, (4, 90))]);
        assert_eq!(joined, Verdict::Join { term: 7, reach: Position { term: 5, index: 80 } });
        // Half of the voters are enough where each commit was on more than half.
        let mirror = judged(Stage::Blank, &[standing(Stage::Voting, 5, (5, 80))]);
        assert_eq!(mirror, Verdict::Join { term: 6, reach: Position { term: 5, index: 80 } });
        // Terms in which it voted while it joined count too.
        let again = judge(Stage::Joining, 9, [standing(Stage::Voting, 5, (5, 80))].iter(), 2, true);
        assert_eq!(again, Verdict::Join { term: 10, reach: Position { term: 5, index: 80 } });
    }

    #[test]
    fn where_too_many_were_emptied_nobody_joins() {
        let blank = standing(BLANK.0, BLANK.1, BLANK.2);
        let voting = standing(Stage::Voting, 5, (5, 80));
        let joining = standing(Stage::Joining, 6, (6, 90));
        assert_eq!(judged(Stage::Blank, &[voting, blank]), Verdict::Wait);
        assert_eq!(judged(Stage::Blank, &[voting, joining]), Verdict::Wait);
        assert_eq!(judged(Stage::Blank, &[joining, joining]), Verdict::Wait);
        assert!(matches!(judged(Stage::Blank, &[voting, voting, joining]), Verdict::Join { term: 7, .. }));
    }

    #[test]
    fn answers_of_another_round_and_of_strangers_do_not_count() {
        let disk = |number: u8| DiskUuid::from_bytes([number; 16]);
        let voters = [disk(1), disk(2), disk(3)];
        let mut admission = Admission::at_start(HardState::default(), 0, 2, Instant(0));
        assert!(!admission.takes_part() && admission.stage() == Stage::Blank);
        assert_eq!(admission.ask(Instant(0), || 7), Some(7));
        assert_eq!(admission.ask(Instant(1), || 8), None);
        let voting = standing(Stage::Voting, 5, (5, 80));
        let late = Standing { round: 6, ..voting };
        for (from, standing) in [(disk(2), voting), (disk(2), voting), (disk(3), late), (disk(4), voting)] {
            assert_eq!(admission.answered(from, standing, 0, &voters, Instant(1)), Verdict::Wait);
        }
        assert_eq!(admission.awaits(&voters).collect::<Vec<_>>(), [disk(1), disk(3)]);
        let reach = Position { term: 5, index: 80 };
        assert_eq!(
            admission.answered(disk(3), voting, 0, &voters, Instant(1)),
            Verdict::Join { term: 6, reach }
        );
        admission.join(reach);
        assert!(admission.takes_part() && !admission.is_voting());
        assert!(!admission.may_vote_for(Position { term: 4, index: 99 }));
        assert!(admission.may_vote_for(reach) && admission.may_vote_for(Position { term: 6, index: 1 }));
        assert!(!admission.has_caught_up(Position { term: 5, index: 79 }) && admission.has_caught_up(reach));
    }
}
