//! Reading the log at open.
//!
//! What must hold:
//! - Every valid batch from the oldest live segment to the last one is delivered once, in order.
//! - What does not verify is *damage* where a valid batch follows it (or the device refuses to read it), else it is the
//!   *torn tail* of a crash: at most one batch is in flight, and it was acknowledged to nobody.
//! - A lost part is delivered as the range of record numbers that are missing, before what follows it.

use super::batch::{BatchHeader, BatchKind, BatchSeal};
use super::record::{Checkpoint, Record, read_records};
use super::segment::{self, LiveSegment, Segment};
use crate::limits::IO_BYTES_MAX;
use buckets_env::{ALIGNMENT, AlignedBuf, Env, File, OpenMode};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::Path;

const PAGE: u64 = ALIGNMENT as u64;

/// What the log holds, in order.
#[derive(Debug)]
pub(crate) enum Item {
    /// The state of all replicas; the next record is `next_lsn`.
    Checkpoint { next_lsn: u64, checkpoint: Checkpoint },
    /// Records from `first_lsn` on.
    Records { first_lsn: u64, records: Vec<Record> },
    /// These records are lost (the range may be empty where no record was in the damaged place).
    Lost(Range<u64>),
}

/// Where the log goes on.
pub(crate) struct LogEnd {
    /// Oldest first.
    pub(crate) live: Vec<LiveSegment>,
    /// Other segment files, whole.
    pub(crate) unused: Vec<Segment>,
    /// First page behind the last valid batch.
    pub(crate) page: u32,
    pub(crate) next_batch_number: u64,
    pub(crate) next_lsn: u64,
    /// Chunk data of all finish records up to here is durable.
    pub(crate) data_lsn: u64,
    /// A last batch was torn.
    pub(crate) torn_tail: bool,
    /// The device refused to read a page. What was there is taken for lost, but it may only be out of reach now.
    pub(crate) unreadable: bool,
    /// The highest segment number that any file shows.
    pub(crate) newest_number: u64,
}

/// A segment file at open.
struct Found {
    segment: Segment,
    pages: u64,
    /// Of the newest batch in it; `None` where there is none.
    number: Option<u64>,
}

/// A segment that is or was read.
struct Done {
    live: LiveSegment,
    /// Page behind the last valid batch but the word that the next segment has begun.
    end_page: u64,
}

/// Reads a log from front to back.
pub(crate) struct Replay {
    seal: BatchSeal,
    segment_pages: u64,
    /// Segments to read, oldest first.
    todo: VecDeque<Found>,
    done: Vec<Done>,
    unused: Vec<Segment>,
    reader: Option<Reader>,
    page: u64,
    /// Set by the first valid batch.
    expected_number: Option<u64>,
    next_lsn: u64,
    data_lsn: u64,
    /// Something did not verify since the last valid batch.
    suspect: bool,
    /// Something could not be read since the last valid batch.
    unreadable: bool,
    /// Something could not be read at all.
    any_unreadable: bool,
    /// Delivered after the loss that comes before it.
    held: Option<Item>,
    ended: bool,
    torn_tail: bool,
    newest_number: u64,
    /// The segment behind the last valid batch had begun.
    next_begun: bool,
}

impl Replay {
    /// Looks at all segment files in `dir`.
    pub(crate) async fn begin(
        env: &Env,
        dir: &Path,
        seal: BatchSeal,
        segment_bytes: u64,
    ) -> io::Result<Replay> {
        let segment_pages = segment_bytes / PAGE;
        let mut found = BTreeMap::new();
        let mut unused = Vec::new();
        let mut any_unreadable = false;
        for name in env.list_dir(dir).await? {
            let Some(slot) = segment::slot_of(&name) else { continue };
            let file = env.open(&segment::path(dir, slot), OpenMode::Existing).await?;
            let size = file.size().await?;
            let pages = (size / PAGE).min(segment_pages);
            let segment = Segment { slot, file };
            let mut reader = Reader::new(segment.file.clone(), pages);
            let number = newest_number(&seal, &mut reader).await;
            any_unreadable |= reader.unreadable;
            let short = size < segment_bytes;
            match number {
                Some(number) => {
                    if short {
                        file_to_size(&segment.file, segment_bytes).await?;
                    }
                    let old: Option<Found> =
                        found.insert(number, Found { segment, pages, number: Some(number) });
                    // Two files with one number: cannot be, but for a copied file; the one read later wins.
                    unused.extend(old.map(|old| old.segment));
                }
                None => {
                    // Its making was cut short by a crash.
                    if short {
                        segment::fill(&segment.file, segment_bytes).await?;
                    }
                    unused.push(segment);
                }
            }
        }
        let mut replay = Replay {
            seal,
            segment_pages,
            todo: VecDeque::new(),
            done: Vec::new(),
            unused,
            reader: None,
            page: 0,
            expected_number: None,
            next_lsn: 1,
            data_lsn: 0,
            suspect: false,
            unreadable: false,
            any_unreadable,
            held: None,
            ended: false,
            torn_tail: false,
            newest_number: found.keys().next_back().copied().unwrap_or(0),
            next_begun: false,
        };
        replay.choose_live(found).await;
        Ok(replay)
    }

