//! From what the disks say about themselves to one deployment: which disk is which, which are refused and why.
//!
//! What must hold:
//! - The deployment is that of most disks; a tie is refused, not guessed.
//! - The topology is the newest intact copy of that deployment. It is written to disks only after the root group has
//!   decided it, so one copy is proof enough; two different copies of one generation are refused.
//! - A disk is known by its uuid, never by its place alone; a place is only used to tell a mistake from a move.
//! - Every refusal is a sentence that says which disk, what was expected and what to do.

use crate::endpoint::Endpoint;
use crate::format::{BlockChecksum, FormatError, FormatJson};
use crate::id::{DeploymentId, DiskUuid};
use crate::topology::{TopologyError, TopologyJson};
use std::collections::BTreeMap;
use std::fmt;

/// One identity file as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundFile {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// The disk can be read but has no such file.
    Absent,
    /// The disk or the file cannot be read: why.
    Unreadable(String),
}

/// What was found at one configured place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDisk {
    /// The place, as configured.
    pub endpoint: Endpoint,
    /// `format.json`.
    pub format: FoundFile,
    /// `topology.json`.
    pub topology: FoundFile,
}

/// The deployment that most disks belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembly {
    /// The deployment.
    pub deployment: DeploymentId,
    /// How its blocks are checksummed.
    pub block_checksum: BlockChecksum,
    /// Its newest topology.
    pub topology: TopologyJson,
    /// The disks that take part, in the order they were given.
    pub members: Vec<Member>,
    /// The disks that do not, in the order they were given.
    pub refused: Vec<RefusedDisk>,
    /// Disks of the topology that are not among the members, by set and slot. On a node of several they may be elsewhere.
    pub absent: Vec<AbsentDisk>,
}

/// A disk that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The place, as configured.
    pub endpoint: Endpoint,
    /// The disk.
    pub disk: DiskUuid,
    /// Its set.
    pub set: u16,
    /// Its slot in the set.
    pub slot: u8,
    /// False where its `topology.json` is missing, damaged or older and has to be written again.
    pub topology_is_current: bool,
}

/// A disk of the topology that was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentDisk {
    /// The disk.
    pub disk: DiskUuid,
    /// Its place, as the topology knows it.
    pub endpoint: Endpoint,
    /// Its set.
    pub set: u16,
    /// Its slot in the set.
    pub slot: u8,
}

/// A place whose disk does not take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedDisk {
    /// The place, as configured.
    pub endpoint: Endpoint,
    /// The disk that the topology has there, if it has one.
    pub expected: Option<DiskUuid>,
    /// Why.
    pub reason: Refusal,
}

/// Why a disk does not take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be read.
    Unreadable(String),
    /// It has no `format.json`.
    Unformatted,
    /// Its `format.json` is damaged or not understood.
    Damaged(FormatError),
    /// It belongs to another deployment.
    Foreign {
        /// The deployment it belongs to.
        found: DeploymentId,
        /// The deployment of most disks.
        expected: DeploymentId,
    },
    /// It says something else about the deployment than most disks do.
    Different {
        /// Its block checksum.
        found: BlockChecksum,
        /// That of most disks.
        expected: BlockChecksum,
    },
    /// It is of this deployment but not in the topology: replaced or removed since.
    Stale {
        /// The disk.
        found: DiskUuid,
        /// The generation that does not have it.
        generation: u64,
    },
    /// It stands where another disk of the topology belongs.
    Swapped {
        /// The disk.
        found: DiskUuid,
        /// Where it belongs.
        belongs: Endpoint,
    },
    /// The same disk was found at another place too.
    Twice {
        /// The disk.
        found: DiskUuid,
        /// The other place.
        other: Endpoint,
    },
}

impl Refusal {
    /// True where somebody put a disk in the wrong place, so that a start would hide the mistake; false where the disk
    /// has failed, which a deployment survives.
    pub fn is_mistake(&self) -> bool {
        match self {
            Refusal::Unreadable(_) | Refusal::Unformatted | Refusal::Damaged(_) => false,
            Refusal::Foreign { .. }
            | Refusal::Different { .. }
            | Refusal::Stale { .. }
            | Refusal::Swapped { .. }
            | Refusal::Twice { .. } => true,
        }
    }
}

