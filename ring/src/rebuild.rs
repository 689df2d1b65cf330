//! What is still to be done for a disk that was emptied: `<disk>/.buckets.sys/rebuilding.json`.
//!
//! What must hold: the file is there from before the disk takes part until every chunk that belongs on it was asked for and
//! written again; while it is there, the disk counts as one that lacks chunks.

use crate::id::GroupId;
use crate::sealed_json::{self, SealError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The file beside `format.json`.
pub const REBUILD_FILE: &str = "rebuilding.json";

const VERSION: &str = "1";

/// How far the rebuild of a disk is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebuildJson {
    /// The partitions that have listed all that the disk lacks of theirs.
    pub listed: BTreeSet<GroupId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    listed: Vec<u32>,
}

impl RebuildJson {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let listed = self.listed.iter().map(|group| group.0).collect();
        sealed_json::seal(&File { version: VERSION.to_owned(), listed })
    }

    /// Reads a file. Errors: damaged, or of another version; to begin anew is always right.
    pub fn parse(bytes: &[u8]) -> Result<RebuildJson, SealError> {
        let file: File = sealed_json::open(bytes)?;
        match file.version.as_str() {
            VERSION => Ok(RebuildJson { listed: file.listed.into_iter().map(GroupId).collect() }),
            other => Err(SealError::Shape(format!("its version is {other}, this build knows {VERSION}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_and_damage_is_noticed() {
        let rebuild = RebuildJson { listed: [GroupId(3), GroupId(1)].into() };
        let bytes = rebuild.to_bytes();
        assert_eq!(RebuildJson::parse(&bytes).unwrap(), rebuild);
        let edited = String::from_utf8(bytes).unwrap().replace('3', "4");
        assert!(matches!(RebuildJson::parse(edited.as_bytes()), Err(SealError::Checksum { .. })));
    }
}
