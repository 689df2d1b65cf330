//! What can go wrong in an index.

use crate::table_name;
use std::io;
use std::sync::Arc;

/// An error of any operation of an index.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    /// A file of the index does not hold what was written to it (or is gone).
    #[error("index file {file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// Name of the file inside the index's directory.
        file: String,
        /// Where the damage was seen, in bytes.
        offset: u64,
        /// What was seen.
        what: &'static str,
    },
    /// The disk refused an operation.
    #[error("index file {file}: {operation} failed: {source}")]
    Io {
        /// Name of the file inside the index's directory.
        file: String,
        /// What was tried.
        operation: &'static str,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// A write or a flush failed earlier: nothing more becomes durable until the index is opened again.
    #[error("the index takes no more writes: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<IndexError>,
    },
}

const READ: &str = "read";
pub(crate) const CREATE: &str = "create";
pub(crate) const WRITE: &str = "write";

impl IndexError {
    pub(crate) fn io(file: &str, operation: &'static str, source: io::Error) -> IndexError {
        IndexError::Io { file: file.to_owned(), operation, source: Arc::new(source) }
    }

    pub(crate) fn corrupt(file: &str, offset: u64, what: &'static str) -> IndexError {
        IndexError::Corrupt { file: file.to_owned(), offset, what }
    }

    /// A failed read: a file shorter than what was written to it is damage, everything else the disk's refusal.
    pub(crate) fn read(file: &str, offset: u64, source: io::Error) -> IndexError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => IndexError::corrupt(file, offset, "the file ends too early"),
            io::ErrorKind::NotFound => IndexError::corrupt(file, offset, "the file is missing"),
            _ => IndexError::io(file, READ, source),
        }
    }

    /// True where stored bytes are wrong or cannot be read: writes are not concerned.
    pub(crate) fn is_of_reading(&self) -> bool {
        self.is_corrupt() || matches!(self, IndexError::Io { operation, .. } if *operation == READ)
    }

    /// True where a table did not fit on the disk: nothing is lost, and it is tried again.
    pub fn is_full_disk(&self) -> bool {
        match self {
            IndexError::Io { file, operation, source } => {
                source.kind() == io::ErrorKind::StorageFull
                    && [CREATE, WRITE].contains(operation)
                    && table_name::parse(file).is_some()
            }
            _ => false,
        }
    }

    /// True where stored bytes are wrong, as opposed to a disk that does not answer.
    pub fn is_corrupt(&self) -> bool {
        match self {
            IndexError::Corrupt { .. } => true,
            IndexError::Io { .. } => false,
            IndexError::Poisoned { cause } => cause.is_corrupt(),
        }
    }
}
