//! What clients asked of each key and what they were answered, and whether any order explains it.
//!
//! What must hold: every operation is written down before it begins, so that a crash leaves it without an answer; an
//! operation without an answer may have taken effect, until the first read of a later life of the node is answered, or
//! not at all; what was refused has not happened; a read without a majority of voters may also show an operation that
//! has no answer yet and that is not there later.

use super::Content;
use buckets_engine::object::api::WriteCondition;
use md5::{Digest, Md5};
use std::collections::{BTreeMap, HashSet};

/// The version of a key that a content makes, by the content's seed.
pub(crate) type Version = u64;

/// What an operation did, or would do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Did {
    /// Wrote a version where the condition held.
    Put { version: Version, condition: WriteCondition },
    /// Removed what was there, if anything, where the condition held.
    Delete { condition: WriteCondition },
    /// Was refused for its condition: with an object there, or without.
    Refused { condition: WriteCondition, there: bool },
    /// Saw this version.
    Read(Option<Version>),
    /// Saw a version of this ETag and length.
    Listed(Option<(String, u64)>),
}

/// One operation, with its place in the order of all beginnings and answers.
#[derive(Clone, Debug)]
struct Op {
    began: u64,
    ended: Option<u64>,
    /// Without an answer: not later than this.
    settled: Option<u64>,
    /// The life of the node in which it began.
    life: u32,
    /// A read that may show what is not there later.
    loose: bool,
    did: Did,
}

/// The name of an operation that has begun.
pub(crate) struct Begun {
    key: String,
    at: usize,
}

/// All operations of a run.
#[derive(Default)]
pub(crate) struct History {
    clock: u64,
    keys: BTreeMap<String, Vec<Op>>,
    versions: BTreeMap<Version, (String, u64)>,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The next content's seed, and its ETag and length remembered.
    pub(crate) fn new_version(&mut self, content: Content, multipart: bool) {
        let mut md5: [u8; 16] = Md5::digest(content.bytes()).into();
        let mut etag = hex(&md5);
        if multipart {
            md5 = Md5::digest(md5).into();
            etag = format!("{}-1", hex(&md5));
        }
        let before = self.versions.insert(content.seed, (etag, content.len));
        assert!(before.is_none(), "a content is written once");
    }

    /// The ETag of a version.
    pub(crate) fn etag(&self, version: Version) -> Option<String> {
        self.versions.get(&version).map(|(etag, _)| etag.clone())
    }

    /// An operation that may change something begins.
    pub(crate) fn begin(&mut self, life: u32, key: &str, did: Did) -> Begun {
        let began = self.tick();
        let ops = self.keys.entry(key.to_owned()).or_default();
        ops.push(Op { began, ended: None, settled: None, life, loose: false, did });
        Begun { key: key.to_owned(), at: ops.len() - 1 }
    }

    fn op(&mut self, begun: &Begun) -> &mut Op {
        match self.keys.get_mut(&begun.key).and_then(|ops| ops.get_mut(begun.at)) {
            Some(op) => op,
            None => unreachable!("it has begun"),
        }
    }

    /// It took effect.
    pub(crate) fn done(&mut self, begun: &Begun) {
        let now = self.tick();
        self.op(begun).ended = Some(now);
    }

    /// It was refused for its condition.
    pub(crate) fn refused(&mut self, begun: &Begun, there: bool) {
        let now = self.tick();
        let op = self.op(begun);
        op.ended = Some(now);
        op.did = match &op.did {
            Did::Put { condition, .. } | Did::Delete { condition } => {
                assert_ne!(*condition, WriteCondition::Always, "{}: no condition can fail", begun.key);
                Did::Refused { condition: condition.clone(), there }
            }
            _ => unreachable!("only writes have conditions"),
        };
    }

    /// It has not happened, and will not.
    pub(crate) fn nothing(&mut self, begun: &Begun) {
        let op = self.op(begun);
        // Settled before it began.
        op.settled = Some(0);
    }

    /// The time of a read's beginning.
    pub(crate) fn now(&mut self) -> u64 {
        self.tick()
    }

