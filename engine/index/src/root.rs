//! The root: which tables make up the index, and up to where the caller's log is in them.
//!
//! What must hold:
//! - The root is kept twice (`root-a`, `root-b`). An edit writes and flushes the first copy, then the second; only
//!   then does it count: a position is reported, an old table may go. So after a crash at any point at least one
//!   copy is whole, every copy with a higher generation than a whole one is either whole or never counted, and
//!   damage to one copy costs nothing.
//! - [`RootFiles::open`] returns only after both copies hold the chosen root durably.
//! - Both copies damaged, or missing beside tables, is damage of the index; it is never a new, empty index.

use crate::block::{Block, BlockKind, HEADER_BYTES, claimed_pages, seal, u32_at, u64_at};
use crate::checksum::FileSeed;
use crate::error::{CREATE, IndexError, WRITE};
use crate::limits::{IO_BYTES_MAX, LEVELS, PAGE_BYTES, ROOT_PAGES_MAX, ROOT_RESERVED_BYTES};
use crate::table_name;
use buckets_env::{AlignedBuf, Env, File, OpenMode, WriteMode};
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};

/// "Everything up to here is in the tables": opaque to the index, ordered by `index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Raft applied index, or log sequence number.
    pub index: u64,
    /// Raft term of that entry; zero where there is none.
    pub term: u64,
}

/// One table as the root knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    pub(crate) pages: u32,
    pub(crate) tail_pages: u32,
    pub(crate) level: u8,
}

/// The content of a root file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) generation: u64,
    pub(crate) position: Position,
    pub(crate) next_table: u64,
    pub(crate) tables: Vec<TableEntry>,
}

const MAGIC: &[u8; 8] = b"BKTROOT1";
const FIXED_BYTES: usize = 8 + 16 + 8 + 16 + 8 + 8;
const ENTRY_BYTES: usize = 32;

impl Root {
    fn encode(&self, identity: &[u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(identity);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.position.index.to_le_bytes());
        bytes.extend_from_slice(&self.position.term.to_le_bytes());
        bytes.extend_from_slice(&self.next_table.to_le_bytes());
        bytes.extend_from_slice(&(self.tables.len() as u64).to_le_bytes());
        for table in &self.tables {
            bytes.extend_from_slice(&table.number.to_le_bytes());
            bytes.extend_from_slice(&table.salt.to_le_bytes());
            bytes.extend_from_slice(&table.pages.to_le_bytes());
            bytes.extend_from_slice(&table.tail_pages.to_le_bytes());
            bytes.extend_from_slice(&[table.level, 0, 0, 0, 0, 0, 0, 0]);
        }
        seal(&mut bytes, 0, BlockKind::Root, FileSeed::root(identity), 0);
        bytes
    }

    fn decode(bytes: Bytes, identity: &[u8; 16]) -> Result<Root, &'static str> {
        let block = Block::verify(bytes, BlockKind::Root, FileSeed::root(identity), 0)?;
        Root::parse(block.payload(), identity).ok_or("the root does not parse")
    }

    fn parse(payload: &[u8], identity: &[u8; 16]) -> Option<Root> {
        let count = u64_at(payload, FIXED_BYTES - 8)?;
        let entries = &payload[FIXED_BYTES..];
        if payload[..8] != *MAGIC
            || payload[8..24] != *identity
            || entries.len() as u64 != count.checked_mul(ENTRY_BYTES as u64)?
        {
            return None;
        }
        let tables = entries
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| {
                let level = entry[24];
                let table = TableEntry {
                    number: u64_at(entry, 0)?,
                    salt: u64_at(entry, 8)?,
                    pages: u32_at(entry, 16)?,
                    tail_pages: u32_at(entry, 20)?,
                    level,
                };
                (usize::from(level) < LEVELS).then_some(table)
            })
            .collect::<Option<Vec<TableEntry>>>()?;
        Some(Root {
            generation: u64_at(payload, 24)?,
            position: Position { index: u64_at(payload, 32)?, term: u64_at(payload, 40)? },
            next_table: u64_at(payload, 48)?,
            tables,
        })
    }
}