    /// Splits the files into the log that the newest checkpoint names and the rest.
    async fn choose_live(&mut self, mut found: BTreeMap<u64, Found>) {
        let mut oldest = 0;
        for (number, file) in found.iter().rev() {
            if let Some(checkpoint) = self.first_checkpoint(&file.segment.file, *number).await {
                oldest = checkpoint.oldest_segment;
                break;
            }
        }
        let live = found.split_off(&oldest);
        self.unused.extend(found.into_values().map(|file| file.segment));
        // Where even the oldest segment is not there, or not the one that is needed, records may be lost.
        self.suspect = live.keys().next().is_none_or(|first| *first != oldest.max(1));
        self.todo = live.into_values().collect();
    }

    async fn first_checkpoint(&mut self, file: &File, number: u64) -> Option<Checkpoint> {
        let mut reader = Reader::new(file.clone(), self.segment_pages);
        let batch = reader.batch(&self.seal, 0, number).await;
        self.any_unreadable |= reader.unreadable;
        let (header, batch) = batch?;
        if header.kind != BatchKind::Checkpoint {
            return None;
        }
        Checkpoint::read(self.seal.payload(&header, &batch)?)
    }

    /// The next item; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        if let Some(item) = self.held.take() {
            return Some(item);
        }
        while !self.ended {
            if self.reader.is_none() && !self.next_segment() {
                return self.finish();
            }
            if let Some(item) = self.next_in_segment().await {
                return Some(item);
            }
        }
        None
    }

    fn next_segment(&mut self) -> bool {
        let Some(found) = self.todo.pop_front() else { return false };
        self.reader = Some(Reader::new(found.segment.file.clone(), found.pages));
        self.page = 0;
        let number = found.number.unwrap_or(0);
        let live = LiveSegment { segment: found.segment, number, end_lsn: self.next_lsn };
        self.done.push(Done { live, end_page: 0 });
        true
    }

    /// The next item of the segment in work; `None` at its end.
    async fn next_in_segment(&mut self) -> Option<Item> {
        let number = self.done.last()?.live.number;
        loop {
            let reader = self.reader.as_mut()?;
            if self.page >= reader.pages {
                self.reader = None;
                return None;
            }
            let at = self.page;
            let batch = reader.batch(&self.seal, at, number).await;
            let unreadable = std::mem::take(&mut reader.unreadable);
            self.unreadable |= unreadable;
            self.any_unreadable |= unreadable;
            let valid = batch.and_then(|(header, batch)| {
                // What was written before the last valid batch is not the log's continuation.
                let later = self.expected_number.is_none_or(|expected| header.number >= expected);
                let item = if later { decode(&self.seal, &header, &batch) } else { None };
                if item.is_none() && later {
                    // A batch was here.
                    self.suspect = true;
                }
                item.map(|item| (header, item))
            });
            let Some((header, item)) = valid else {
                self.page += 1;
                continue;
            };
            self.page += header.batch_bytes() as u64 / PAGE;
            return Some(self.deliver(&header, item));
        }
    }

    fn deliver(&mut self, header: &BatchHeader, item: Item) -> Item {
        let first = self.expected_number.is_none();
        let contiguous = match self.expected_number {
            Some(expected) if self.is_begin_without_word(header, expected) => true,
            Some(expected) => header.number == expected,
            // The first batch of all must be the checkpoint that starts the oldest segment.
            None => !self.suspect && header.page == 0 && header.kind == BatchKind::Checkpoint,
        };
        let lost =
            if first { 0..header.first_lsn } else { self.next_lsn..header.first_lsn.max(self.next_lsn) };
        self.expected_number = Some(header.number + 1);
        self.next_lsn = header.end_lsn();
        self.data_lsn = self.data_lsn.max(header.data_lsn);
        self.suspect = false;
        self.unreadable = false;
        self.next_begun = header.kind == BatchKind::Next;
        if let Some(segment) = self.done.last_mut() {
            segment.live.end_lsn = self.next_lsn;
            if !self.next_begun {
                segment.end_page = self.page;
            }
        }
        if contiguous {
            return item;
        }
        self.held = Some(item);
        Item::Lost(lost)
    }

    /// True for the first batch of a segment where a crash came before the segment before it could say that it had
    /// begun.
    fn is_begin_without_word(&self, header: &BatchHeader, expected: u64) -> bool {
        header.kind == BatchKind::Checkpoint
            && header.page == 0
            && header.number == expected + 1
            && header.first_lsn == self.next_lsn
    }

    /// After the last segment: what was there may be torn, or unreadable.
    fn finish(&mut self) -> Option<Item> {
        self.ended = true;
        let nothing = self.expected_number.is_none();
        self.torn_tail = self.suspect && !nothing;
        if nothing || self.unreadable || self.next_begun {
            return Some(Item::Lost(if nothing { 0 } else { self.next_lsn }..u64::MAX));
        }
        None
    }

    /// Where the log goes on, after [`Replay::next`] gave `None`.
    pub(crate) fn end(mut self) -> LogEnd {
        assert!(self.ended);
        // A newest segment without a valid batch is one whose first write was torn: the one before goes on.
        while let Some(empty) = self.done.pop_if(|done| done.end_page == 0) {
            self.unused.push(empty.live.segment);
        }
        let page = self.done.last().map_or(0, |done| done.end_page);
        LogEnd {
            live: self.done.into_iter().map(|done| done.live).collect(),
            unused: self.unused,
            page: page as u32,
            next_batch_number: self.expected_number.unwrap_or(1),
            next_lsn: self.next_lsn,
            data_lsn: self.data_lsn,
            torn_tail: self.torn_tail,
            unreadable: self.any_unreadable,
            newest_number: self.newest_number,
        }
    }
}

