//! `--disk-faults FILE`: disks that misbehave on purpose, to see what a node makes of them.
//!
//! The file is JSON, by directory, and is read again whenever it changes; a disk that is no longer in it is well again:
//!
//! ```json
//! {"/mnt/disk1": {"flush_error_per_million": 1000000}, "/mnt/disk2": {"slow_factor": 100}}
//! ```

use buckets_env::DiskFaults;
use buckets_env::real::set_disk_faults;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why a file of faults is not followed.
#[derive(Debug, thiserror::Error)]
pub enum DiskFaultsError {
    /// It cannot be read.
    #[error("the disk faults {} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: std::io::Error,
    },
    /// It is not understood.
    #[error("the disk faults {} are not understood: {error}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        error: serde_json::Error,
    },
}

/// Sets the faults of the file, and starts a thread that sets them again whenever the file changes.
pub(crate) fn follow(path: PathBuf) -> Result<(), DiskFaultsError> {
    let mut seen = read(&path)?;
    set_disk_faults(parse(&path, &seen)?);
    tracing::warn!(file = %path.display(), "disks misbehave on purpose, as this file says");
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let Ok(text) = read(&path) else { continue };
            if text == seen {
                continue;
            }
            match parse(&path, &text) {
                Ok(faults) => {
                    tracing::warn!(faults = text.trim(), "the disk faults are others now");
                    set_disk_faults(faults);
                }
                // Perhaps half written: it is read again when it changes.
                Err(error) => tracing::warn!("{error}; they stay as they were"),
            }
            seen = text;
        }
    });
    Ok(())
}

fn read(path: &Path) -> Result<String, DiskFaultsError> {
    std::fs::read_to_string(path).map_err(|error| DiskFaultsError::Read { path: path.to_owned(), error })
}

fn parse(path: &Path, text: &str) -> Result<BTreeMap<PathBuf, DiskFaults>, DiskFaultsError> {
    serde_json::from_str(text).map_err(|error| DiskFaultsError::Syntax { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_well_and_a_wrong_name_is_refused() {
        let path = Path::new("faults.json");
        let parsed =
            parse(path, r#"{"/d1": {"slow_factor": 100}, "/d2": {"read_error_per_million": 7}}"#).unwrap();
        let slow = DiskFaults { slow_factor: 100, ..DiskFaults::default() };
        let unreadable = DiskFaults { read_error_per_million: 7, ..DiskFaults::default() };
        assert_eq!(parsed, BTreeMap::from([("/d1".into(), slow), ("/d2".into(), unreadable)]));
        let error = parse(path, r#"{"/d1": {"slow": 100}}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `slow`"), "{error}");
    }
}
