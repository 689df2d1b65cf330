//! The JSON of the admin interface, `/buckets/admin/v1/...`: one home for both of its ends.
//!
//! What must hold: what is not known is `null` or `unknown`, never a zero; members are added, never changed.
//!
//! ```text
//! GET    /buckets/admin/v1/info                     -> ServerInfo
//! GET    /buckets/admin/v1/users                    -> UserList
//! POST   /buckets/admin/v1/users      NewUser       -> CreatedUser
//! DELETE /buckets/admin/v1/users?accessKey=KEY      -> 204
//! POST   /buckets/admin/v1/nodes/drain?node=NAME    -> 204
//! DELETE /buckets/admin/v1/nodes/drain?node=NAME    -> 204
//! anything that fails                               -> AdminError with a 4xx or 5xx status
//! ```
//!
//! Requests are signed (SigV4, service `s3`) with the root credentials.

use crate::verdict::Verdict;
use buckets_ring::id::{DeploymentId, DiskUuid};
use buckets_ring::{Coding, SetState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Path of [`ServerInfo`].
pub const INFO_PATH: &str = "/buckets/admin/v1/info";
/// Path of the users.
pub const USERS_PATH: &str = "/buckets/admin/v1/users";
/// Query parameter of DELETE on [`USERS_PATH`].
pub const ACCESS_KEY_PARAMETER: &str = "accessKey";
/// Path of draining: POST begins it, DELETE ends it.
pub const DRAIN_PATH: &str = "/buckets/admin/v1/nodes/drain";
/// Query parameter of both: [`NodeInfo::name`].
pub const NODE_PARAMETER: &str = "node";

/// The state of a deployment, as one node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// The program's version.
    pub version: String,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// The topology in force.
    pub generation: u64,
    /// Seconds since the node started.
    pub uptime_seconds: u64,
    /// How safe the data is, all sets together.
    pub verdict: Verdict,
    /// The nodes, as the one that answers sees them; none where the deployment has local disks only.
    #[serde(default)]
    pub nodes: Vec<NodeInfo>,
    /// The sets that are not removed.
    pub sets: Vec<SetInfo>,
    /// Damage found since the nodes started that told.
    pub damage: DamageInfo,
    /// Chunks that are written again; `null` where unknown.
    #[serde(default)]
    pub repairs: Option<RepairInfo>,
}

/// Whether a node is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeCondition {
    /// It answers.
    Up,
    /// It answers, and shall lead nothing, so that it can be stopped.
    Draining,
    /// Nothing was heard of it since the node that answers started.
    Awaited,
    /// It does not answer any more.
    Unreachable,
    /// Not known to this program.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for NodeCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            NodeCondition::Up => "up",
            NodeCondition::Draining => "draining",
            NodeCondition::Awaited => "awaited",
            NodeCondition::Unreachable => "unreachable",
            NodeCondition::Unknown => "unknown",
        })
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Host and port, as the cluster file has them.
    pub name: String,
    /// Whether it is the one that answers.
    pub own: bool,
    /// Whether it is heard.
    pub condition: NodeCondition,
    /// It answers much later than it has, or than others do; in that case it leads nothing.
    pub slow: bool,
    /// How many partitions it leads, the root group among them; `null` where it does not tell.
    #[serde(default)]
    pub leads: Option<u64>,
    /// How many cores it has, once it has told.
    pub cores: Option<u16>,
    /// Its disks in service.
    pub disks_in_service: u32,
    /// All its disks.
    pub disks_total: u32,
    /// The smoothed round trip to it, in microseconds.
    pub round_trip_micros: Option<u64>,
    /// Connections to it since the node that answers started; `null` to itself.
    pub connections: Option<ConnectionsInfo>,
    /// Connections of others that it refused since it started, by what was wrong; kinds that never occurred are left out.
    pub refused: Option<BTreeMap<String, u64>>,
    /// Of the partitions that it leads.
    pub repairs: Option<RepairInfo>,
}

/// Connections from one node to another, all cores together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionsInfo {
    /// Made.
    pub made: u64,
    /// Lost.
    pub lost: u64,
    /// Attempts at which nobody answered.
    pub unreachable: u64,
    /// Attempts that were refused, by what was wrong; kinds that never occurred are left out.
    pub refused: BTreeMap<String, u64>,
}

/// Chunks that are written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RepairInfo {
    /// Parts that are known to wait for it.
    pub parts_to_repair: u64,
    /// Bytes of their chunks that are to be written, of parts that were looked at: after a start that takes a while.
    pub bytes_to_repair: u64,
    /// Chunks written again since the nodes started.
    pub chunks_repaired: u64,
    /// Bytes of them.
    pub bytes_repaired: u64,
    /// Log entries that disks have to catch up with; what is on its way to well disks at any moment is not counted.
    pub entries_behind: u64,
    /// Nodes that did not tell theirs.
    pub nodes_unknown: u32,
}