    /// A read that began at `began` is answered.
    pub(crate) fn saw(&mut self, life: u32, key: &str, began: u64, did: Did, loose: bool) {
        let now = self.tick();
        let ops = self.keys.entry(key.to_owned()).or_default();
        if !loose {
            // What was under way when the node crashed has happened by now or never will.
            for op in ops.iter_mut().filter(|op| op.life < life && op.ended.is_none()) {
                op.settled.get_or_insert(now);
            }
        }
        ops.push(Op { began, ended: Some(now), settled: None, life, loose, did });
    }

    /// Panics where no order of the operations on a key explains what was seen.
    pub(crate) fn check(&self) {
        for (key, ops) in &self.keys {
            if !Search::new(ops, &self.versions).is_explained() {
                self.show(key, ops);
                panic!("{key}: no order of its operations explains what was seen");
            }
        }
    }

    /// Shows the operations of a key up to the first answer that does not fit.
    fn show(&self, key: &str, ops: &[Op]) {
        let mut ends: Vec<u64> = ops.iter().filter_map(|op| op.ended).collect();
        ends.sort_unstable();
        let until = |end: u64| {
            let begun = ops.iter().filter(|op| op.began < end).cloned();
            // What is answered later may have happened by then, or not.
            let cut = |mut op: Op| {
                op.ended = op.ended.filter(|ended| *ended <= end);
                let is_write = matches!(op.did, Did::Put { .. } | Did::Delete { .. });
                (op.ended.is_some() || is_write).then_some(op)
            };
            begun.filter_map(cut).collect::<Vec<Op>>()
        };
        let first = ends.partition_point(|end| Search::new(&until(*end), &self.versions).is_explained());
        let mut shown = until(ends.get(first).copied().unwrap_or(u64::MAX));
        shown.retain(|op| op.settled != Some(0));
        shown.sort_by_key(|op| (op.ended.is_none(), op.ended, op.began));
        for op in &shown {
            let version = match &op.did {
                Did::Put { version, .. } | Did::Read(Some(version)) => self.versions.get(version),
                _ => None,
            };
            eprintln!("{key}: {op:?} {}", version.map_or("", |(etag, _)| etag));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Most answered operations of one key, and most without an answer.
const OPS_MAX: usize = 512;
const OPEN_MAX: usize = 128;

/// Operations that took effect.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Done {
    /// The answered ones before this all did.
    first: usize,
    behind: [u64; OPS_MAX / 64],
    open: u128,
}

impl Done {
    fn has(&self, op: usize) -> bool {
        op < self.first || self.behind[op / 64] >> (op % 64) & 1 == 1
    }

    fn with(&self, op: usize) -> Done {
        let mut done = self.clone();
        done.behind[op / 64] |= 1 << (op % 64);
        while done.first < OPS_MAX && done.behind[done.first / 64] >> (done.first % 64) & 1 == 1 {
            done.first += 1;
        }
        done
    }
}

/// The search of Wing and Gong, with a memory of what was tried.
struct Search<'a> {
    /// Answered, by beginning.
    ops: Vec<&'a Op>,
    /// Without an answer.
    open: Vec<&'a Op>,
    versions: &'a BTreeMap<Version, (String, u64)>,
}

impl<'a> Search<'a> {
    fn new(all: &'a [Op], versions: &'a BTreeMap<Version, (String, u64)>) -> Search<'a> {
        let mut ops: Vec<&Op> = all.iter().filter(|op| op.ended.is_some()).collect();
        ops.sort_by_key(|op| op.began);
        let open: Vec<&Op> = all.iter().filter(|op| op.ended.is_none() && op.settled != Some(0)).collect();
        assert!(ops.len() <= OPS_MAX && open.len() <= OPEN_MAX, "too many operations for the search");
        Search { ops, open, versions }
    }

