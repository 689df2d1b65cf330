//! The identity of one disk: `<disk>/.buckets.sys/format.json`.
//!
//! What must hold: written once when the disk is formatted, never changed. A [`FormatJson`] in memory was sealed by us or
//! read from an intact file and satisfies the rules of [`FormatJson::parse`]. Where later generations changed a
//! set's disks, `topology.json` says so; the sets here are those of the day the disk was formatted.

use crate::coding::Coding;
use crate::id::{DeploymentId, DiskUuid};
use crate::sealed_json::{self, SealError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The directory of a disk's identity.
pub const SYSTEM_DIR: &str = ".buckets.sys";
/// The identity file in it.
pub const FORMAT_FILE: &str = "format.json";
/// The newest version of the binary formats that this build writes, and the oldest and newest it reads.
pub const FORMAT_VERSION: u32 = 1;

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

    /// As written in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            BlockChecksum::Xxh3 => "xxh3",
            BlockChecksum::Blake2b => "blake2b",
        }
    }
}

impl std::fmt::Display for BlockChecksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no block checksum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a block checksum; choose xxh3 or blake2b")]
pub struct BlockChecksumError(String);

impl std::str::FromStr for BlockChecksum {
    type Err = BlockChecksumError;

    fn from_str(text: &str) -> Result<BlockChecksum, BlockChecksumError> {
        [BlockChecksum::Xxh3, BlockChecksum::Blake2b]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| BlockChecksumError(text.to_owned()))
    }
}

/// Why a `format.json` was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Damaged, edited, or not ours.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Written by another program or a later version.
    #[error("its {what} is {found}, this version understands {expected}")]
    Unsupported {
        /// Which member.
        what: &'static str,
        /// Its value.
        found: String,
        /// What this build reads.
        expected: String,
    },
    /// Intact and understood, but contradictory.
    #[error("it contradicts itself: {0}")]
    Contradiction(String),
}

/// The identity of one disk and of the deployment it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatJson {
    /// The deployment.
    pub deployment: DeploymentId,
    /// This disk.
    pub disk: DiskUuid,
    /// The sets that were formatted together, each of `coding.n()` disks in slot order.
    pub sets: Vec<Vec<DiskUuid>>,
    /// K+M of these sets.
    pub coding: Coding,
    /// How blocks are checksummed.
    pub block_checksum: BlockChecksum,
}

impl FormatJson {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        sealed_json::seal(&v1::File {
            version: v1::VERSION.to_owned(),
            format: v1::FORMAT.to_owned(),
            id: self.deployment,
            format_version: FORMAT_VERSION,
            erasure: self.coding,
            block_checksum: self.block_checksum,
            xl: v1::Xl {
                version: v1::XL_VERSION.to_owned(),
                this: self.disk,
                distribution_algo: v1::DISTRIBUTION.to_owned(),
                sets: self.sets.clone(),
            },
        })
    }

    /// Reads a file: intact, of a known version, every set of K+M different disks, this disk among them.
    pub fn parse(bytes: &[u8]) -> Result<FormatJson, FormatError> {
        let file: v1::File = sealed_json::open(bytes)?;
        let known = [
            ("version", file.version.as_str(), v1::VERSION),
            ("format", file.format.as_str(), v1::FORMAT),
            ("xl.version", file.xl.version.as_str(), v1::XL_VERSION),
            ("xl.distributionAlgo", file.xl.distribution_algo.as_str(), v1::DISTRIBUTION),
        ];
        for (what, found, expected) in known {
            if found != expected {
                return Err(unsupported(what, found, expected));
            }
        }
        if file.format_version != FORMAT_VERSION {
            return Err(unsupported(
                "formatVersion",
                &file.format_version.to_string(),
                &FORMAT_VERSION.to_string(),
            ));
        }
        let format = FormatJson {
            deployment: file.id,
            disk: file.xl.this,
            sets: file.xl.sets,
            coding: file.erasure,
            block_checksum: file.block_checksum,
        };
        match format.contradiction() {
            Some(what) => Err(FormatError::Contradiction(what)),
            None => Ok(format),
        }
    }

    /// The same sets seen from another of their disks.
    pub fn for_disk(&self, disk: DiskUuid) -> FormatJson {
        FormatJson { disk, ..self.clone() }
    }

    /// Set and slot of a disk in the sets as formatted.
    pub fn place_of(&self, disk: DiskUuid) -> Option<(usize, usize)> {
        self.sets
            .iter()
            .enumerate()
            .find_map(|(set, disks)| disks.iter().position(|d| *d == disk).map(|slot| (set, slot)))
    }

    fn contradiction(&self) -> Option<String> {
        let n = usize::from(self.coding.n());
        if let Some((index, set)) = self.sets.iter().enumerate().find(|(_, set)| set.len() != n) {
            return Some(format!("set {index} has {} disks, {} needs {n}", set.len(), self.coding));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.sets.iter().flatten().find(|disk| !seen.insert(**disk)) {
            return Some(format!("disk {twice} is in its sets twice"));
        }
        if !seen.contains(&self.disk) {
            return Some(format!("this disk, {}, is in none of its sets", self.disk));
        }
        None
    }
}

