//! Formatting a disk, and telling which disk this is.
//!
//! What must hold: `format.json` is written last, so that a disk that carries it is whole; it and the superblock name
//! the same disk. A formatted disk is formatted again only where the caller says so.
//!
//! ```text
//! <disk>/.buckets.sys/format.json      identity, immutable (see `ring`)
//! <disk>/.buckets.sys/rebuilding.json  while chunks of a disk that was emptied are written again (see `ring`)
//! <disk>/.buckets.sys/topology.json    as of the last change (see `ring`)
//! <disk>/.buckets.sys/superblock       see `superblock`
//! <disk>/.buckets.sys/wal/00000000.wal ...          segments of the log, see `wal`
//! <disk>/.buckets.sys/chunks.0/                     index: the chunk table, see `chunk::entry`
//! <disk>/.buckets.sys/space/00000000.space ...      chunk space
//! <disk>/.buckets.sys/groups/00000001.0/ ...        index of one Raft group: number, generation
//! ```

use crate::error::{DiskFormatError, DiskOpenError};
use crate::limits::DiskOptions;
use crate::superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_FILE, Superblock};
use crate::wal::batch::{BatchHeader, BatchKind, BatchSeal, HEADER_BYTES, batch_bytes};
use crate::wal::field::FieldBuf;
use crate::wal::record::Checkpoint;
use crate::wal::segment;
use buckets_env::{ALIGNMENT, Env, OpenMode, WriteMode};
use buckets_ring::format::{FORMAT_FILE, FormatJson, SYSTEM_DIR};
use buckets_ring::id::GroupId;
use buckets_ring::rebuild::{REBUILD_FILE, RebuildJson};
use buckets_ring::topology::{TOPOLOGY_FILE, TopologyJson};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Whether a formatted disk may be formatted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatMode {
    /// Only a disk without a format.
    New,
    /// Also a formatted one: everything on it is destroyed.
    Overwrite,
}

pub(crate) fn system_dir(disk: &Path) -> PathBuf {
    disk.join(SYSTEM_DIR)
}

fn groups_dir(disk: &Path) -> PathBuf {
    system_dir(disk).join(GROUPS_DIR)
}

pub(crate) fn wal_dir(disk: &Path) -> PathBuf {
    system_dir(disk).join(WAL_DIR)
}

pub(crate) fn space_dir(disk: &Path) -> PathBuf {
    system_dir(disk).join(SPACE_DIR)
}

const WAL_DIR: &str = "wal";
const SPACE_DIR: &str = "space";
const CHUNK_TABLE: &str = "chunks";
const GROUPS_DIR: &str = "groups";

/// Directory of one generation of the chunk table.
pub(crate) fn chunk_table_dir(disk: &Path, generation: u32) -> PathBuf {
    system_dir(disk).join(format!("{CHUNK_TABLE}.{generation}"))
}

/// Directory of one generation of a group's index.
pub(crate) fn group_dir(disk: &Path, group: GroupId, generation: u32) -> PathBuf {
    groups_dir(disk).join(format!("{:08x}.{generation}", group.0))
}

