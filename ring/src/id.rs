//! Identifiers shared by every room. All are fixed-size and ordered by their bytes.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// From sixteen random bytes (RFC 9562 version 4 bits are set).
            pub fn from_random(bytes: [u8; 16]) -> Self {
                $name(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }
            /// From the sixteen stored bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                $name(Uuid::from_bytes(bytes))
            }
            /// The sixteen bytes to store.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// All nodes of one store share it.
    DeploymentId
);
uuid_id!(
    /// One formatted disk; a replaced disk gets a new one.
    DiskUuid
);
uuid_id!(
    /// One object version's data, or one multipart part's data: what its chunks are stored under.
    ObjectId
);
uuid_id!(
    /// One bucket from creation to removal; a bucket created again under the same name has another.
    BucketId
);
uuid_id!(
    /// One multipart upload.
    UploadId
);

/// One Raft group: the root group, or a partition of a set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The group that holds topology, buckets, users and jobs.
    pub const ROOT: GroupId = GroupId(0);
    /// The group of partition `partition` of set `set` (sets counted over all pools).
    pub fn partition(set: u16, partition: u16) -> GroupId {
        GroupId(1 + (u32::from(set) << 8 | u32::from(partition & 0xff)))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group-{}", self.0)
    }
}
impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