impl fmt::Display for RefusedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.endpoint;
        let expected = match self.expected {
            Some(disk) => format!("disk {disk}"),
            None => "a disk of this deployment".to_owned(),
        };
        match &self.reason {
            Refusal::Unreadable(why) => {
                write!(
                    f,
                    "{place}: cannot be read ({why}), {expected} is expected there; check that it is mounted and readable"
                )
            }
            Refusal::Unformatted => {
                write!(
                    f,
                    "{place}: is not formatted, {expected} is expected there; mount that disk, or replace it"
                )
            }
            Refusal::Damaged(why) => write!(
                f,
                "{place}: its format.json cannot be used: {why}; {expected} is expected there; restore the file or replace the disk"
            ),
            Refusal::Foreign { found, expected: deployment } => write!(
                f,
                "{place}: belongs to deployment {found}, {expected} of deployment {deployment} is expected there; \
                 take it out of the configuration, or mount the right disk"
            ),
            Refusal::Different { found, expected } => write!(
                f,
                "{place}: says that blocks are checksummed with {found}, most disks say {expected}; replace the disk"
            ),
            Refusal::Stale { found, generation } => write!(
                f,
                "{place}: is disk {found}, which generation {generation} of the topology does not have; {expected} is \
                 expected there; take it out of the configuration, or format it to use it again"
            ),
            Refusal::Swapped { found, belongs } => {
                write!(
                    f,
                    "{place}: is disk {found}, {expected} is expected there; mount it at {belongs}, where it belongs"
                )
            }
            Refusal::Twice { found, other } => write!(
                f,
                "{place}: is disk {found}, and so is {other}; one is a copy: take it out of the configuration"
            ),
        }
    }
}

/// Why no deployment could be made out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// Nothing was found that was ever formatted.
    #[error("none of the {0} disks is formatted; format them with `bucketsctl format`")]
    NoneFormatted(usize),
    /// No disk has a usable identity.
    #[error("none of the disks can be used: {0}")]
    NoneUsable(String),
    /// Two deployments with the same number of disks.
    #[error(
        "{disks} disks belong to deployment {one} and as many to {other}; name the disks of one deployment only"
    )]
    Tie {
        /// Disks of each.
        disks: usize,
        /// The one.
        one: DeploymentId,
        /// The other.
        other: DeploymentId,
    },
    /// No intact topology.
    #[error(
        "no disk of deployment {deployment} has a usable topology.json ({example}); restore it from any disk's copy"
    )]
    NoTopology {
        /// The deployment.
        deployment: DeploymentId,
        /// What one disk's copy says.
        example: String,
    },
    /// Different contents under one generation.
    #[error(
        "{one} and {other} have different topologies of generation {generation}; one is not of this deployment's history: \
         take it out of the configuration"
    )]
    TopologyConflict {
        /// The generation.
        generation: u64,
        /// A disk with the one.
        one: Endpoint,
        /// A disk with the other.
        other: Endpoint,
    },
}

/// Makes out the deployment, by majority, and the part of each disk in it.
pub fn assemble(found: &[FoundDisk]) -> Result<Assembly, AssemblyError> {
    let formats: Vec<Result<FormatJson, Refusal>> =
        found.iter().map(|disk| format_of(&disk.format)).collect();
    let (deployment, block_checksum) = majority(found, &formats)?;
    let topologies: Vec<Result<TopologyJson, String>> = found
        .iter()
        .zip(&formats)
        .map(|(disk, format)| match format {
            Ok(format) if format.deployment == deployment => topology_of(&disk.topology, deployment),
            _ => Err("not of this deployment".to_owned()),
        })
        .collect();
    let topology = newest(found, &formats, &topologies, deployment)?;

    let mut members: Vec<Member> = Vec::new();
    let mut refused = Vec::new();
    for (index, disk) in found.iter().enumerate() {
        let expected = topology.disks().find(|(_, _, d)| d.endpoint == disk.endpoint).map(|(_, _, d)| d.uuid);
        let admitted = match &formats[index] {
            Ok(format) => admit(disk, format, expected, &topology, (deployment, block_checksum), |uuid| {
                let same = |i: &usize| *i != index && formats[*i].as_ref().is_ok_and(|f| f.disk == uuid);
                (0..found.len()).find(same).map(|i| found[i].endpoint.clone())
            }),
            Err(refusal) => Err(refusal.clone()),
        };
        match admitted {
            Ok((uuid, set, slot)) => members.push(Member {
                endpoint: disk.endpoint.clone(),
                disk: uuid,
                set,
                slot,
                topology_is_current: topologies[index].as_ref() == Ok(&topology),
            }),
            Err(reason) => refused.push(RefusedDisk { endpoint: disk.endpoint.clone(), expected, reason }),
        }
    }
    let absent = topology
        .disks()
        .filter(|(_, _, disk)| members.iter().all(|member| member.disk != disk.uuid))
        // Set numbers are below SETS_MAX, slots below 32.
        .map(|(set, slot, disk)| AbsentDisk {
            disk: disk.uuid,
            endpoint: disk.endpoint.clone(),
            set: set as u16,
            slot: slot as u8,
        })
        .collect();
    Ok(Assembly { deployment, block_checksum, topology, members, refused, absent })
}