/// Generations of the chunk table, oldest first.
pub(crate) async fn chunk_table_generations(env: &Env, disk: &Path) -> io::Result<Vec<u32>> {
    let names = env.list_dir(&system_dir(disk)).await?;
    let mut found: Vec<u32> = names
        .iter()
        .filter_map(|name| name.strip_prefix(CHUNK_TABLE)?.strip_prefix('.')?.parse().ok())
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Generations of the index of each group, oldest first.
pub(crate) async fn group_generations(env: &Env, disk: &Path) -> io::Result<BTreeMap<GroupId, Vec<u32>>> {
    let mut found: BTreeMap<GroupId, Vec<u32>> = BTreeMap::new();
    for name in env.list_dir(&groups_dir(disk)).await? {
        let parsed = name.split_once('.').and_then(|(group, generation)| {
            Some((GroupId(u32::from_str_radix(group, 16).ok()?), generation.parse().ok()?))
        });
        if let Some((group, generation)) = parsed {
            found.entry(group).or_default().push(generation);
        }
    }
    found.values_mut().for_each(|generations| generations.sort_unstable());
    Ok(found)
}

/// Removes the files of a directory. The directory itself stays: an empty one does not count as a generation.
pub(crate) async fn clear_dir(env: &Env, dir: &Path) -> io::Result<()> {
    let names = match env.list_dir(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for name in &names {
        env.remove_file(&dir.join(name)).await?;
    }
    if names.is_empty() { Ok(()) } else { env.sync_dir(dir).await }
}

/// Makes the directory `path` a disk with this identity.
pub(crate) async fn format(
    env: &Env,
    path: &Path,
    format: &FormatJson,
    mode: FormatMode,
    options: &DiskOptions,
) -> Result<(), DiskFormatError> {
    options.check().map_err(|error| DiskFormatError::Options { what: error.to_string() })?;
    let failed =
        |doing: &'static str| move |source| DiskFormatError::Io { path: path.to_owned(), doing, source };
    let old = system_dir(path).join(FORMAT_FILE);
    match env.read_file(&old).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(bytes) if mode == FormatMode::New => {
            let old = FormatJson::parse(&bytes).ok();
            let name = |id: Option<String>| id.unwrap_or_else(|| "unknown".to_owned());
            return Err(DiskFormatError::AlreadyFormatted {
                path: path.to_owned(),
                disk: name(old.as_ref().map(|old| old.disk.to_string())),
                deployment: name(old.as_ref().map(|old| old.deployment.to_string())),
            });
        }
        Ok(_) => {
            // The identity goes first: half-destroyed is not formatted.
            env.remove_file(&old).await.map_err(failed("remove the old format.json"))?;
            env.sync_dir(&system_dir(path)).await.map_err(failed("remove the old format.json"))?;
        }
        Err(error) => return Err(failed("read format.json")(error)),
    }
    clear(env, path).await.map_err(failed("remove what was there"))?;
    for dir in [system_dir(path), wal_dir(path), space_dir(path), groups_dir(path)] {
        env.create_dir_all(&dir).await.map_err(failed("make directories"))?;
    }
    let superblock = Superblock {
        deployment: format.deployment,
        disk: format.disk,
        wal_segment_bytes: options.wal_segment_bytes,
        space_file_bytes: options.space_file_bytes,
    };
    write_superblock(env, path, &superblock).await.map_err(failed("write the superblock"))?;
    make_log(env, path, format, options).await.map_err(failed("make the log"))?;
    env.write_file_durably(&old, &format.to_bytes()).await.map_err(failed("write format.json"))
}

async fn clear(env: &Env, path: &Path) -> io::Result<()> {
    let system = system_dir(path);
    let names = match env.list_dir(&system).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for dir in [wal_dir(path), space_dir(path)] {
        clear_dir(env, &dir).await?;
    }
    for generation in chunk_table_generations(env, path).await? {
        clear_dir(env, &chunk_table_dir(path, generation)).await?;
    }
    if names.iter().any(|name| name == GROUPS_DIR) {
        for (group, generations) in group_generations(env, path).await? {
            for generation in generations {
                clear_dir(env, &group_dir(path, group, generation)).await?;
            }
        }
    }
    for name in names.iter().filter(|name| !is_directory_name(name)) {
        env.remove_file(&system.join(name)).await?;
    }
    env.sync_dir(&system).await
}

/// The system directory holds the identity's files and these directories.
fn is_directory_name(name: &str) -> bool {
    [WAL_DIR, SPACE_DIR, GROUPS_DIR].contains(&name)
        || name.strip_prefix(CHUNK_TABLE).is_some_and(|generation| generation.starts_with('.'))
}

async fn write_superblock(env: &Env, path: &Path, superblock: &Superblock) -> io::Result<()> {
    let dir = system_dir(path);
    let file = env.open(&dir.join(SUPERBLOCK_FILE), OpenMode::CreateNew).await?;
    file.write_at(0, superblock.encode(), WriteMode::Unflushed).await?;
    file.sync_data().await?;
    env.sync_dir(&dir).await
}

/// The first segments; the first of them starts the log with an empty checkpoint.
async fn make_log(env: &Env, path: &Path, format: &FormatJson, options: &DiskOptions) -> io::Result<()> {
    let dir = wal_dir(path);
    for slot in 0..options.wal_segments_initial {
        let segment = segment::create(env, &dir, slot, options.wal_segment_bytes).await?;
        if slot > 0 {
            continue;
        }
        let mut payload = FieldBuf::with_capacity(ALIGNMENT, HEADER_BYTES);
        Checkpoint { oldest_segment: 1, ..Checkpoint::default() }.write(&mut payload);
        let payload_bytes = payload.len() - HEADER_BYTES;
        let mut batch = payload.into_padded(batch_bytes(payload_bytes));
        let header = BatchHeader {
            kind: BatchKind::Checkpoint,
            record_count: 0,
            segment: 1,
            number: 1,
            first_lsn: 1,
            data_lsn: 0,
            page: 0,
            payload_bytes: payload_bytes as u32,
        };
        BatchSeal::new(format.disk).close(&header, &mut batch);
        segment.file.write_at(0, batch.freeze(), WriteMode::Flushed).await?;
    }
    Ok(())
}

/// Reads and checks which disk this is.
pub(crate) async fn read(env: &Env, path: &Path) -> Result<(FormatJson, Superblock), DiskOpenError> {
    let file = system_dir(path).join(FORMAT_FILE);
    let bytes = match env.read_file(&file).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DiskOpenError::NotFormatted { path: path.to_owned() });
        }
        Err(source) => return Err(DiskOpenError::Io { path: file, doing: "read", source }),
    };
    let format = FormatJson::parse(&bytes)
        .map_err(|error| DiskOpenError::FormatDamaged { path: path.to_owned(), what: error.to_string() })?;
    let superblock = read_superblock(env, path).await?;
    if (superblock.disk, superblock.deployment) != (format.disk, format.deployment) {
        return Err(DiskOpenError::Swapped {
            path: path.to_owned(),
            format: format.disk.to_string(),
            superblock: superblock.disk.to_string(),
        });
    }
    Ok((format, superblock))
}

