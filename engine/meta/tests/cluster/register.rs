//! Is a history of one register linearizable? The search of Wing and Gong, with a memory of failed states, and with
//! the order of the answered writes given: that of their places in the log.

use std::collections::{BTreeMap, HashSet};

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    /// Wrote this value.
    Write(u64),
    /// Read this.
    Read(Option<u64>),
    /// Wrote `new` where `old` was read.
    Swap { old: Option<u64>, new: u64 },
}

/// One operation, with the times at which it began and was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) began: u64,
    /// When it was answered, and a write's place in the log. `None`: the outcome is not known.
    pub(crate) ended: Option<(u64, u64)>,
    pub(crate) did: Did,
}

/// Panics where no order of the operations explains what was seen. Every value is written once.
pub(crate) fn check(name: &str, ops: &[Op]) {
    let mut history = History::default();
    for op in ops {
        match (op.ended, op.did) {
            (Some((ended, place)), did) => {
                history.ops.push(Answered { began: op.began, ended, place, did });
            }
            (None, Did::Write(new)) => drop(history.unanswered.insert(new, (op.began, None))),
            (None, Did::Swap { old, new }) => drop(history.unanswered.insert(new, (op.began, Some(old)))),
            (None, Did::Read(_)) => {}
        }
    }
    history.ops.sort_by_key(|op| op.began);
    for (number, op) in history.ops.iter().enumerate() {
        if let Did::Read(Some(seen)) | Did::Swap { old: Some(seen), .. } = op.did {
            history.observers.entry(seen).or_default().push(number);
        }
        if !matches!(op.did, Did::Read(_)) {
            history.writes.push(number);
        }
    }
    history.writes.sort_by_key(|op| history.ops[*op].place);
    if !history.is_explained() {
        for op in &history.ops {
            eprintln!("{name}: {op:?}");
        }
        eprintln!("{name}: without an answer: {:?}", history.unanswered);
        panic!("{name}: not linearizable");
    }
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    began: u64,
    ended: u64,
    place: u64,
    did: Did,
}

#[derive(Default)]
struct History {
    /// By beginning.
    ops: Vec<Answered>,
    /// By the value written: when it began, and what a swap had to find.
    unanswered: BTreeMap<u64, (u64, Option<Option<u64>>)>,
    /// Answered writes by their place in the log.
    writes: Vec<usize>,
    /// Who saw a value.
    observers: BTreeMap<u64, Vec<usize>>,
}

/// Operations that took effect: all before `first`, and some behind it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Done {
    first: usize,
    behind: u128,
    /// How many of them are writes.
    writes: usize,
}

impl Done {
    fn has(self, op: usize) -> bool {
        op < self.first || self.behind >> (op - self.first) & 1 == 1
    }

    fn with(mut self, op: usize) -> Done {
        assert!(op - self.first < 128, "too many operations at once for the search");
        self.behind |= 1 << (op - self.first);
        while self.behind & 1 == 1 {
            self.behind >>= 1;
            self.first += 1;
        }
        self
    }
}

impl History {
    fn is_explained(&self) -> bool {
        let mut tried = HashSet::new();
        let mut open = vec![(Done { first: 0, behind: 0, writes: 0 }, None)];
        while let Some((done, value)) = open.pop() {
            if done.first == self.ops.len() {
                return true;
            }
            if tried.insert((done, value)) {
                open.extend(self.next(done, value));
            }
        }
        false
    }

