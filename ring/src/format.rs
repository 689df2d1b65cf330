//! The immutable identity of a disk: `format.json`.

use serde::{Deserialize, Serialize};

/// How the blocks of chunks are checksummed; chosen once for a deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockChecksum {
    /// XXH3, 128 bits: the default, at memory speed.
    #[default]
    Xxh3,
    /// BLAKE2b, 256 bits: for operators who want a cryptographic hash at rest.
    Blake2b,
}

impl BlockChecksum {
    /// Bytes of one stored checksum.
    pub const fn bytes(self) -> usize {
        match self {
            BlockChecksum::Xxh3 => 16,
            BlockChecksum::Blake2b => 32,
        }
    }
}