    fn is_explained(&self) -> bool {
        let mut tried: HashSet<(Done, Option<Version>)> = HashSet::new();
        let none = Done { first: 0, behind: [0; OPS_MAX / 64], open: 0 };
        let mut ways = vec![(none, None)];
        while let Some((done, state)) = ways.pop() {
            if done.first == self.ops.len() {
                return true;
            }
            if tried.insert((done.clone(), state)) {
                self.next(&done, state, &mut ways);
            }
        }
        false
    }

    /// What may come next; the last is to be tried first.
    fn next(&self, done: &Done, state: Option<Version>, ways: &mut Vec<(Done, Option<Version>)>) {
        // An operation may come next only if none that is left ended before it began.
        let mut first_end = u64::MAX;
        let mut left = Vec::new();
        let mut last_began = 0;
        for (at, op) in self.ops.iter().enumerate().skip(done.first) {
            if done.has(at) {
                last_began = last_began.max(op.began);
            } else if op.began <= first_end {
                first_end = first_end.min(op.ended.unwrap_or(u64::MAX));
                left.push(at);
            }
        }
        if let Some(before) = done.first.checked_sub(1) {
            last_began = last_began.max(self.ops[before].began);
        }
        let may_be = |op: &Op| op.settled.is_none_or(|settled| last_began <= settled);
        for (at, op) in self.open.iter().enumerate() {
            let is_left = done.open >> at & 1 == 0 && op.began <= first_end && may_be(op);
            if is_left && let Some(after) = self.effect(op, state) {
                let mut done = done.clone();
                done.open |= 1 << at;
                ways.push((done, after));
            }
        }
        for at in left.into_iter().rev().filter(|at| self.ops[*at].began <= first_end) {
            let op = self.ops[at];
            // What is seen loosely may come of any operation without an answer, and goes again.
            let shows = |open: &&Op| {
                let is_due = open.settled.is_none_or(|settled| op.began <= settled);
                open.began <= first_end && is_due && self.sees(&op.did, self.would_leave(open))
            };
            if let Some(after) = self.effect(op, state) {
                ways.push((done.with(at), after));
            } else if op.loose && self.open.iter().any(shows) {
                ways.push((done.with(at), state));
            }
        }
    }

    /// What an operation leaves; `None` where it can not have happened here.
    fn effect(&self, op: &Op, state: Option<Version>) -> Option<Option<Version>> {
        match &op.did {
            Did::Put { version, condition } => self.holds(condition, state).then_some(Some(*version)),
            // Without a condition it is fine where nothing is.
            Did::Delete { condition } => self.holds(condition, state).then_some(None),
            Did::Refused { condition, there } => {
                (state.is_some() == *there && !self.holds(condition, state)).then_some(state)
            }
            seen => self.sees(seen, state).then_some(state),
        }
    }

    fn would_leave(&self, op: &Op) -> Option<Version> {
        match &op.did {
            Did::Put { version, .. } => Some(*version),
            _ => None,
        }
    }

    fn sees(&self, did: &Did, state: Option<Version>) -> bool {
        match did {
            Did::Read(version) => *version == state,
            Did::Listed(shown) => shown.as_ref() == state.and_then(|version| self.versions.get(&version)),
            _ => false,
        }
    }

