//! What is asked next: the order of operations and keys, the same for every way to reach a store.
//!
//! What must hold: a loop is closed, one operation at a time per connection; an operation says what its answer must be; in a
//! mixed workload every key belongs to one connection, so that what a read must find is certain, whatever other connections do.

use super::content::{Content, Random};
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    Put,
    Get,
    Head,
    List,
    Delete,
    CreateBucket,
}

impl Action {
    pub(crate) const ALL: [Action; 6] =
        [Action::Put, Action::Get, Action::Head, Action::List, Action::Delete, Action::CreateBucket];
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Action::Put => "put",
            Action::Get => "get",
            Action::Head => "head",
            Action::List => "list",
            Action::Delete => "delete",
            Action::CreateBucket => "create-bucket",
        })
    }
}

/// What a request asks and what must come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    /// Number of the key; of a listing, of the first key it must show.
    pub(crate) number: u64,
    /// Which content is put or must be found; [`ABSENT`]: the object must not be there.
    pub(crate) version: u32,
    /// Offset and length of a ranged GET.
    pub(crate) range: Option<(u64, u64)>,
    /// A listing that goes on where the last one of this connection ended.
    pub(crate) continues: bool,
}

/// The version of an object that is not there.
pub(crate) const ABSENT: u32 = 0;
/// The version that every workload but the mixed one puts and finds.
pub(crate) const FIRST: u32 = 1;
/// After a failed write: the next operation on the key is a PUT, and what was there before does not matter.
const UNKNOWN: u32 = u32::MAX;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As it must; of a listing, so many keys and whether there are more.
    Good { keys: u64, more: bool },
    /// Not done, or nobody knows.
    Failed,
}

/// In which order reads visit the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Access {
    #[default]
    Random,
    Sequential,
}

/// Shares of a mixed workload, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    shares: [(Action, u32); 5],
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let mut shares =
            [Action::Put, Action::Get, Action::Head, Action::List, Action::Delete].map(|a| (a, 0));
        for part in text.split(',') {
            let parsed = part.split_once('=').and_then(|(name, share)| {
                let slot = shares.iter().position(|(action, _)| action.to_string() == name.trim())?;
                Some((slot, share.trim().parse::<u32>().ok()?))
            });
            let Some((slot, share)) = parsed else {
                return Err(format!(
                    "`{part}` is no share; write for example get=60,put=25,head=5,list=5,delete=5"
                ));
            };
            shares[slot].1 = share;
        }
        match shares.iter().map(|(_, share)| u64::from(*share)).sum::<u64>() {
            100 => Ok(Mix { shares }),
            sum => Err(format!("the shares make {sum} %, not 100")),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.shares.iter().filter(|(_, share)| *share > 0);
        let shown: Vec<String> = shown.map(|(action, share)| format!("{action}={share}")).collect();
        f.write_str(&shown.join(","))
    }
}

impl Mix {
    fn draw(&self, random: &mut Random) -> Action {
        let mut at = random.below(100) as u32;
        for (action, share) in self.shares {
            if at < share {
                return action;
            }
            at -= share;
        }
        unreachable!("the shares make 100")
    }
}

/// What one phase does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Makes the bucket, once; one that is there already is fine.
    CreateBucket,
    /// A new key each time.
    PutNew,
    /// Every key of the space, once; what fails is tried again.
    PutOnce,
    /// Round the key space, overwriting.
    PutAround,
    /// Every key of the space, once.
    DeleteOnce,
    /// GET or HEAD.
    Read { action: Action, access: Access, range: Option<u64> },
    /// A page from anywhere.
    List { page_keys: u64 },
    /// Page after page, from the first key to the last and again.
    Walk { page_keys: u64 },
    /// Everything, keys shared out among the connections.
    Mixed { mix: Mix, page_keys: u64 },
}

/// When operations are begun and which are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// What ends before is warm-up.
    pub(crate) measure_from: Instant,
    /// Nothing is begun after, and what ends after is not counted.
    pub(crate) until: Option<Instant>,
}

impl Window {
    pub(crate) fn counts(&self, ended: Instant) -> bool {
        ended >= self.measure_from && self.until.is_none_or(|until| ended <= until)
    }
}

/// One phase, shared by its threads.
#[derive(Debug)]
pub(crate) struct Workload {
    flow: Flow,
    /// What all keys of the space begin with.
    pub(crate) stem: String,
    pub(crate) objects: u64,
    pub(crate) content: Content,
    window: Window,
    /// Connections of all threads together.
    connections: u64,
    /// Measured operations that may still be begun.
    budget: Option<AtomicU64>,
    next_number: AtomicU64,
    /// Numbers that have to be put once more, and how often that may still happen.
    failed: Mutex<(Vec<u64>, u64)>,
}

