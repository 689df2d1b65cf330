//! What a core counts; summed over cores when it is asked for.

use buckets_peer::HandshakeError;
use std::cell::Cell;

macro_rules! counters {
    (counted { $($(#[$doc:meta])* $name:ident),* $(,)? } measured { $($(#[$gauge_doc:meta])* $gauge:ident),* $(,)? }) => {
        /// The counters of one core, counted in place.
        #[derive(Default)]
        pub(crate) struct LiveCounters { $($(#[$doc])* pub(crate) $name: Cell<u64>,)* }

        /// The counters of one core at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct CoreCounters {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$gauge_doc])* pub $gauge: u64,)*
            /// One line a disk of this core: place in the node map, and its own counters by name.
            pub disks: Vec<(u16, Vec<(&'static str, u64)>)>,
        }

        impl LiveCounters {
            pub(crate) fn read(&self) -> CoreCounters {
                CoreCounters { $($name: self.$name.get(),)* ..CoreCounters::default() }
            }
        }

        impl CoreCounters {
            /// Adds another core's.
            pub fn add(&mut self, other: CoreCounters) {
                $(self.$name += other.$name;)*
                $(self.$gauge += other.$gauge;)*
                self.disks.extend(other.disks);
            }

            /// Sets one by its name; one of another build is left out.
            pub(crate) fn set(&mut self, name: &str, value: u64) {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    $(stringify!($gauge) => self.$gauge = value,)*
                    _ => {}
                }
            }

            /// Names and values of what only grows.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            /// Names and values of what comes and goes.
            pub fn gauges(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($gauge), self.$gauge),)*]
            }
        }
    };
}

counters! {
    counted {
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
        /// Chunks that were missing or damaged and were written again.
        chunks_repaired,
        /// Bytes of them.
        bytes_repaired,
        /// New parts that lost so many disks while they were written that they were copied to the others.
        parts_copied,
        /// Chunks of new parts that were not waited for, because enough others were written and these took too long.
        chunks_given_up,
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
    measured {
        /// Parts that are known to wait for chunks to be written again, in the partitions that this core leads.
        parts_to_repair,
        /// Bytes of these chunks, of parts that were looked at.
        bytes_to_repair,
    }
}

/// Counts one up.
pub(crate) fn count(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get().wrapping_add(by));
}

/// Connections between nodes that were refused, or never came to their proof, by what was wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedConnections(pub(crate) [u64; HandshakeError::KINDS]);

impl RefusedConnections {
    /// Adds others.
    pub(crate) fn add(&mut self, other: &RefusedConnections) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// Sets one by its name; one of another build is left out.
    pub(crate) fn set(&mut self, name: &str, value: u64) {
        if let Some(kind) = (0..self.0.len()).find(|kind| HandshakeError::kind_name(*kind) == name) {
            self.0[kind] = value;
        }
    }

    /// Names and values, of all kinds.
    pub fn values(&self) -> Vec<(&'static str, u64)> {
        let named = |(kind, count): (usize, &u64)| (HandshakeError::kind_name(kind), *count);
        self.0.iter().enumerate().map(named).collect()
    }
}
