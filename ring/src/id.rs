//! Identifiers shared by every room. All are fixed-size and ordered by their bytes.

use crate::endpoint::Endpoint;
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

impl DiskUuid {
    /// The first disk at a place of a deployment of several nodes, so that each node knows the ids of all disks without
    /// asking: RFC 9562 version 5, name space the deployment, name the endpoint as it is printed.
    pub fn of_endpoint(deployment: DeploymentId, endpoint: &Endpoint) -> DiskUuid {
        DiskUuid(Uuid::new_v5(&deployment.0, endpoint.to_string().as_bytes()))
    }
}

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

impl ObjectId {
    /// The version that an upload becomes: always the same one, so that a completion that is asked for again is recognised in
    /// the key's current version. RFC 9562 version 5, name space the upload.
    pub fn of_upload(upload: UploadId) -> ObjectId {
        ObjectId(Uuid::new_v5(&upload.0, b"object"))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_disk_of_a_place_keeps_its_known_id() {
        let deployment = DeploymentId::from_bytes([0xd0; 16]);
        let endpoint = "http://node1:9100/mnt/disk1".parse().unwrap();
        let disk = DiskUuid::of_endpoint(deployment, &endpoint);
        assert_eq!(disk.to_string(), "381f6ae1-344d-5652-97c3-9c084dd2b74e");
        assert_eq!(disk.0.get_version_num(), 5);
    }

    proptest! {
        #[test]
        fn an_id_is_of_one_place_of_one_deployment(
            deployments in any::<[[u8; 16]; 2]>(),
            hosts in any::<[u8; 2]>(),
            disks in any::<[u8; 2]>(),
        ) {
            let id = |i: usize| {
                let deployment = DeploymentId::from_bytes(deployments[i]);
                let place = format!("http://node{}:9100/mnt/disk{}", hosts[i], disks[i]);
                let id = DiskUuid::of_endpoint(deployment, &place.parse().unwrap());
                ((deployment, place), id)
            };
            let ((one, first), (other, second)) = (id(0), id(1));
            prop_assert_eq!(one == other, first == second);
        }
    }
}