impl Workload {
    pub(crate) fn new(
        flow: Flow,
        (stem, objects): (String, u64),
        content: Content,
        window: Window,
        connections: u64,
        operations_max: Option<u64>,
    ) -> Workload {
        assert!(objects > 0 && connections > 0);
        let budget = operations_max.map(AtomicU64::new);
        Workload {
            flow,
            stem,
            objects,
            content,
            window,
            connections,
            budget,
            next_number: AtomicU64::new(0),
            failed: Mutex::new((Vec::new(), objects)),
        }
    }

    /// A key of the space. Keys sort as their numbers do.
    pub(crate) fn key(&self, number: u64) -> String {
        format!("{}{number:010}", self.stem)
    }

    /// Keys `0..` of which a PUT was begun.
    pub(crate) fn numbers_begun(&self) -> u64 {
        self.next_number.load(Ordering::Relaxed)
    }

    pub(crate) fn page_keys(&self) -> u64 {
        match self.flow {
            Flow::List { page_keys } | Flow::Walk { page_keys } | Flow::Mixed { page_keys, .. } => page_keys,
            _ => 1000,
        }
    }

    /// Whether other connections change what a listing shows.
    pub(crate) fn listings_move(&self) -> bool {
        matches!(self.flow, Flow::Mixed { .. })
    }

    /// What the connections `first..first + count` of all do.
    pub(crate) fn picker(&self, first: usize, count: usize, seed: u64) -> Picker<'_> {
        let owned = |connection: u64| self.objects.saturating_sub(connection).div_ceil(self.connections);
        let versions = |connection: usize| match self.flow {
            Flow::Mixed { .. } => vec![FIRST; owned(connection as u64) as usize],
            _ => Vec::new(),
        };
        let lanes =
            (first..first + count).map(|connection| Lane { versions: versions(connection), walked: 0 });
        let random = Random::new(seed ^ ((first as u64 + 1) << 32));
        Picker { workload: self, first, lanes: lanes.collect(), random }
    }

    fn number(&self, within: Option<u64>) -> Option<u64> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        if within.is_none_or(|end| number < end) {
            return Some(number);
        }
        self.failed.lock().ok()?.0.pop()
    }

    fn once_more(&self, number: u64) {
        if let Ok(mut failed) = self.failed.lock()
            && failed.1 > 0
        {
            failed.1 -= 1;
            failed.0.push(number);
        }
    }
}

/// One connection's part.
#[derive(Debug)]
struct Lane {
    /// Of the mixed workload: what the connection's own keys hold.
    versions: Vec<u32>,
    /// Of a walk: the key that comes next; 0 begins anew.
    walked: u64,
}

/// The operations of one thread's connections.
#[derive(Debug)]
pub(crate) struct Picker<'a> {
    pub(crate) workload: &'a Workload,
    first: usize,
    lanes: Vec<Lane>,
    random: Random,
}

