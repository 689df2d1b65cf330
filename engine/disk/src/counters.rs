//! What a disk counts, for `/metrics`. All values only grow, from zero at open.

use std::cell::Cell;
use std::rc::Rc;

/// Upper bounds (in records) of the classes of [`CounterValues::wal_batch_records_classes`]: 1, 2, 4, ..., 512, more.
pub const BATCH_CLASSES: usize = 11;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Live counters of one disk.
        #[derive(Default)]
        pub(crate) struct CounterCells {
            $(pub(crate) $name: Cell<u64>,)+
            pub(crate) wal_batch_records_classes: [Cell<u64>; BATCH_CLASSES],
        }

        /// A reading of the counters of one disk.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CounterValues {
            $($(#[$doc])* pub $name: u64,)+
            /// Batches by their number of records; class `i` holds those with up to `2^i`.
            pub wal_batch_records_classes: [u64; BATCH_CLASSES],
        }

        impl CounterCells {
            pub(crate) fn read(&self) -> CounterValues {
                CounterValues {
                    $($name: self.$name.get(),)+
                    wal_batch_records_classes: std::array::from_fn(|i| self.wal_batch_records_classes[i].get()),
                }
            }
        }

        impl CounterValues {
            /// Name and value of each plain counter, for printing.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)+]
            }
        }
    };
}

counters! {
    /// Batches written to the log.
    wal_batches,
    /// Records in them.
    wal_records,
    /// Bytes of records, without headers and padding.
    wal_payload_bytes,
    /// Bytes written to the log.
    wal_bytes,
    /// Seals written.
    wal_seals,
    /// Segments started.
    wal_segments_started,
    /// Times that entries of an idle replica were logged again to free a segment.
    wal_relogs,
    /// Times that an index was flushed to free a segment.
    wal_forced_flushes,
    /// Damaged places found in the log at open.
    wal_damages,
    /// Torn last batches found at open (a crash, no damage).
    wal_torn_tails,
    /// Replicas found damaged at open.
    replicas_damaged,
    /// Blocks of chunks read.
    block_reads,
    /// Bytes of them.
    block_read_bytes,
    /// Blocks of chunks written.
    block_writes,
    /// Bytes of them.
    block_write_bytes,
    /// Flushes of space files.
    data_flushes,
    /// Waits for a flush of a space file: above `data_flushes` where they were shared.
    data_flush_waits,
    /// Chunks finished.
    chunks_finished,
    /// Chunks deleted.
    chunks_deleted,
    /// Chunks given up before they were finished: aborted or expired.
    chunks_abandoned,
    /// Chunks found unfinished behind a durable record at open (a crash between data and record).
    chunks_voided,
    /// Blocks that did not verify.
    blocks_corrupt,
    /// Reads of chunks that are not here.
    chunks_missing,
    /// Reads that the device refused.
    read_errors,
    /// Look-ups that the chunk table could not answer because it is damaged.
    table_corruptions,
    /// Chunk records lost by damage of the log.
    chunk_chain_breaks,
    /// Times the free map was built anew from the chunk table.
    free_map_rebuilds,
    /// Chunks dropped because newer ones claim their space.
    chunks_overlapped,
    /// Chunks refused because the disk is full.
    refused_no_space,
    /// Blocks verified by the scrubber.
    scrubbed_blocks,
    /// Bytes of them.
    scrubbed_bytes,
}

impl CounterCells {
    pub(crate) fn batch(&self, records: u32) {
        let class = records.max(1).next_power_of_two().trailing_zeros() as usize;
        add(&self.wal_batch_records_classes[class.min(BATCH_CLASSES - 1)], 1);
    }
}

pub(crate) fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

pub(crate) type Counters = Rc<CounterCells>;
