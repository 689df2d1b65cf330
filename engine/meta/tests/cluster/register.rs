//! Is a history of one register linearizable? The search of Wing and Gong, with a memory of failed states.

use std::collections::HashSet;

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
    /// `None`: the outcome is not known.
    pub(crate) ended: Option<u64>,
    pub(crate) did: Did,
}

/// Panics where no order of the operations explains what was seen.
pub(crate) fn check(name: &str, ops: &[Op]) {
    let mut ops = ops.to_vec();
    ops.sort_by_key(|op| op.began);
    assert!(ops.len() <= 256, "{name}: {} operations are too many for the search", ops.len());
    let mut failed = HashSet::new();
    if !search(&ops, [0; 4], None, &mut failed) {
        for op in &ops {
            eprintln!("{name}: {op:?}");
        }
        panic!("{name}: not linearizable");
    }
}

type Done = [u64; 4];

fn has(done: &Done, op: usize) -> bool {
    done[op / 64] >> (op % 64) & 1 == 1
}

fn search(ops: &[Op], done: Done, value: Option<u64>, failed: &mut HashSet<(Done, Option<u64>)>) -> bool {
    let open = || (0..ops.len()).filter(|op| !has(&done, *op));
    // An operation may come next only if none that is open ended before it began.
    let first_end = open().filter_map(|op| ops[op].ended).min();
    let Some(first_end) = first_end else { return true };
    if failed.contains(&(done, value)) {
        return false;
    }
    for op in open().take_while(|op| ops[*op].began <= first_end) {
        let after = match ops[op].did {
            Did::Write(new) => Some(new),
            Did::Read(seen) if seen == value => value,
            Did::Swap { old, new } if old == value => Some(new),
            Did::Read(_) | Did::Swap { .. } => continue,
        };
        let mut next = done;
        next[op / 64] |= 1 << (op % 64);
        if search(ops, next, after, failed) {
            return true;
        }
    }
    failed.insert((done, value));
    false
}

#[test]
fn stale_reads_are_seen() {
    let op = |began, ended, did| Op { began, ended: Some(ended), did };
    check("fine", &[op(0, 5, Did::Write(1)), op(3, 9, Did::Read(None)), op(3, 9, Did::Read(Some(1)))]);
    let unknown = Op { began: 0, ended: None, did: Did::Write(1) };
    check("unknown", &[unknown, op(5, 6, Did::Read(None)), op(7, 8, Did::Read(Some(1)))]);
    let stale = [op(0, 5, Did::Write(1)), op(6, 9, Did::Read(None))];
    assert!(std::panic::catch_unwind(|| check("stale", &stale)).is_err());
    let gone = [unknown, op(5, 6, Did::Read(Some(1))), op(7, 8, Did::Read(None))];
    assert!(std::panic::catch_unwind(|| check("gone", &gone)).is_err());
    let twice = [
        op(0, 1, Did::Write(1)),
        op(2, 9, Did::Swap { old: Some(1), new: 2 }),
        op(2, 9, Did::Swap { old: Some(1), new: 3 }),
    ];
    assert!(std::panic::catch_unwind(|| check("twice", &twice)).is_err());
}
