//! What a core counts; summed over cores when metrics are asked for.

use std::cell::Cell;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counters of one core, counted in place.
        #[derive(Default)]
        pub(crate) struct LiveCounters { $($(#[$doc])* pub(crate) $name: Cell<u64>,)* }

        /// The counters of one core at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct CoreCounters {
            $($(#[$doc])* pub $name: u64,)*
            /// One line a disk of this core: place in the node map, and its own counters by name.
            pub disks: Vec<(u16, Vec<(&'static str, u64)>)>,
        }

        impl LiveCounters {
            pub(crate) fn read(&self) -> CoreCounters {
                CoreCounters { $($name: self.$name.get(),)* disks: Vec::new() }
            }
        }

        impl CoreCounters {
            /// Adds another core's.
            pub fn add(&mut self, other: CoreCounters) {
                $(self.$name += other.$name;)*
                self.disks.extend(other.disks);
            }

            /// Sets one by its name; one of another build is left out.
            pub(crate) fn set(&mut self, name: &str, value: u64) {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => {}
                }
            }

            /// Names and values.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Body bytes written by clients.
    bytes_written,
    /// Body bytes read by clients.
    bytes_read,
    /// Blocks that were damaged, missing or unreadable and were rebuilt from others for a reader.
    blocks_reconstructed,
    /// Blocks whose checksum did not fit.
    blocks_damaged,
    /// Damaged rows and tables of partition replicas; another replica took over.
    rows_damaged,
    /// Chunks that a manifest names and that are not on their disk.
    chunks_missing,
    /// Chunks that a write could not place; the object has less redundancy until repair.
    chunks_unplaced,
    /// Slow disks that got no chunk of a write; the object has fewer data chunks and as much parity instead.
    slow_disks_left_out,
    /// Reads that asked another disk because one was slow.
    reads_hedged,
    /// Chunks freed behind deletes and overwrites.
    chunks_freed,
    /// Chunks of writes that never happened, found after a crash.
    orphans_collected,
    /// Questions for an object whose manifest was remembered.
    location_hits,
    /// Questions for an object whose manifest had to be read.
    location_misses,
    /// Questions that were asked again because leadership moved.
    questions_retried,
    /// Reads served without a majority.
    salvage_reads,
}

/// Counts one up.
pub(crate) fn count(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get().wrapping_add(by));
}