const COPIES: [&str; 2] = ["root-a", "root-b"];
const NEW_SUFFIX: &str = ".new";

/// True for every name that an index gives to its files.
pub(crate) fn is_root_name(name: &str) -> bool {
    COPIES.contains(&name.strip_suffix(NEW_SUFFIX).unwrap_or(name))
}

/// The two copies of the root, open for edits.
pub(crate) struct RootFiles {
    files: [File; 2],
    identity: [u8; 16],
}

/// What [`RootFiles::open`] found.
pub(crate) struct OpenedRoot {
    pub(crate) files: RootFiles,
    pub(crate) root: Root,
    /// There was no index; this one is new.
    pub(crate) created: bool,
    /// Copies that were damaged and are whole again.
    pub(crate) repaired: u64,
}

enum Copy {
    Missing,
    Damaged(File, IndexError),
    Whole(File, Root),
}

impl RootFiles {
    /// Reads both copies, takes the newest whole one and makes both durable with it. `names` is what the directory
    /// holds.
    pub(crate) async fn open(
        env: &Env,
        dir: &Path,
        identity: [u8; 16],
        names: &[String],
    ) -> Result<OpenedRoot, IndexError> {
        let copies = [
            read_copy(env, dir, COPIES[0], &identity).await?,
            read_copy(env, dir, COPIES[1], &identity).await?,
        ];
        let newest = copies
            .iter()
            .filter_map(|copy| match copy {
                Copy::Whole(_, root) => Some(root.clone()),
                _ => None,
            })
            .max_by_key(|root| root.generation);
        let (root, created) = match newest {
            Some(root) => (root, false),
            None => (new_root(&copies, names)?, true),
        };
        let mut repaired = 0;
        let mut files = Vec::with_capacity(2);
        for (name, copy) in COPIES.into_iter().zip(copies) {
            files.push(match copy {
                Copy::Whole(file, held) if held == root => file,
                Copy::Whole(file, _) => {
                    write_copy(&file, name, &root, &identity).await?;
                    file
                }
                Copy::Damaged(file, damage) => {
                    tracing::warn!(dir = %dir.display(), %damage, "rewriting a damaged copy of the root");
                    repaired += 1;
                    write_copy(&file, name, &root, &identity).await?;
                    file
                }
                Copy::Missing => create_copy(env, dir, name, &root, &identity).await?,
            });
        }
        let Ok(files) = <[File; 2]>::try_from(files) else { unreachable!("two copies were opened") };
        Ok(OpenedRoot { files: RootFiles { files, identity }, root, created, repaired })
    }

    /// Makes `root` the root. After an error neither copy may be believed to be durable: the index is poisoned.
    pub(crate) async fn write(&self, root: &Root) -> Result<(), IndexError> {
        for (file, name) in self.files.iter().zip(COPIES) {
            write_copy(file, name, root, &self.identity).await?;
        }
        Ok(())
    }
}

/// The root of a new index, where these copies can be what a crash left of its creation.
fn new_root(copies: &[Copy; 2], names: &[String]) -> Result<Root, IndexError> {
    for copy in copies {
        // Copies get their name only when they are whole: a damaged one is damage, not a crash.
        if let Copy::Damaged(_, damage) = copy {
            return Err(damage.clone());
        }
    }
    if names.iter().any(|name| table_name::parse(name).is_some()) {
        return Err(IndexError::corrupt(
            COPIES[0],
            0,
            "there are tables, but both copies of the root are missing",
        ));
    }
    Ok(Root { generation: 1, next_table: 1, ..Root::default() })
}

async fn read_copy(env: &Env, dir: &Path, name: &str, identity: &[u8; 16]) -> Result<Copy, IndexError> {
    let file = match env.open(&dir.join(name), OpenMode::Existing).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Copy::Missing),
        Err(error) => return Err(IndexError::io(name, "open", error)),
    };
    match read_root(&file, name, identity).await {
        Ok(root) => Ok(Copy::Whole(file, root)),
        Err(damage) => Ok(Copy::Damaged(file, damage)),
    }
}