fn format_of(file: &FoundFile) -> Result<FormatJson, Refusal> {
    match file {
        FoundFile::Bytes(bytes) => FormatJson::parse(bytes).map_err(Refusal::Damaged),
        FoundFile::Absent => Err(Refusal::Unformatted),
        FoundFile::Unreadable(why) => Err(Refusal::Unreadable(why.clone())),
    }
}

fn topology_of(file: &FoundFile, deployment: DeploymentId) -> Result<TopologyJson, String> {
    match file {
        FoundFile::Bytes(bytes) => {
            let topology = TopologyJson::parse(bytes).map_err(|e: TopologyError| e.to_string())?;
            if topology.deployment == deployment {
                Ok(topology)
            } else {
                Err(format!("it is of deployment {}", topology.deployment))
            }
        }
        FoundFile::Absent => Err("it is missing".to_owned()),
        FoundFile::Unreadable(why) => Err(why.clone()),
    }
}

/// The deployment of most disks, and the checksum kind of most of its disks.
fn majority(
    found: &[FoundDisk],
    formats: &[Result<FormatJson, Refusal>],
) -> Result<(DeploymentId, BlockChecksum), AssemblyError> {
    let mut counts: BTreeMap<DeploymentId, usize> = BTreeMap::new();
    for format in formats.iter().flatten() {
        *counts.entry(format.deployment).or_default() += 1;
    }
    let mut ranked: Vec<(usize, DeploymentId)> = counts.into_iter().map(|(id, count)| (count, id)).collect();
    ranked.sort_by(|a, b| b.cmp(a));
    let deployment = match ranked[..] {
        [] if formats.iter().all(|format| *format == Err(Refusal::Unformatted)) => {
            return Err(AssemblyError::NoneFormatted(found.len()));
        }
        [] => {
            let sentences = found.iter().zip(formats).filter_map(|(disk, format)| {
                let reason = format.as_ref().err()?.clone();
                Some(RefusedDisk { endpoint: disk.endpoint.clone(), expected: None, reason }.to_string())
            });
            return Err(AssemblyError::NoneUsable(sentences.collect::<Vec<_>>().join(". ")));
        }
        [(first, one), (second, other), ..] if first == second => {
            return Err(AssemblyError::Tie { disks: first, one, other });
        }
        [(_, deployment), ..] => deployment,
    };
    let of_it = || formats.iter().flatten().filter(|format| format.deployment == deployment);
    let blake2b = of_it().filter(|format| format.block_checksum == BlockChecksum::Blake2b).count();
    let kind = if blake2b * 2 > of_it().count() { BlockChecksum::Blake2b } else { BlockChecksum::Xxh3 };
    Ok((deployment, kind))
}

fn newest(
    found: &[FoundDisk],
    formats: &[Result<FormatJson, Refusal>],
    topologies: &[Result<TopologyJson, String>],
    deployment: DeploymentId,
) -> Result<TopologyJson, AssemblyError> {
    let copies =
        || found.iter().zip(topologies).filter_map(|(disk, t)| t.as_ref().ok().map(|t| (&disk.endpoint, t)));
    let Some((one, newest)) = copies().max_by_key(|(_, topology)| topology.generation) else {
        let of_it = |i: &usize| formats[*i].as_ref().is_ok_and(|format| format.deployment == deployment);
        let example = (0..found.len()).find(of_it).and_then(|i| {
            let why = topologies[i].as_ref().err()?;
            Some(format!("{}: {why}", found[i].endpoint))
        });
        return Err(AssemblyError::NoTopology { deployment, example: example.unwrap_or_default() });
    };
    let conflict = copies().find(|(_, other)| other.generation == newest.generation && *other != newest);
    match conflict {
        Some((other, _)) => Err(AssemblyError::TopologyConflict {
            generation: newest.generation,
            one: one.clone(),
            other: other.clone(),
        }),
        None => Ok(newest.clone()),
    }
}