impl Picker<'_> {
    /// The next operation of the thread's `lane`th connection; `None` where there is nothing left to do.
    pub(crate) fn next(&mut self, lane: usize, now: Instant) -> Option<Operation> {
        let Picker { workload, random, .. } = self;
        let Workload { window, objects, content, .. } = workload;
        if window.until.is_some_and(|until| now >= until) {
            return None;
        }
        if let Some(budget) = workload.budget.as_ref().filter(|_| now >= window.measure_from) {
            let take = |left: u64| left.checked_sub(1);
            budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        }
        let plain =
            |action, number| Operation { action, number, version: FIRST, range: None, continues: false };
        Some(match workload.flow {
            Flow::CreateBucket => plain(Action::CreateBucket, workload.number(Some(1))?),
            Flow::PutNew => plain(Action::Put, workload.number(None)?),
            Flow::PutOnce => plain(Action::Put, workload.number(Some(*objects))?),
            Flow::PutAround => plain(Action::Put, workload.number(None)? % objects),
            Flow::DeleteOnce => plain(Action::Delete, workload.number(Some(*objects))?),
            Flow::Read { action, access, range } => {
                let number = match access {
                    Access::Random => random.below(*objects),
                    Access::Sequential => workload.number(None)? % objects,
                };
                let range = range.map(|len| {
                    let size = content.body(number, FIRST).size;
                    let len = len.min(size);
                    (random.below(size - len + 1), len)
                });
                Operation { range, ..plain(action, number) }
            }
            // A full page where the key space has one.
            Flow::List { page_keys } => {
                plain(Action::List, random.below(objects.saturating_sub(page_keys).saturating_add(1)))
            }
            Flow::Walk { .. } => {
                let walked = self.lanes[lane].walked;
                Operation { continues: walked > 0, ..plain(Action::List, walked) }
            }
            Flow::Mixed { mix, .. } => self.next_mixed(lane, mix)?,
        })
    }

    fn next_mixed(&mut self, lane: usize, mix: Mix) -> Option<Operation> {
        let Picker { workload, first, lanes, random } = self;
        let versions = &lanes[lane].versions;
        if versions.is_empty() {
            return None;
        }
        let slot = random.below(versions.len() as u64);
        let number = slot * workload.connections + (*first + lane) as u64;
        let version = versions[slot as usize];
        let mut action = mix.draw(random);
        // What is gone is read once in a while, to see that it stays gone; mostly it comes back.
        if version == UNKNOWN || (version & GONE != 0 && action != Action::List && random.below(4) > 0) {
            action = Action::Put;
        }
        let version = match action {
            Action::Put => next_version(version),
            _ if version & GONE != 0 => ABSENT,
            _ => version,
        };
        Some(Operation { action, number, version, range: None, continues: false })
    }

    /// Learns how the operation of the `lane`th connection ended.
    pub(crate) fn ended(&mut self, lane: usize, operation: &Operation, ending: Ending) {
        let lane = &mut self.lanes[lane];
        match (self.workload.flow, operation.action, ending) {
            (Flow::Walk { .. }, _, Ending::Good { keys, more: true }) => lane.walked += keys,
            (Flow::Walk { .. }, ..) => lane.walked = 0,
            // The connection that failed asks again itself.
            (Flow::PutOnce, _, Ending::Failed) => self.workload.once_more(operation.number),
            (Flow::Mixed { .. }, Action::Put | Action::Delete, ending) => {
                let version = &mut lane.versions[(operation.number / self.workload.connections) as usize];
                *version = match (operation.action, ending) {
                    (_, Ending::Failed) => UNKNOWN,
                    (Action::Put, _) => operation.version,
                    _ => *version | GONE,
                };
            }
            _ => {}
        }
    }
}

/// Marks the last version of a key that was deleted.
const GONE: u32 = 1 << 31;