    fn holds(&self, condition: &WriteCondition, state: Option<Version>) -> bool {
        match condition {
            WriteCondition::Always => true,
            WriteCondition::IfAbsent => state.is_none(),
            WriteCondition::IfMatch(etag) => state.is_some_and(|version| {
                etag == "*" || self.versions.get(&version).is_some_and(|v| v.0 == *etag)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn always(version: Version) -> Did {
        Did::Put { version, condition: WriteCondition::Always }
    }

    fn if_absent(version: Version) -> Did {
        Did::Put { version, condition: WriteCondition::IfAbsent }
    }

    fn swap(of: Version, version: Version) -> Did {
        Did::Put { version, condition: WriteCondition::IfMatch(of.to_string()) }
    }

    fn delete() -> Did {
        Did::Delete { condition: WriteCondition::Always }
    }

    fn fits(ops: &[(u64, Option<u64>, Did)]) -> bool {
        let versions = (0..10).map(|version| (version, (version.to_string(), version))).collect();
        let op = |(began, ended, did): &(u64, Option<u64>, Did)| Op {
            began: *began,
            ended: *ended,
            settled: None,
            life: 0,
            loose: false,
            did: did.clone(),
        };
        let ops: Vec<Op> = ops.iter().map(op).collect();
        Search::new(&ops, &versions).is_explained()
    }

    #[test]
    fn what_an_order_explains_fits() {
        assert!(fits(&[]));
        assert!(fits(&[
            (1, Some(4), always(1)),
            (2, Some(5), Did::Read(None)),
            (3, Some(6), Did::Read(Some(1)))
        ]));
        assert!(fits(&[
            (1, Some(9), if_absent(1)),
            (2, Some(8), Did::Refused { condition: WriteCondition::IfAbsent, there: true }),
        ]));
        assert!(fits(&[(1, Some(9), always(1)), (2, Some(8), delete()), (10, Some(11), Did::Read(Some(1)))]));
        assert!(fits(&[(1, Some(2), always(3)), (4, Some(5), Did::Listed(Some(("3".into(), 3))))]));
    }

    #[test]
    fn stale_lost_and_doubled_effects_do_not_fit() {
        assert!(!fits(&[(1, Some(2), always(1)), (3, Some(4), Did::Read(None))]), "lost");
        assert!(!fits(&[(1, Some(2), always(1)), (3, Some(4), always(2)), (5, Some(6), Did::Read(Some(1)))]));
        assert!(!fits(&[(1, Some(9), if_absent(1)), (2, Some(8), if_absent(2))]), "both were first");
        let swaps = [(1, Some(2), always(1)), (3, Some(9), swap(1, 2)), (3, Some(9), swap(1, 3))];
        assert!(!fits(&swaps), "both found the same");
        assert!(!fits(&[(1, Some(2), always(1)), (3, Some(4), Did::Listed(None))]), "not listed");
        let seen = [(1, Some(2), delete()), (3, Some(4), Did::Read(Some(1)))];
        assert!(!fits(&seen), "nobody wrote it");
    }

    #[test]
    fn what_has_no_answer_happens_once_or_never() {
        let lost = (1, None, always(1));
        assert!(fits(&[lost.clone(), (2, Some(3), Did::Read(None)), (4, Some(5), Did::Read(Some(1)))]));
        assert!(!fits(&[lost.clone(), (2, Some(3), Did::Read(Some(1))), (4, Some(5), Did::Read(None))]));
        let again = [
            lost.clone(),
            (2, Some(3), Did::Read(Some(1))),
            (4, Some(5), delete()),
            (6, Some(7), Did::Read(Some(1))),
        ];
        assert!(!fits(&again));
        // Each needs the other: a swap without an answer that found a write without an answer.
        assert!(fits(&[lost, (2, None, swap(1, 2)), (6, Some(7), Did::Read(Some(2)))]));
    }

    #[test]
    fn a_later_life_settles_what_had_no_answer() {
        let mut history = History::default();
        for seed in [1, 2] {
            history.new_version(Content { seed, len: 9 }, false);
        }
        let done = history.begin(0, "k", always(1));
        history.done(&done);
        history.begin(0, "k", always(2));
        for _ in 0..2 {
            let began = history.now();
            history.saw(1, "k", began, Did::Read(Some(1)), false);
        }
        history.check();
        let began = history.now();
        history.saw(1, "k", began, Did::Read(Some(2)), true);
        assert!(std::panic::catch_unwind(|| history.check()).is_err());
    }

    #[test]
    fn a_loose_read_may_show_what_is_gone_later() {
        for (loose, fits) in [(true, true), (false, false)] {
            let mut history = History::default();
            history.new_version(Content { seed: 1, len: 9 }, false);
            history.begin(0, "k", always(1));
            let began = history.now();
            history.saw(0, "k", began, Did::Read(Some(1)), loose);
            let began = history.now();
            history.saw(0, "k", began, Did::Read(None), false);
            assert_eq!(std::panic::catch_unwind(|| history.check()).is_ok(), fits);
        }
    }
}