/// Gives a segment that was cut short its size back; what was cut off is damage that the replay finds.
async fn file_to_size(file: &File, segment_bytes: u64) -> io::Result<()> {
    file.allocate(0, segment_bytes).await?;
    file.sync_data().await
}

/// The item in a batch, if all of it verifies.
fn decode(seal: &BatchSeal, header: &BatchHeader, batch: &[u8]) -> Option<Item> {
    let payload = seal.payload(header, batch)?;
    match header.kind {
        BatchKind::Checkpoint => {
            Some(Item::Checkpoint { next_lsn: header.first_lsn, checkpoint: Checkpoint::read(payload)? })
        }
        BatchKind::Records => Some(Item::Records {
            first_lsn: header.first_lsn,
            records: read_records(payload, header.record_count)?,
        }),
        BatchKind::Seal | BatchKind::Next => {
            Some(Item::Records { first_lsn: header.first_lsn, records: Vec::new() })
        }
    }
}

/// The number of the life that a segment file is in. Its first page tells, unless it is damaged or was never written.
async fn newest_number(seal: &BatchSeal, reader: &mut Reader) -> Option<u64> {
    if let Some(header) = reader.header(seal, 0).await {
        return Some(header.segment);
    }
    let mut newest = None;
    for page in 1..reader.pages {
        newest = newest.max(reader.header(seal, page).await.map(|header| header.segment));
    }
    newest
}

/// Reads a segment through a window.
struct Reader {
    file: File,
    pages: u64,
    window: Option<AlignedBuf>,
    window_page: u64,
    /// A page could not be read.
    unreadable: bool,
}

impl Reader {
    fn new(file: File, pages: u64) -> Reader {
        Reader { file, pages, window: None, window_page: 0, unreadable: false }
    }

    /// The valid header in `page`, if it belongs there.
    async fn header(&mut self, seal: &BatchSeal, page: u64) -> Option<BatchHeader> {
        let bytes = self.page(page).await?;
        let header = seal.header(bytes)?;
        let fits = page + header.batch_bytes() as u64 / PAGE <= self.pages;
        (u64::from(header.page) == page && fits).then_some(header)
    }

    /// The batch of segment `number` at `page`: its header is valid, its payload is not verified.
    async fn batch(&mut self, seal: &BatchSeal, page: u64, number: u64) -> Option<(BatchHeader, AlignedBuf)> {
        let header = self.header(seal, page).await.filter(|header| header.segment == number)?;
        let mut batch = AlignedBuf::with_len(header.batch_bytes());
        for (i, part) in batch.chunks_mut(ALIGNMENT).enumerate() {
            part.copy_from_slice(self.page(page + i as u64).await?);
        }
        Some((header, batch))
    }

    async fn page(&mut self, page: u64) -> Option<&[u8]> {
        // A segment whose making was cut off has no pages.
        if page >= self.pages {
            return None;
        }
        let inside = self.window.as_ref().is_some_and(|window| {
            (self.window_page..self.window_page + window.len() as u64 / PAGE).contains(&page)
        });
        if !inside {
            let pages = (self.pages - page).min((IO_BYTES_MAX / ALIGNMENT) as u64);
            let read = match self.file.read_at(page * PAGE, pages as usize * ALIGNMENT).await {
                Ok(window) => Ok(window),
                // One bad sector must not hide its neighbours.
                Err(_) => self.file.read_at(page * PAGE, ALIGNMENT).await,
            };
            match read {
                Ok(window) => {
                    self.window = Some(window);
                    self.window_page = page;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.unreadable, true) {
                        tracing::warn!(page, %error, "log page cannot be read");
                    }
                    return None;
                }
            }
        }
        let at = (page - self.window_page) as usize * ALIGNMENT;
        self.window.as_ref().map(|window| &window[at..at + ALIGNMENT])
    }
}
