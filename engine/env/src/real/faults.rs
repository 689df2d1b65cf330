//! Bad disks on purpose, on a real node: the same faults as the simulator's, for tests of the whole daemon.
//!
//! What must hold: where nobody has set faults, a file knows nothing of this and an operation pays one look at an
//! `Option`; a fault strikes the content of files (reads, writes, flushes), never their names.

use super::core::Core;
use crate::{DiskFaults, Fault};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

/// By directory; `None` until faults are set for the first time.
static FAULTS: Mutex<Option<BTreeMap<PathBuf, DiskFaults>>> = Mutex::new(None);

/// Makes the files below these directories behave so from now on, and all others well again. Only files that are opened
/// after the first call of the process take part.
pub fn set_disk_faults(faults: BTreeMap<PathBuf, DiskFaults>) {
    *FAULTS.lock().unwrap_or_else(PoisonError::into_inner) = Some(faults);
}

/// A file that faults may strike.
pub(super) struct Victim {
    core: Rc<Core>,
    path: PathBuf,
}

impl Victim {
    /// `None` where nobody has set faults.
    pub(super) fn new(core: &Rc<Core>, path: &Path) -> Option<Victim> {
        let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        faults.is_some().then(|| Victim { core: core.clone(), path: path.to_owned() })
    }

    fn faults(&self) -> DiskFaults {
        let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        let of_directory = faults.iter().flatten().find(|(directory, _)| self.path.starts_with(directory));
        of_directory.map(|(_, faults)| *faults).unwrap_or_default()
    }

    /// Whether this operation gets the fault.
    pub(super) fn strikes(&self, fault: Fault) -> bool {
        let per_million = u64::from(self.faults().per_million(fault));
        per_million > 0 && self.core.random_u64() % 1_000_000 < per_million
    }

    /// EIO where this operation gets the fault.
    pub(super) fn fails(&self, fault: Fault) -> io::Result<()> {
        match self.strikes(fault) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    /// Does `work` and takes as many times longer as the disk is slow.
    pub(super) async fn slowed<T>(&self, work: impl Future<Output = T>) -> T {
        let began = std::time::Instant::now();
        let done = work.await;
        let times_longer = self.faults().slow_factor.saturating_sub(1);
        if times_longer > 0 {
            self.core.timers.sleep(began.elapsed() * times_longer).await;
        }
        done
    }
}