async fn read_root(file: &File, name: &str, identity: &[u8; 16]) -> Result<Root, IndexError> {
    let read = |error| IndexError::read(name, 0, error);
    let first = file.read_at(0, PAGE_BYTES).await.map_err(read)?;
    let pages = claimed_pages(&first).map_or(0, |pages| pages as usize);
    if pages == 0 || pages > ROOT_PAGES_MAX {
        return Err(IndexError::corrupt(name, 0, "the root's size is impossible"));
    }
    let mut bytes = Vec::with_capacity(pages * PAGE_BYTES);
    bytes.extend_from_slice(&first);
    while bytes.len() < pages * PAGE_BYTES {
        let len = (pages * PAGE_BYTES - bytes.len()).min(IO_BYTES_MAX);
        bytes.extend_from_slice(&file.read_at(bytes.len() as u64, len).await.map_err(read)?);
    }
    Root::decode(Bytes::from(bytes), identity).map_err(|what| IndexError::corrupt(name, 0, what))
}

async fn write_copy(file: &File, name: &str, root: &Root, identity: &[u8; 16]) -> Result<(), IndexError> {
    let bytes = root.encode(identity);
    let write = |error| IndexError::io(name, WRITE, error);
    for (number, part) in bytes.chunks(IO_BYTES_MAX).enumerate() {
        let data = AlignedBuf::padded_copy(part).freeze();
        file.write_at((number * IO_BYTES_MAX) as u64, data, WriteMode::Unflushed).await.map_err(write)?;
    }
    file.sync_data().await.map_err(|error| IndexError::io(name, "flush", error))
}

/// Creates a copy under another name, and renames it when it is whole.
async fn create_copy(
    env: &Env,
    dir: &Path,
    name: &str,
    root: &Root,
    identity: &[u8; 16],
) -> Result<File, IndexError> {
    let new_path: PathBuf = dir.join(format!("{name}{NEW_SUFFIX}"));
    match env.remove_file(&new_path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(IndexError::io(name, "remove", error));
        }
        _ => {}
    }
    let created = env.open(&new_path, OpenMode::CreateNew).await;
    let file = created.map_err(|error| IndexError::io(name, CREATE, error))?;
    // Edits overwrite in place: space for them is taken now, so that a full disk does not stop them later.
    let reserved = file.allocate(0, ROOT_RESERVED_BYTES).await;
    reserved.map_err(|error| IndexError::io(name, "reservation", error))?;
    write_copy(&file, name, root, identity).await?;
    let sync = |error| IndexError::io(name, "flush of the directory", error);
    env.sync_dir(dir).await.map_err(sync)?;
    env.rename(&new_path, &dir.join(name)).await.map_err(|error| IndexError::io(name, "rename", error))?;
    env.sync_dir(dir).await.map_err(sync)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(tables: u64) -> Root {
        let entry = |number| TableEntry { number, salt: number * 7, pages: 9, tail_pages: 1, level: 3 };
        Root {
            generation: 8,
            position: Position { index: 5, term: 6 },
            next_table: 99,
            tables: (0..tables).map(entry).collect(),
        }
    }

    #[test]
    fn a_root_reads_back_and_only_in_its_index() {
        for tables in [0, 1, 500] {
            let bytes = Bytes::from(root(tables).encode(&[1; 16]));
            assert_eq!(Root::decode(bytes.clone(), &[1; 16]), Ok(root(tables)));
            assert!(Root::decode(bytes.clone(), &[2; 16]).is_err());
            for at in (0..bytes.len()).step_by(7) {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 0x10;
                assert!(Root::decode(Bytes::from(damaged), &[1; 16]).is_err());
            }
        }
    }

    #[test]
    fn verified_nonsense_is_refused() {
        for len in [0, 5, 63, 64, 65, 95, 96] {
            let mut bytes = vec![0; HEADER_BYTES];
            bytes.extend((0..len).map(|i| i as u8));
            seal(&mut bytes, 0, BlockKind::Root, FileSeed::root(&[1; 16]), 0);
            assert!(Root::decode(Bytes::from(bytes), &[1; 16]).is_err());
        }
    }
}