    /// What may come next where `done` took effect and left `value`.
    fn next(&self, done: Done, value: Option<u64>) -> Vec<(Done, Option<u64>)> {
        // An operation may come next only if none that is open ended before it began.
        let mut first_end = u64::MAX;
        let mut open = Vec::new();
        for op in (done.first..self.ops.len()).filter(|op| !done.has(*op)) {
            if self.ops[op].began > first_end {
                break;
            }
            first_end = first_end.min(self.ops[op].ended);
            open.push(op);
        }
        open.retain(|op| self.ops[*op].began <= first_end);
        let next_write = self.writes.get(done.writes).copied();
        let written = |op: usize, new: u64| {
            let mut after = done.with(op);
            after.writes += 1;
            (next_write == Some(op)).then_some((after, Some(new)))
        };
        let sees = |seen: Option<u64>| seen == value || self.appears(seen, done, value, first_end);
        let effect = |op: &usize| match self.ops[*op].did {
            Did::Write(new) => written(*op, new),
            Did::Read(seen) => sees(seen).then(|| (done.with(*op), seen)),
            Did::Swap { old, new } => sees(old).then(|| written(*op, new)).flatten(),
        };
        open.iter().rev().filter_map(effect).collect()
    }

    /// A write without an answer may take effect right before the first operation that sees it: nothing is lost by
    /// letting it come no earlier. Before a swap without an answer the write that it had to find may do so, too.
    fn appears(&self, seen: Option<u64>, done: Done, value: Option<u64>, first_end: u64) -> bool {
        let Some(seen) = seen else { return false };
        let Some((began, needs)) = self.unanswered.get(&seen) else { return false };
        let found = |needs: Option<u64>| needs == value || self.appears(needs, done, value, first_end);
        *began <= first_end && !self.has_appeared(seen, done) && needs.is_none_or(found)
    }

    /// True where a write without an answer has taken effect: it was seen, or what had to find it was.
    fn has_appeared(&self, value: u64, done: Done) -> bool {
        let mut found_it = self.unanswered.iter().filter(|(_, (_, needs))| *needs == Some(Some(value)));
        self.observers.get(&value).is_some_and(|ops| ops.iter().any(|op| done.has(*op)))
            || found_it.any(|(new, _)| self.has_appeared(*new, done))
    }
}

#[test]
fn stale_reads_are_seen() {
    let op = |began, ended, did| {
        let place = match did {
            Did::Write(new) | Did::Swap { new, .. } => new,
            Did::Read(_) => 0,
        };
        Op { began, ended: Some((ended, place)), did }
    };
    let fails = |ops: &[Op]| std::panic::catch_unwind(|| check("history", ops)).is_err();
    check("fine", &[op(0, 5, Did::Write(1)), op(3, 9, Did::Read(None)), op(3, 9, Did::Read(Some(1)))]);
    let unknown = Op { began: 0, ended: None, did: Did::Write(1) };
    check("unknown", &[unknown, op(5, 6, Did::Read(None)), op(7, 8, Did::Read(Some(1)))]);
    assert!(fails(&[op(0, 5, Did::Write(1)), op(6, 9, Did::Read(None))]), "stale");
    assert!(fails(&[unknown, op(5, 6, Did::Read(Some(1))), op(7, 8, Did::Read(None))]), "gone");
    assert!(fails(&[op(0, 1, Did::Write(2)), op(2, 3, Did::Write(1))]), "against the order of the log");
    let again =
        [unknown, op(1, 2, Did::Read(Some(1))), op(3, 4, Did::Write(2)), op(5, 6, Did::Read(Some(1)))];
    assert!(fails(&again), "twice");
    // A swap that nobody answered found a write that nobody answered or saw: seed 29 of the sweep of several nodes.
    let swap = Op { began: 2, ended: None, did: Did::Swap { old: Some(1), new: 2 } };
    check("a chain", &[unknown, swap, op(3, 4, Did::Read(None)), op(5, 6, Did::Read(Some(2)))]);
    let back = [unknown, swap, op(3, 4, Did::Read(Some(2))), op(5, 6, Did::Read(Some(1)))];
    assert!(fails(&back), "back to what the swap had found");
    let lone = [swap, op(3, 4, Did::Read(Some(2)))];
    assert!(fails(&lone), "a swap of nothing");
    let swaps = [
        op(0, 1, Did::Write(1)),
        op(2, 9, Did::Swap { old: Some(1), new: 2 }),
        op(2, 9, Did::Swap { old: Some(1), new: 3 }),
    ];
    assert!(fails(&swaps), "both won");
}