/// One erasure set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetInfo {
    /// Its number.
    pub set: u16,
    /// K+M.
    pub erasure: Coding,
    /// Active, draining.
    pub state: SetState,
    /// Its part of the verdict.
    pub verdict: Verdict,
    /// Further disks that may fail while everything stays readable; `null` where it is not readable now.
    pub failures_tolerated: Option<u8>,
    /// Whether writes are accepted.
    pub writable: bool,
    /// Objects known to lack chunks; `null` where unknown.
    pub degraded_objects: Option<u64>,
    /// By slot.
    pub disks: Vec<DiskInfo>,
}

/// What a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskCondition {
    /// Takes part.
    Ok,
    /// A write or flush failed: not used until it could be opened again.
    Fenced,
    /// Its metadata is damaged: its chunks are read, nothing is written to it until it is replaced.
    Damaged,
    /// It was emptied, and its chunks are being written again: takes part, and counts as lost until that is done.
    Rebuilding,
    /// Not found, not readable, or not formatted.
    Missing,
    /// Found, but not believed (damaged identity or metadata, foreign, swapped).
    Refused,
    /// Not known to the node that answers.
    #[serde(other)]
    Unknown,
}

impl std::fmt::Display for DiskCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            DiskCondition::Ok => "ok",
            DiskCondition::Fenced => "fenced",
            DiskCondition::Damaged => "damaged",
            DiskCondition::Rebuilding => "rebuilding",
            DiskCondition::Missing => "missing",
            DiskCondition::Refused => "refused",
            DiskCondition::Unknown => "unknown",
        })
    }
}

/// One disk of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskInfo {
    /// Its slot.
    pub slot: u8,
    /// The disk.
    pub uuid: DiskUuid,
    /// Where it is: its directory, behind the name of its node where there are several.
    pub endpoint: String,
    /// Its node's name; `null` where the deployment has local disks only.
    #[serde(default)]
    pub node: Option<String>,
    /// Its directory.
    #[serde(default)]
    pub path: String,
    /// What it does.
    pub condition: DiskCondition,
    /// It takes long beside the others.
    #[serde(default)]
    pub slow: bool,
    /// A sentence where it is not ok: what happened and what to do.
    pub reason: Option<String>,
    /// Size of its file system, in bytes.
    pub total_bytes: Option<u64>,
    /// Bytes that may still be written.
    pub free_bytes: Option<u64>,
    /// Damaged blocks and records found on it since the node started.
    pub corruptions: Option<u64>,
    /// Log entries that it has to catch up with.
    #[serde(default)]
    pub entries_behind: u64,
}

/// Damage found since the node started, all disks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DamageInfo {
    /// Blocks that failed their checksum.
    pub corrupt_blocks: u64,
    /// Blocks given to clients after they were reconstructed.
    pub reconstructed_blocks: u64,
    /// Chunks written again.
    pub repaired_chunks: u64,
    /// Damaged records of logs and indexes.
    pub corrupt_metadata: u64,
}

/// All users but root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserList {
    /// By access key.
    pub users: Vec<UserEntry>,
}

/// A user, without the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserEntry {
    /// The access key.
    pub access_key: String,
    /// Unix milliseconds.
    pub created_unix_ms: u64,
}

/// A user to be made; what is left out is generated.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NewUser {
    /// The access key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// The secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
}

/// A user that was made; the only time the secret is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedUser {
    /// The access key.
    pub access_key: String,
    /// The secret.
    pub secret_key: String,
}

/// The body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminError {
    /// An S3 error code, such as `AccessDenied`.
    pub code: String,
    /// A sentence.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_later_servers_are_unknown_not_an_error() {
        assert_eq!(serde_json::from_str::<DiskCondition>("\"healing\"").unwrap(), DiskCondition::Unknown);
        assert_eq!(serde_json::to_string(&DiskCondition::Fenced).unwrap(), "\"fenced\"");
        assert_eq!(serde_json::from_str::<NodeCondition>("\"leaving\"").unwrap(), NodeCondition::Unknown);
        assert_eq!(serde_json::to_string(&NodeCondition::Up).unwrap(), "\"up\"");
    }

    #[test]
    fn a_new_user_leaves_out_what_is_to_be_generated() {
        assert_eq!(serde_json::to_string(&NewUser::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<NewUser>(r#"{"acessKey":"typo"}"#).is_err());
    }
}
