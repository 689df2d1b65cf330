//! Entry points for benches (feature `bench`).

use crate::location::Locations;
use crate::manifest::Manifest;
use crate::rows;
use buckets_env::Instant;
use buckets_index::WriteBatch;
use buckets_meta::RowsId;
use buckets_ring::id::BucketId;
use std::sync::Arc;

const ROWS: RowsId = RowsId(1);

/// What a core remembers of the rows of one replica.
pub struct RememberedLocations {
    locations: Locations,
}

impl RememberedLocations {
    /// Nothing yet, and never more than this many bytes.
    pub fn new(bytes_max: usize) -> RememberedLocations {
        RememberedLocations { locations: Locations::new(bytes_max) }
    }

    /// Remembers what was read.
    pub fn insert(&self, bucket: BucketId, key: &str, manifest: Arc<Manifest>) {
        self.locations.insert_of_rows(ROWS, rows::object(bucket, key.as_bytes()), manifest, Instant(0));
    }

    /// What is remembered.
    pub fn get(&self, bucket: BucketId, key: &str) -> Option<Arc<Manifest>> {
        self.locations.of_rows(ROWS, bucket, key, Instant(0))
    }

    /// A batch is applied to the rows.
    pub fn apply(&self, batch: &WriteBatch) {
        self.locations.apply(ROWS, batch);
    }
}