fn unsupported(what: &'static str, found: &str, expected: &str) -> FormatError {
    FormatError::Unsupported { what, found: found.to_owned(), expected: expected.to_owned() }
}

mod v1 {
    use crate::coding::Coding;
    use crate::id::{DeploymentId, DiskUuid};
    use serde::{Deserialize, Serialize};

    pub(super) const VERSION: &str = "1";
    pub(super) const FORMAT: &str = "erasure";
    pub(super) const XL_VERSION: &str = "3";
    pub(super) const DISTRIBUTION: &str = "xxh3-ring150";

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct File {
        pub(super) version: String,
        pub(super) format: String,
        pub(super) id: DeploymentId,
        pub(super) format_version: u32,
        pub(super) erasure: Coding,
        pub(super) block_checksum: super::BlockChecksum,
        pub(super) xl: Xl,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct Xl {
        pub(super) version: String,
        pub(super) this: DiskUuid,
        pub(super) distribution_algo: String,
        pub(super) sets: Vec<Vec<DiskUuid>>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(n: u8) -> DiskUuid {
        DiskUuid::from_bytes([n; 16])
    }

    fn format() -> FormatJson {
        FormatJson {
            deployment: DeploymentId::from_bytes([0xd0; 16]),
            disk: disk(3),
            sets: vec![(1..=4).map(disk).collect(), (5..=8).map(disk).collect()],
            coding: Coding::new(2, 2).unwrap(),
            block_checksum: BlockChecksum::Xxh3,
        }
    }

    /// `edit` applied to the text, sealed again, so that only the rules behind the seal refuse it.
    fn resealed(edit: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let mut value: serde_json::Value = serde_json::from_slice(&format().to_bytes()).unwrap();
        value.as_object_mut().unwrap().remove("checksum");
        edit(&mut value);
        sealed_json::seal(&value)
    }

    #[test]
    fn what_was_written_is_read() {
        let format = format();
        assert_eq!(FormatJson::parse(&format.to_bytes()), Ok(format.clone()));
        assert_eq!(format.place_of(disk(7)), Some((1, 2)));
        assert_eq!(format.place_of(disk(9)), None);
        assert_eq!(FormatJson::parse(&format.for_disk(disk(7)).to_bytes()).unwrap().disk, disk(7));
    }

    #[test]
    fn the_file_keeps_its_known_shape() {
        let value: serde_json::Value = serde_json::from_slice(&format().to_bytes()).unwrap();
        assert_eq!(value["version"], "1");
        assert_eq!(value["format"], "erasure");
        assert_eq!(value["id"], "d0d0d0d0-d0d0-d0d0-d0d0-d0d0d0d0d0d0");
        assert_eq!(value["xl"]["version"], "3");
        assert_eq!(value["xl"]["this"], disk(3).to_string());
        assert_eq!(value["xl"]["sets"][1][0], disk(5).to_string());
        assert_eq!(value["erasure"]["parity"], 2);
        assert_eq!(value["blockChecksum"], "xxh3");
        // The seal of this content, so that it never changes unseen.
        assert_eq!(value["checksum"], "xxh3-128:0415d446fff88e289cd9e31f7cffdcc5");
    }

    #[test]
    fn order_and_spacing_do_not_matter() {
        let value: serde_json::Value = serde_json::from_slice(&format().to_bytes()).unwrap();
        let members = value.as_object().unwrap();
        let backwards: Vec<String> =
            members.iter().rev().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        assert_eq!(FormatJson::parse(format!("{{{}}}", backwards.join(",")).as_bytes()), Ok(format()));
    }

    #[test]
    fn any_flipped_byte_is_refused() {
        let good = format().to_bytes();
        for at in 0..good.len() {
            for flip in [1u8, 0x20, 0x80] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                // A flip of white space to white space, or in the case of a hex digit of the seal, may read the same.
                assert!(
                    FormatJson::parse(&bytes).map_or(true, |read| read == format()),
                    "byte {at} ^ {flip}"
                );
            }
        }
        for len in 0..good.len() - 2 {
            assert!(FormatJson::parse(&good[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn other_versions_and_contradictions_are_refused() {
        let refused = |edit: &dyn Fn(&mut serde_json::Value)| FormatJson::parse(&resealed(edit)).unwrap_err();
        assert!(matches!(refused(&|v| v["formatVersion"] = 2.into()), FormatError::Unsupported { .. }));
        assert!(matches!(refused(&|v| v["format"] = "xl".into()), FormatError::Unsupported { .. }));
        assert!(matches!(
            refused(&|v| v["xl"]["this"] = disk(9).to_string().into()),
            FormatError::Contradiction(_)
        ));
        assert!(matches!(refused(&|v| v["erasure"]["data"] = 3.into()), FormatError::Contradiction(_)));
        assert!(matches!(
            refused(&|v| v["erasure"]["data"] = 0.into()),
            FormatError::Seal(SealError::Shape(_))
        ));
        let twice = |v: &mut serde_json::Value| v["xl"]["sets"][0][0] = disk(8).to_string().into();
        assert!(matches!(refused(&twice), FormatError::Contradiction(_)));
    }
}
