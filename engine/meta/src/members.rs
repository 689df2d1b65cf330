//! Who belongs to a group: disks, and the numbers that Raft knows them by.
//!
//! What must hold: a disk has the same Raft number in every group and process, derived from its uuid alone; no two
//! members of a group share a number; the members that a log began with are the same on every voter.
//!
//! ```text
//! members v1:  version u8 = 1 | auto leave u8 | count of voters u8 | of learners u8 | of outgoing voters u8
//!              | of voters that become learners u8 | disk uuid (16 bytes) ...   in that order
//! ```

use crate::limits::VOTERS_MAX;
use buckets_ring::id::DiskUuid;
use bytes::Bytes;
use raft::eraftpb::ConfState;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 6;

/// Members that cannot be read, or that no group can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the members of a group cannot be used: {what}")]
pub struct BadMembers {
    /// What was seen.
    pub what: &'static str,
}

/// The Raft number of a disk; never zero.
pub(crate) fn raft_id(disk: DiskUuid) -> u64 {
    xxh3_64(disk.as_bytes()).max(1)
}

/// The configuration of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members {
    lists: [Vec<DiskUuid>; 4],
    auto_leave: bool,
    disks: BTreeMap<u64, DiskUuid>,
}

impl Members {
    /// A group of voters alone, as it begins.
    pub(crate) fn of_voters(voters: &[DiskUuid]) -> Result<Members, BadMembers> {
        let mut voters = voters.to_vec();
        voters.sort_unstable();
        Members::new([voters, Vec::new(), Vec::new(), Vec::new()], false)
    }

    fn new(lists: [Vec<DiskUuid>; 4], auto_leave: bool) -> Result<Members, BadMembers> {
        if lists[0].is_empty() {
            return Err(BadMembers { what: "no voters" });
        }
        let mut disks = BTreeMap::new();
        for list in &lists {
            if list.len() > VOTERS_MAX {
                return Err(BadMembers { what: "too many members" });
            }
            if list.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(BadMembers { what: "a disk is named twice, or the order is wrong" });
            }
            for disk in list {
                if disks.insert(raft_id(*disk), *disk).is_some_and(|other| other != *disk) {
                    return Err(BadMembers { what: "two disks share a number" });
                }
            }
        }
        Ok(Members { lists, auto_leave, disks })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + 16 * self.disks.len());
        bytes.extend([VERSION, u8::from(self.auto_leave)]);
        bytes.extend(self.lists.iter().map(|list| list.len() as u8));
        for disk in self.lists.iter().flatten() {
            bytes.extend(disk.as_bytes());
        }
        bytes.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Members, BadMembers> {
        let Some((head, mut rest)) = bytes.split_at_checked(HEAD_BYTES) else {
            return Err(BadMembers { what: "too short" });
        };
        if head[0] != VERSION || head[1] > 1 {
            return Err(BadMembers { what: "unknown version" });
        }
        let mut lists = [const { Vec::new() }; 4];
        for (list, count) in lists.iter_mut().zip(&head[2..]) {
            for _ in 0..*count {
                let Some((disk, behind)) = rest.split_first_chunk::<16>() else {
                    return Err(BadMembers { what: "too short" });
                };
                list.push(DiskUuid::from_bytes(*disk));
                rest = behind;
            }
        }
        if !rest.is_empty() {
            return Err(BadMembers { what: "too long" });
        }
        Members::new(lists, head[1] == 1)
    }

    pub(crate) fn conf_state(&self) -> ConfState {
        let ids = |list: &Vec<DiskUuid>| list.iter().map(|disk| raft_id(*disk)).collect::<Vec<_>>();
        let mut conf = ConfState::default();
        conf.set_voters(ids(&self.lists[0]));
        conf.set_learners(ids(&self.lists[1]));
        conf.set_voters_outgoing(ids(&self.lists[2]));
        conf.set_learners_next(ids(&self.lists[3]));
        conf.set_auto_leave(self.auto_leave);
        conf
    }

    /// The voters, sorted (the incoming ones during a change).
    pub(crate) fn voters(&self) -> &[DiskUuid] {
        &self.lists[0]
    }

    /// Voters of which a majority decides.
    pub(crate) fn majority(&self) -> usize {
        self.voters().len() / 2 + 1
    }

    /// The disk behind a Raft number.
    pub(crate) fn disk(&self, raft_id: u64) -> Option<DiskUuid> {
        self.disks.get(&raft_id).copied()
    }

    pub(crate) fn contains(&self, disk: DiskUuid) -> bool {
        self.disks.contains_key(&raft_id(disk))
    }

    /// All disks that take part.
    pub(crate) fn all(&self) -> impl Iterator<Item = DiskUuid> {
        self.disks.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(number: u8) -> DiskUuid {
        DiskUuid::from_bytes([number; 16])
    }

    #[test]
    fn members_survive() {
        let members = Members::of_voters(&[disk(3), disk(1), disk(2)]).unwrap();
        assert_eq!(members.voters(), [disk(1), disk(2), disk(3)]);
        assert_eq!(Members::decode(&members.encode()).unwrap(), members);
        assert_eq!(members.majority(), 2);
        assert_eq!(members.disk(raft_id(disk(2))), Some(disk(2)));
        let joint =
            Members::new([vec![disk(1), disk(4)], vec![], vec![disk(1), disk(2)], vec![]], true).unwrap();
        assert_eq!(Members::decode(&joint.encode()).unwrap(), joint);
    }

    #[test]
    fn impossible_members_are_refused() {
        assert!(Members::of_voters(&[]).is_err());
        assert!(Members::of_voters(&[disk(1), disk(1)]).is_err());
        let bytes = Members::of_voters(&[disk(1), disk(2)]).unwrap().encode();
        for end in 0..bytes.len() {
            assert!(Members::decode(&bytes[..end]).is_err());
        }
        assert!(Members::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}