async fn read_superblock(env: &Env, path: &Path) -> Result<Superblock, DiskOpenError> {
    let name = system_dir(path).join(SUPERBLOCK_FILE);
    let damaged = |what: String| DiskOpenError::SuperblockDamaged { path: path.to_owned(), what };
    let file = match env.open(&name, OpenMode::Existing).await {
        Ok(file) => file,
        Err(error) => return Err(damaged(error.to_string())),
    };
    let mut what = String::new();
    for copy in 0..SUPERBLOCK_BYTES / ALIGNMENT {
        match file.read_at((copy * ALIGNMENT) as u64, ALIGNMENT).await {
            Ok(page) => match Superblock::decode(&page) {
                Ok(superblock) => return Ok(superblock),
                Err(why) => what = why.to_owned(),
            },
            Err(error) => what = error.to_string(),
        }
    }
    Err(damaged(what))
}

/// The topology as this disk last saw it: `None` where there is none, an error where it is damaged.
pub(crate) async fn read_topology(env: &Env, path: &Path) -> Result<Option<TopologyJson>, String> {
    match env.read_file(&system_dir(path).join(TOPOLOGY_FILE)).await {
        Ok(bytes) => TopologyJson::parse(&bytes).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// How far the rebuild of the disk is; `None` where none is under way. A file that cannot be read begins one anew.
pub(crate) async fn read_rebuild(env: &Env, path: &Path) -> io::Result<Option<RebuildJson>> {
    match env.read_file(&system_dir(path).join(REBUILD_FILE)).await {
        Ok(bytes) => Ok(Some(RebuildJson::parse(&bytes).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "how far a rebuild was is not known: it begins anew");
            RebuildJson::default()
        }))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) async fn write_rebuild(env: &Env, path: &Path, rebuild: Option<&RebuildJson>) -> io::Result<()> {
    let dir = system_dir(path);
    let file = dir.join(REBUILD_FILE);
    match rebuild {
        Some(rebuild) => env.write_file_durably(&file, &rebuild.to_bytes()).await,
        None => match env.remove_file(&file).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => env.sync_dir(&dir).await,
        },
    }
}

pub(crate) async fn write_topology(env: &Env, path: &Path, topology: &TopologyJson) -> io::Result<()> {
    env.write_file_durably(&system_dir(path).join(TOPOLOGY_FILE), &topology.to_bytes()).await
}
