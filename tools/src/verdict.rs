//! One word on how safe the data is, from what is known about each set; and the exit codes that say the same to scripts.
//!
//! What must hold: what is not known to be well is not counted as well.

use buckets_ring::Coding;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How safe the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything is well.
    Safe,
    /// Disks are missing or damaged, and more may fail.
    Degraded,
    /// The next failure may lose data, or data cannot be read already.
    AtRisk,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Safe => "safe",
            Verdict::Degraded => "degraded",
            Verdict::AtRisk => "at risk",
        })
    }
}

/// How a command ended: the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; or all is safe.
    Ok = 0,
    /// The command failed.
    Error = 1,
    /// The command was not understood (also what clap uses).
    Usage = 2,
    /// The state was shown: degraded.
    Degraded = 3,
    /// The state was shown: at risk.
    AtRisk = 4,
}

impl From<Verdict> for Exit {
    fn from(verdict: Verdict) -> Exit {
        match verdict {
            Verdict::Safe => Exit::Ok,
            Verdict::Degraded => Exit::Degraded,
            Verdict::AtRisk => Exit::AtRisk,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> std::process::ExitCode {
        std::process::ExitCode::from(exit as u8)
    }
}

/// What a set still can, with `well` of its disks well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetHealth {
    /// Further disks that may fail while everything stays readable; `None` where it is not readable now.
    pub failures_tolerated: Option<u8>,
    /// Enough disks for writes: write quorum and a majority of voters.
    pub writable: bool,
    /// The set's part of the verdict.
    pub verdict: Verdict,
}

impl SetHealth {
    /// Panics where more disks are well than the set has.
    pub fn of(coding: Coding, well: u8) -> SetHealth {
        assert!(well <= coding.n());
        let lost = coding.n() - well;
        let failures_tolerated = coding.read_failures_tolerated().checked_sub(lost);
        let verdict = match failures_tolerated {
            _ if lost == 0 => Verdict::Safe,
            Some(more) if more > 0 => Verdict::Degraded,
            Some(_) | None => Verdict::AtRisk,
        };
        SetHealth { failures_tolerated, writable: lost <= coding.write_failures_tolerated(), verdict }
    }
}

/// The worst of the sets; without sets nothing can be lost.
pub fn overall(sets: impl IntoIterator<Item = Verdict>) -> Verdict {
    sets.into_iter().max().unwrap_or(Verdict::Safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_the_disks_that_are_well() {
        let table = [
            ("4+2", 6, Some(2), true, Verdict::Safe),
            ("4+2", 5, Some(1), true, Verdict::Degraded),
            ("4+2", 4, Some(0), true, Verdict::AtRisk),
            ("4+2", 3, None, false, Verdict::AtRisk),
            ("2+2", 3, Some(1), true, Verdict::Degraded),
            ("2+2", 2, Some(0), false, Verdict::AtRisk),
            ("1+1", 1, Some(0), false, Verdict::AtRisk),
            ("1+2", 2, Some(0), true, Verdict::AtRisk),
            ("1+2", 1, None, false, Verdict::AtRisk),
        ];
        for (coding, well, failures_tolerated, writable, verdict) in table {
            let health = SetHealth::of(coding.parse().unwrap(), well);
            assert_eq!(health, SetHealth { failures_tolerated, writable, verdict }, "{coding} with {well}");
        }
        assert_eq!(overall([Verdict::Safe, Verdict::AtRisk, Verdict::Degraded]), Verdict::AtRisk);
        assert_eq!(serde_json::to_string(&Verdict::AtRisk).unwrap(), "\"at-risk\"");
    }
}
