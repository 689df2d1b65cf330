//! Segment files: made ahead, zero-written, used again and again.
//!
//! What must hold: a segment is overwritten only when no record in it is needed *and* a durable checkpoint says so; until
//! then it is retired, not reusable. So the log named by the last durable checkpoint is always whole, even if
//! the first write into the next segment is torn.

use super::batch::batch_bytes;
use buckets_env::{ALIGNMENT, AlignedBuf, Env, File, OpenMode, WriteMode};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

const ZERO_WRITE_BYTES: usize = 1 << 20;

/// A segment file.
#[derive(Clone)]
pub(crate) struct Segment {
    /// Names the file.
    pub(crate) slot: u32,
    pub(crate) file: File,
}

/// A segment that holds a part of the log.
#[derive(Clone)]
pub(crate) struct LiveSegment {
    pub(crate) segment: Segment,
    /// Counts up over the log's life.
    pub(crate) number: u64,
    /// After its last record.
    pub(crate) end_lsn: u64,
}

/// All segments of a log.
pub(crate) struct Segments {
    dir: PathBuf,
    segment_bytes: u64,
    /// Oldest first; the last one is being written.
    live: VecDeque<LiveSegment>,
    /// Needed by nobody, but the last durable checkpoint does not say so.
    retired: Vec<LiveSegment>,
    reusable: Vec<Segment>,
    next_slot: u32,
    next_number: u64,
    /// One is being made.
    pub(crate) creating: bool,
    /// First page behind the last batch.
    pub(crate) page: u32,
    /// Number of the next batch.
    pub(crate) batch_number: u64,
}

impl Segments {
    pub(crate) fn new(dir: PathBuf, segment_bytes: u64) -> Segments {
        Segments {
            dir,
            segment_bytes,
            live: VecDeque::new(),
            retired: Vec::new(),
            reusable: Vec::new(),
            next_slot: 0,
            next_number: 1,
            creating: false,
            page: 0,
            batch_number: 1,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    pub(crate) fn count(&self) -> usize {
        self.live.len() + self.retired.len() + self.reusable.len()
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn reusable_count(&self) -> usize {
        self.reusable.len()
    }

    pub(crate) fn retired_count(&self) -> usize {
        self.retired.len()
    }

    pub(crate) fn current(&self) -> Option<&LiveSegment> {
        self.live.back()
    }

    pub(crate) fn current_mut(&mut self) -> Option<&mut LiveSegment> {
        self.live.back_mut()
    }

    /// The oldest segment with records that somebody needs.
    pub(crate) fn oldest(&self) -> Option<&LiveSegment> {
        self.live.front()
    }

    /// Number for the next segment: above every number that any segment file has ever shown.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    pub(crate) fn number_used(&mut self, number: u64) {
        self.next_number = self.next_number.max(number.saturating_add(1));
    }

    /// True where a batch of `bytes` fits behind the last one, and behind it the word that the next segment has begun.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        let end = u64::from(self.page) * ALIGNMENT as u64 + bytes as u64 + batch_bytes(0) as u64;
        !self.live.is_empty() && end <= self.segment_bytes
    }

    pub(crate) fn take_slot(&mut self) -> u32 {
        self.next_slot += 1;
        self.next_slot - 1
    }

    pub(crate) fn slot_used(&mut self, slot: u32) {
        self.next_slot = self.next_slot.max(slot.saturating_add(1));
    }

    pub(crate) fn take_reusable(&mut self) -> Option<Segment> {
        self.reusable.pop()
    }

    pub(crate) fn give_reusable(&mut self, segment: Segment) {
        self.reusable.push(segment);
    }

    pub(crate) fn push_live(&mut self, live: LiveSegment) {
        self.number_used(live.number);
        self.live.push_back(live);
    }

    /// A checkpoint that needs the log from the segment `oldest` on is durable. What was retired since it was taken stays:
    /// it names that, too.
    pub(crate) fn checkpoint_durable(&mut self, oldest: u64) {
        let unnamed = self.retired.extract_if(.., |retired| retired.number < oldest);
        self.reusable.extend(unnamed.map(|retired| retired.segment));
    }

    /// After the last record of the oldest `count` segments; `None` for none.
    pub(crate) fn end_of_oldest(&self, count: usize) -> Option<u64> {
        self.live.get(count.checked_sub(1)?).map(|live| live.end_lsn)
    }

    /// Retires segments whose records all lie before `needed_lsn`. Returns how many.
    pub(crate) fn retire_before(&mut self, needed_lsn: u64) -> usize {
        let mut count = 0;
        while self.live.len() > 1 && self.live.front().is_some_and(|oldest| oldest.end_lsn <= needed_lsn) {
            self.retired.extend(self.live.pop_front());
            count += 1;
        }
        count
    }
}

/// Path of a segment file.
pub(crate) fn path(dir: &Path, slot: u32) -> PathBuf {
    dir.join(format!("{slot:08x}.wal"))
}

/// Slot of a file name.
pub(crate) fn slot_of(name: &str) -> Option<u32> {
    let stem = name.strip_suffix(".wal")?;
    (stem.len() == 8).then(|| u32::from_str_radix(stem, 16).ok())?
}

/// Makes a segment file, durably filled with zeroes.
pub(crate) async fn create(env: &Env, dir: &Path, slot: u32, segment_bytes: u64) -> io::Result<Segment> {
    let path = path(dir, slot);
    let made = async {
        let file = env.open(&path, OpenMode::CreateNew).await?;
        fill(&file, segment_bytes).await?;
        env.sync_dir(dir).await?;
        Ok(Segment { slot, file })
    };
    match made.await {
        Ok(segment) => Ok(segment),
        Err(error) => {
            // Half a segment would only take space; it is finished at the next open if it cannot be removed.
            let _ = env.remove_file(&path).await;
            Err(error)
        }
    }
}

/// Writes zeroes over a whole segment and flushes them.
pub(crate) async fn fill(file: &File, segment_bytes: u64) -> io::Result<()> {
    file.allocate(0, segment_bytes).await?;
    let zeroes = AlignedBuf::zeroed(ZERO_WRITE_BYTES.min(segment_bytes as usize)).freeze();
    let mut offset = 0;
    while offset < segment_bytes {
        let len = (zeroes.len() as u64).min(segment_bytes - offset) as usize;
        file.write_at(offset, zeroes.slice(0..len), WriteMode::Unflushed).await?;
        offset += len as u64;
    }
    file.sync_data().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_env::sim::Simulation;

    #[test]
    fn what_is_retired_while_a_checkpoint_is_written_is_kept_until_the_next() {
        let simulation = Simulation::new(1);
        let node = simulation.node("n");
        node.disk("/disk");
        node.run(0, |env| async move {
            let dir = Path::new("/disk");
            env.create_dir_all(dir).await.unwrap();
            let mut segments = Segments::new(dir.to_owned(), 1 << 16);
            for number in 1..=3 {
                let segment = create(&env, dir, segments.take_slot(), 1 << 16).await.unwrap();
                segments.push_live(LiveSegment { segment, number, end_lsn: number * 10 });
            }
            segments.retire_before(10);
            // The checkpoint that is written now names segment 2, which comes free meanwhile.
            let named = segments.oldest().map_or(0, |oldest| oldest.number);
            segments.retire_before(20);
            segments.checkpoint_durable(named);
            assert_eq!((named, segments.reusable_count(), segments.count()), (2, 1, 3));
            segments.checkpoint_durable(3);
            assert_eq!(segments.reusable_count(), 2);
        })
        .unwrap();
    }
}