/// The disk with its set and slot, or why it does not take part.
fn admit(
    disk: &FoundDisk,
    format: &FormatJson,
    expected: Option<DiskUuid>,
    topology: &TopologyJson,
    (deployment, block_checksum): (DeploymentId, BlockChecksum),
    other_place_of: impl Fn(DiskUuid) -> Option<Endpoint>,
) -> Result<(DiskUuid, u16, u8), Refusal> {
    let found = format.disk;
    if format.deployment != deployment {
        return Err(Refusal::Foreign { found: format.deployment, expected: deployment });
    }
    if format.block_checksum != block_checksum {
        return Err(Refusal::Different { found: format.block_checksum, expected: block_checksum });
    }
    let Some((set, slot, known)) = topology.disks().find(|(_, _, d)| d.uuid == found) else {
        return Err(Refusal::Stale { found, generation: topology.generation });
    };
    if known.endpoint != disk.endpoint {
        // Of two with one uuid, the one at the known place is the original.
        if let Some(other) = other_place_of(found) {
            return Err(Refusal::Twice { found, other });
        }
        if expected.is_some() {
            return Err(Refusal::Swapped { found, belongs: known.endpoint.clone() });
        }
    }
    // Set numbers are below SETS_MAX, slots below 32.
    Ok((found, set as u16, slot as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::Coding;
    use crate::topology::tests::{deployment, disk_uuid, topology};

    fn format(slot: u8) -> FormatJson {
        FormatJson {
            deployment: deployment(),
            disk: disk_uuid(0, slot),
            sets: vec![(0..4).map(|slot| disk_uuid(0, slot)).collect()],
            coding: Coding::new(2, 2).unwrap(),
            block_checksum: BlockChecksum::Xxh3,
        }
    }

    fn foreign(slot: u8) -> FormatJson {
        FormatJson { deployment: DeploymentId::from_bytes([0xff; 16]), ..format(slot) }
    }

    fn found(slot: u8) -> FoundDisk {
        FoundDisk {
            endpoint: topology(1).sets[0].disks[usize::from(slot)].endpoint.clone(),
            format: FoundFile::Bytes(format(slot).to_bytes()),
            topology: FoundFile::Bytes(topology(1).to_bytes()),
        }
    }

    fn all() -> Vec<FoundDisk> {
        (0..4).map(found).collect()
    }

    fn slots(assembly: &Assembly) -> Vec<u8> {
        assembly.members.iter().map(|member| member.slot).collect()
    }

    /// Assembles with one change, expects all but disk `slot`, and returns its refusal.
    fn refusal_of(slot: u8, change: impl FnOnce(&mut Vec<FoundDisk>)) -> RefusedDisk {
        let mut disks = all();
        change(&mut disks);
        let assembly = assemble(&disks).unwrap();
        assert!(!slots(&assembly).contains(&slot), "{assembly:?}");
        assert_eq!(assembly.members.len() + assembly.refused.len(), disks.len());
        assembly.refused.into_iter().next().unwrap()
    }

    #[test]
    fn well_disks_assemble_in_any_order() {
        let mut disks = all();
        disks.rotate_left(1);
        let assembly = assemble(&disks).unwrap();
        assert_eq!(slots(&assembly), [1, 2, 3, 0]);
        assert!(assembly.members.iter().all(|member| member.topology_is_current));
        assert_eq!((assembly.refused, assembly.absent), (vec![], vec![]));
    }

    #[test]
    fn a_single_disk_tells_the_deployment_and_what_is_absent() {
        let assembly = assemble(&all()[2..3]).unwrap();
        assert_eq!(slots(&assembly), [2]);
        assert_eq!(assembly.absent.iter().map(|a| a.slot).collect::<Vec<_>>(), [0, 1, 3]);
    }

    #[test]
    fn failed_disks_are_refused_but_are_no_mistake() {
        let emptied = refusal_of(1, |disks| disks[1].format = FoundFile::Absent);
        let gone = refusal_of(1, |disks| disks[1].format = FoundFile::Unreadable("I/O error".to_owned()));
        let rotten = refusal_of(1, |disks| disks[1].format = FoundFile::Bytes(b"{}".to_vec()));
        for refused in [&emptied, &gone, &rotten] {
            assert!(!refused.reason.is_mistake());
            let sentence = refused.to_string();
            let named = sentence.contains("/disk0-1") && sentence.contains(&disk_uuid(0, 1).to_string());
            assert!(named, "{sentence}");
        }
        assert_eq!(emptied.reason, Refusal::Unformatted);
    }

    #[test]
    fn misplaced_disks_are_refused_with_both_names() {
        let refused = refusal_of(1, |disks| disks[1].format = FoundFile::Bytes(foreign(1).to_bytes()));
        assert!(matches!(refused.reason, Refusal::Foreign { .. }) && refused.reason.is_mistake());
        assert!(refused.to_string().contains(&deployment().to_string()), "{refused}");

        let unknown = FormatJson { disk: disk_uuid(5, 5), sets: vec![vec![disk_uuid(5, 5); 4]], ..format(1) };
        let unknown = FormatJson { sets: vec![(2..6).map(|i| disk_uuid(5, i)).collect()], ..unknown };
        let refused = refusal_of(1, |disks| disks[1].format = FoundFile::Bytes(unknown.to_bytes()));
        assert_eq!(refused.reason, Refusal::Stale { found: disk_uuid(5, 5), generation: 1 });

        let refused = refusal_of(1, |disks| {
            let (one, two) = (disks[1].endpoint.clone(), disks[2].endpoint.clone());
            disks[1].endpoint = two;
            disks[2].endpoint = one;
        });
        assert_eq!(refused.to_string().matches("/disk0-").count(), 2, "{refused}");
        assert!(matches!(refused.reason, Refusal::Swapped { .. }));

        let refused = refusal_of(9, |disks| {
            let copy = FoundDisk { endpoint: "/copy".parse().unwrap(), ..disks[0].clone() };
            disks.insert(0, copy);
        });
        assert_eq!(refused.endpoint.path(), "/copy");
        assert!(matches!(refused.reason, Refusal::Twice { .. }));

        let other = FormatJson { block_checksum: BlockChecksum::Blake2b, ..format(1) };
        let refused = refusal_of(1, |disks| disks[1].format = FoundFile::Bytes(other.to_bytes()));
        assert!(matches!(refused.reason, Refusal::Different { .. }));
    }

    #[test]
    fn disks_mounted_at_new_places_are_still_known() {
        let mut disks = all();
        for (index, disk) in disks.iter_mut().enumerate() {
            disk.endpoint = format!("/elsewhere/{index}").parse().unwrap();
        }
        assert_eq!(slots(&assemble(&disks).unwrap()), [0, 1, 2, 3]);
    }

    #[test]
    fn the_newest_topology_counts_and_the_others_are_to_be_written() {
        let mut newer = topology(1);
        newer.generation = 2;
        newer.sets[0].disks[0].uuid = disk_uuid(9, 9);
        let mut disks = all();
        disks[3].topology = FoundFile::Bytes(newer.to_bytes());
        disks[2].topology = FoundFile::Absent;
        let assembly = assemble(&disks).unwrap();
        assert_eq!(assembly.topology, newer);
        assert_eq!(slots(&assembly), [1, 2, 3]);
        let current: Vec<bool> = assembly.members.iter().map(|member| member.topology_is_current).collect();
        assert_eq!(current, [false, false, true]);
        assert_eq!(assembly.refused[0].reason, Refusal::Stale { found: disk_uuid(0, 0), generation: 2 });
        assert_eq!(assembly.absent[0].disk, disk_uuid(9, 9));
    }

    #[test]
    fn what_cannot_be_decided_is_not_guessed() {
        let tie = |disks: &mut Vec<FoundDisk>| {
            disks[0].format = FoundFile::Bytes(foreign(0).to_bytes());
            disks[1].format = FoundFile::Bytes(foreign(1).to_bytes());
        };
        let unformatted =
            |disks: &mut Vec<FoundDisk>| disks.iter_mut().for_each(|d| d.format = FoundFile::Absent);
        let no_topology =
            |disks: &mut Vec<FoundDisk>| disks.iter_mut().for_each(|d| d.topology = FoundFile::Absent);
        let conflict = |disks: &mut Vec<FoundDisk>| {
            let mut other = topology(1);
            other.sets[0].disks[0].capacity_bytes = 1;
            disks[1].topology = FoundFile::Bytes(other.to_bytes());
        };
        let error = |change: &dyn Fn(&mut Vec<FoundDisk>)| {
            let mut disks = all();
            change(&mut disks);
            assemble(&disks).unwrap_err()
        };
        assert!(matches!(error(&tie), AssemblyError::Tie { disks: 2, .. }));
        assert_eq!(error(&unformatted), AssemblyError::NoneFormatted(4));
        assert!(matches!(error(&no_topology), AssemblyError::NoTopology { .. }));
        assert!(matches!(error(&conflict), AssemblyError::TopologyConflict { generation: 1, .. }));
        assert_eq!(assemble(&[]), Err(AssemblyError::NoneFormatted(0)));
    }
}
