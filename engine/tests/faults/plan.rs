//! What a seed chooses before its run: the node, its clients, and which faults strike when.
//!
//! What must hold: a plan's text is the plan. Faults that would leave too few disks for what is promised are left out at
//! the moment they are due, by the run, not here: that depends on what has become of the disks by then.

use crate::model::Layout;
use buckets_env::sim::{Plan, SimRng};
use buckets_ring::coding::Coding;
use std::fmt;
use std::str::FromStr;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) layout: Layout,
    pub(crate) clients: u64,
    /// Of each client in each life of the node.
    pub(crate) operations: u64,
    /// Keys that all clients use, beside their own.
    pub(crate) keys: u64,
    /// Lives of the node with clients.
    pub(crate) lives: u64,
    pub(crate) events: Vec<Event>,
}

/// A fault, or the end of the node's life.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) life: u64,
    /// From the start of the life, in microseconds.
    pub(crate) at_us: u64,
    /// Which disk; of no meaning for what happens to the whole node.
    pub(crate) disk: u8,
    pub(crate) what: What,
    /// In microseconds; it may last into the next life.
    pub(crate) for_us: u64,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum What {
    /// The power fails at this changing disk operation of the node.
    Crash(u64),
    /// The process is killed.
    Kill,
    /// So many reads in a million end with an error.
    ReadErrors(u32),
    /// A write ends with an error, after so many others.
    WriteError(u64),
    /// A flush ends with an error, after so many others.
    FlushError(u64),
    /// Each operation takes so many times longer.
    Slow(u32),
    /// So many KiB are left.
    Full(u64),
    /// The disk is pulled out.
    Remove,
    /// So many bits flip.
    Rot(u64),
    /// A bit flips in so many of a million reads.
    RotWhileRead(u32),
    /// A write is acknowledged and not done, after so many others.
    LostWrite(u64),
    /// A write goes elsewhere, after so many others.
    MisdirectedWrite(u64),
    /// All files are removed.
    Wipe,
}

const CODINGS: [(u8, u8); 7] = [(2, 2), (2, 1), (4, 2), (1, 1), (1, 2), (3, 2), (3, 3)];

impl Plan for Run {
    fn of_seed(seed: u64) -> Run {
        let mut random = SimRng::new(seed ^ 0x706c_616e);
        let (k, m) = *random.pick(&CODINGS);
        let Some(coding) = Coding::new(k, m) else { unreachable!("the table holds codes") };
        let layout =
            Layout { cores: random.within(1..4) as usize, coding, partitions: random.within(1..5) as u16 };
        let clients = random.within(4..17);
        let lives = random.within(1..4);
        let mut events: Vec<Event> = Vec::new();
        for _ in 0..random.within(2..12) {
            let what = match random.below(16) {
                0 => What::ReadErrors(1000 * random.within(1..300) as u32),
                1 => What::WriteError(up_to(&mut random, 200)),
                2 => What::FlushError(up_to(&mut random, 200)),
                3 | 4 => What::Slow(*random.pick(&[10, 100, 1000])),
                5 | 6 => What::Full(up_to(&mut random, 4096)),
                7 | 8 => What::Remove,
                9 | 10 => What::Rot(up_to(&mut random, 40)),
                11 => What::RotWhileRead(1000 * random.within(1..100) as u32),
                12 => What::LostWrite(up_to(&mut random, 100)),
                13 => What::MisdirectedWrite(up_to(&mut random, 100)),
                14 => What::Wipe,
                _ => What::Kill,
            };
            events.push(Event {
                life: random.below(lives),
                at_us: up_to(&mut random, 16_000_000),
                disk: random.below(u64::from(coding.n())) as u8,
                what,
                for_us: up_to(&mut random, 30_000_000),
            });
        }
        for life in 0..lives {
            if random.one_in(2) {
                let what = What::Crash(1 + up_to(&mut random, 600));
                events.push(Event { life, at_us: 0, disk: 0, what, for_us: 0 });
            }
        }
        let operations = 4 + random.below(1 + 96 / clients);
        Run { layout, clients, operations, keys: random.within(1..5), lives, events }
    }

    fn smaller(&self) -> Vec<Run> {
        let mut smaller = Vec::new();
        let mut with = |change: &dyn Fn(&mut Run)| {
            let mut run = self.clone();
            change(&mut run);
            if run != *self {
                smaller.push(run);
            }
        };
        with(&|run| run.lives -= u64::from(run.lives > 1));
        with(&|run| run.clients = run.clients.div_ceil(2));
        with(&|run| run.operations = run.operations.div_ceil(2));
        for at in 0..self.events.len() {
            with(&|run| {
                run.events.remove(at);
            });
        }
        with(&|run| run.clients = (run.clients - 1).max(1));
        with(&|run| run.operations = (run.operations - 1).max(1));
        with(&|run| run.keys = (run.keys - 1).max(1));
        with(&|run| run.layout.cores = 1);
        with(&|run| run.layout.partitions = 1);
        smaller
    }
}

/// Below `bound`; small numbers as often as large ones.
fn up_to(random: &mut SimRng, bound: u64) -> u64 {
    let bits = random.below(u64::from(bound.ilog2()) + 2);
    random.below(bound.min(1 << bits))
}