/// A version that this key has not had lately.
fn next_version(version: u32) -> u32 {
    // Versions take part in the content with 16 bits.
    let next = (version & 0xffff) + 1;
    if next > 0xffff { FIRST } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn workload(flow: Flow, objects: u64, connections: u64, operations_max: Option<u64>) -> Workload {
        let window = Window { measure_from: Instant::now(), until: None };
        let content = Content::new("b/", 1, "1KiB-2KiB".parse().unwrap());
        Workload::new(flow, ("b/".to_owned(), objects), content, window, connections, operations_max)
    }

    fn numbers(workload: &Workload, take: usize) -> Vec<u64> {
        let mut picker = workload.picker(0, 1, 3);
        std::iter::from_fn(|| picker.next(0, Instant::now())).take(take).map(|op| op.number).collect()
    }

    #[test]
    fn key_spaces_are_walked_once_round_or_without_end() {
        assert_eq!(numbers(&workload(Flow::PutOnce, 3, 1, None), 9), [0, 1, 2]);
        assert_eq!(numbers(&workload(Flow::DeleteOnce, 3, 1, None), 9), [0, 1, 2]);
        assert_eq!(numbers(&workload(Flow::PutAround, 3, 1, None), 5), [0, 1, 2, 0, 1]);
        assert_eq!(numbers(&workload(Flow::PutNew, 3, 1, None), 5), [0, 1, 2, 3, 4]);
        assert_eq!(numbers(&workload(Flow::PutNew, 3, 1, Some(2)), 5), [0, 1]);
        assert_eq!(numbers(&workload(Flow::CreateBucket, 3, 1, None), 5), [0]);
    }

    #[test]
    fn what_could_not_be_prepared_is_tried_again_but_not_for_ever() {
        let workload = workload(Flow::PutOnce, 3, 1, None);
        let mut picker = workload.picker(0, 1, 3);
        let mut tries = Vec::new();
        while let Some(operation) = picker.next(0, Instant::now()) {
            tries.push(operation.number);
            picker.ended(0, &operation, Ending::Failed);
        }
        assert_eq!(tries.len(), 6, "{tries:?}");
        assert_eq!(tries[..3], [0, 1, 2]);
    }

    #[test]
    fn nothing_begins_after_the_end_and_warm_up_is_not_counted() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let window = Window { measure_from: now + second, until: Some(now + 2 * second) };
        assert_eq!([0, 1, 2, 3].map(|after| window.counts(now + second * after)), [false, true, true, false]);
        let content = Content::new("b/", 1, "1".parse().unwrap());
        let workload = Workload::new(Flow::PutNew, ("b/".to_owned(), 1), content, window, 1, Some(1));
        let mut picker = workload.picker(0, 1, 3);
        assert!(picker.next(0, now).is_some() && picker.next(0, now).is_some(), "warm-up takes nothing");
        assert!(picker.next(0, now + second).is_some());
        assert!(picker.next(0, now + second).is_none());
        assert!(picker.next(0, now + second * 2).is_none());
    }

    #[test]
    fn reads_stay_within_the_keys_and_their_bodies() {
        let range = Some(1500);
        let read = Flow::Read { action: Action::Get, access: Access::Random, range };
        let workload = workload(read, 10, 1, None);
        let mut picker = workload.picker(0, 1, 3);
        let mut seen = BTreeMap::new();
        for _ in 0..1000 {
            let operation = picker.next(0, Instant::now()).unwrap();
            let (offset, len) = operation.range.unwrap();
            assert!(offset + len <= workload.content.body(operation.number, FIRST).size && len > 0);
            *seen.entry(operation.number).or_insert(0) += 1;
        }
        assert_eq!(seen.into_keys().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn listings_begin_where_a_full_page_follows() {
        let starts = numbers(&workload(Flow::List { page_keys: 8 }, 10, 1, None), 200);
        assert!(starts.iter().all(|start| *start <= 2) && starts.contains(&2));
        assert_eq!(numbers(&workload(Flow::List { page_keys: 1000 }, 10, 1, None), 2), [0, 0]);
    }

    #[test]
    fn a_walk_goes_on_from_page_to_page_and_begins_anew() {
        let workload = workload(Flow::Walk { page_keys: 4 }, 6, 1, None);
        let mut picker = workload.picker(0, 1, 3);
        for (number, continues, keys, more) in [(0, false, 4, true), (4, true, 2, false), (0, false, 4, true)]
        {
            let operation = picker.next(0, Instant::now()).unwrap();
            assert_eq!((operation.number, operation.continues), (number, continues));
            picker.ended(0, &operation, Ending::Good { keys, more });
        }
        let operation = picker.next(0, Instant::now()).unwrap();
        picker.ended(0, &operation, Ending::Failed);
        assert_eq!(picker.next(0, Instant::now()).unwrap().number, 0);
    }

    /// Every read must expect what the last write of that key left, on keys that no other connection touches.
    #[test]
    fn a_mixed_workload_knows_what_each_read_must_find() {
        let mix: Mix = "get=30,put=30,head=5,list=5,delete=30".parse().unwrap();
        let workload = workload(Flow::Mixed { mix, page_keys: 10 }, 23, 4, None);
        let mut model: BTreeMap<u64, u32> = (0..23).map(|number| (number, FIRST)).collect();
        let mut pickers = [workload.picker(0, 2, 3), workload.picker(2, 2, 3)];
        let mut counts = BTreeMap::new();
        let mut random = Random::new(5);
        for round in 0..20_000 {
            let (thread, lane) = (round % 2, round / 2 % 2);
            let operation = pickers[thread].next(lane, Instant::now()).unwrap();
            assert_eq!(operation.number % 4, (thread * 2 + lane) as u64);
            *counts.entry(operation.action).or_insert(0) += 1;
            let known = model.get(&operation.number).copied();
            let failed = random.below(50) == 0;
            match operation.action {
                Action::Put => {
                    assert!(operation.version != ABSENT && Some(operation.version) != known);
                    model.insert(operation.number, if failed { UNKNOWN } else { operation.version });
                }
                Action::List => {}
                _ => assert_eq!(operation.version, known.unwrap_or(ABSENT), "{operation:?}"),
            }
            if operation.action == Action::Delete {
                if failed {
                    model.insert(operation.number, UNKNOWN);
                } else {
                    model.remove(&operation.number);
                }
            }
            let ending = if failed { Ending::Failed } else { Ending::Good { keys: 0, more: false } };
            pickers[thread].ended(lane, &operation, ending);
        }
        assert_eq!(counts.len(), 5);
    }

    #[test]
    fn mixes_make_a_hundred() {
        assert_eq!("get=70, put=30".parse::<Mix>().unwrap().to_string(), "put=30,get=70");
        for bad in ["", "get", "get=50", "get=60,put=60", "fly=100", "get=x"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }
}