impl What {
    fn word(self) -> (&'static str, u64) {
        match self {
            What::Crash(io) => ("crash", io),
            What::Kill => ("kill", 0),
            What::ReadErrors(per_million) => ("read-errors", per_million.into()),
            What::WriteError(skip) => ("write-error", skip),
            What::FlushError(skip) => ("flush-error", skip),
            What::Slow(factor) => ("slow", factor.into()),
            What::Full(kib) => ("full", kib),
            What::Remove => ("remove", 0),
            What::Rot(bits) => ("rot", bits),
            What::RotWhileRead(per_million) => ("rot-while-read", per_million.into()),
            What::LostWrite(skip) => ("lost-write", skip),
            What::MisdirectedWrite(skip) => ("misdirected-write", skip),
            What::Wipe => ("wipe", 0),
        }
    }

    fn of_word(word: &str, number: u64) -> Option<What> {
        Some(match word {
            "crash" => What::Crash(number),
            "kill" => What::Kill,
            "read-errors" => What::ReadErrors(number.try_into().ok()?),
            "write-error" => What::WriteError(number),
            "flush-error" => What::FlushError(number),
            "slow" => What::Slow(number.try_into().ok()?),
            "full" => What::Full(number),
            "remove" => What::Remove,
            "rot" => What::Rot(number),
            "rot-while-read" => What::RotWhileRead(number.try_into().ok()?),
            "lost-write" => What::LostWrite(number),
            "misdirected-write" => What::MisdirectedWrite(number),
            "wipe" => What::Wipe,
            _ => return None,
        })
    }
}

/// `cores 2 code 2+2 partitions 4 clients 8 operations 6 keys 2 lives 2; 0 1500 disk1 slow 100 20000; ...`: an event is its
/// life, when, where, what, how much, and for how long.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { layout: Layout { cores, coding, partitions }, clients, operations, keys, lives, .. } = self;
        write!(
            f,
            "cores {cores} code {coding} partitions {partitions} clients {clients} operations {operations} "
        )?;
        write!(f, "keys {keys} lives {lives}")?;
        for Event { life, at_us, disk, what, for_us } in &self.events {
            let (word, number) = what.word();
            write!(f, "; {life} {at_us} disk{disk} {word} {number} {for_us}")?;
        }
        Ok(())
    }
}

impl FromStr for Run {
    type Err = String;

    fn from_str(text: &str) -> Result<Run, String> {
        let mut parts = text.split(';');
        let head: Vec<&str> = parts.next().unwrap_or_default().split_whitespace().collect();
        let [
            "cores",
            cores,
            "code",
            coding,
            "partitions",
            partitions,
            "clients",
            clients,
            "operations",
            operations,
            "keys",
            keys,
            "lives",
            lives,
        ] = head[..]
        else {
            return Err(format!("{head:?} is not the head of a plan"));
        };
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word:?} is not a number"));
        let layout = Layout {
            cores: number(cores)? as usize,
            coding: coding.parse().map_err(|_| format!("{coding:?} is not a code"))?,
            partitions: number(partitions)? as u16,
        };
        let event = |text: &str| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let [life, at_us, disk, what, how_much, for_us] = words[..] else {
                return Err(format!("{text:?} is not an event"));
            };
            let disk = number(disk.trim_start_matches("disk"))? as u8;
            let what =
                What::of_word(what, number(how_much)?).ok_or(format!("{what:?} does not happen here"))?;
            Ok(Event { life: number(life)?, at_us: number(at_us)?, disk, what, for_us: number(for_us)? })
        };
        Ok(Run {
            layout,
            clients: number(clients)?,
            operations: number(operations)?,
            keys: number(keys)?,
            lives: number(lives)?,
            events: parts.map(event).collect::<Result<_, String>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_env::sim::smallest;

    #[test]
    fn a_plan_is_its_text() {
        for seed in 0..300 {
            let run = Run::of_seed(seed);
            assert_eq!(run.to_string().parse(), Ok(run));
        }
        assert!("cores 2".parse::<Run>().is_err());
    }

    #[test]
    fn a_failure_that_needs_one_fault_keeps_that_one() {
        let fails = |run: &Run| {
            let is_it = |event: &Event| matches!(event.what, What::Slow(_)) && event.disk == 1;
            (run.clients >= 3 && run.events.iter().any(is_it)).then(|| "slow".to_owned())
        };
        let first = (0..).map(Run::of_seed).find(|run| run.events.len() > 6 && fails(run).is_some());
        let first = first.unwrap_or_else(|| unreachable!("seeds do not end"));
        let (least, what) = smallest((first, String::new()), fails, || true);
        assert_eq!(what, "slow");
        assert_eq!((least.events.len(), least.clients, least.operations, least.lives), (1, 3, 1, 1));
        assert!(fails(&least.to_string().parse().unwrap_or_else(|what| panic!("{what}"))).is_some());
    }

    #[test]
    fn every_kind_of_event_and_every_code_is_drawn() {
        let mut words = std::collections::BTreeSet::new();
        let mut codings = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let run = Run::of_seed(seed);
            codings.insert(run.layout.coding);
            words.extend(run.events.iter().map(|event| event.what.word().0));
        }
        assert_eq!((words.len(), codings.len()), (13, CODINGS.len()));
    }
}
