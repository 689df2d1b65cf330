//! K+M: how many data and parity chunks a set codes with, and every number that follows from it.
//!
//! What must hold: K and M are each 1..=16. Voters, quorums and degraded codes are derived here and nowhere else.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most data chunks, and most parity chunks.
pub const CHUNKS_OF_A_KIND_MAX: u8 = 16;

/// K data and M parity chunks, each 1..=16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "StoredCoding", into = "StoredCoding")]
pub struct Coding {
    k: u8,
    m: u8,
}

impl Coding {
    /// `None` unless both are 1..=16.
    pub const fn new(k: u8, m: u8) -> Option<Coding> {
        if k == 0 || k > CHUNKS_OF_A_KIND_MAX || m == 0 || m > CHUNKS_OF_A_KIND_MAX {
            return None;
        }
        Some(Coding { k, m })
    }

    /// Data chunks.
    pub const fn k(self) -> u8 {
        self.k
    }

    /// Parity chunks.
    pub const fn m(self) -> u8 {
        self.m
    }

    /// All chunks, which is the number of disks of a set.
    pub const fn n(self) -> u8 {
        self.k + self.m
    }

    /// Chunks that must be flushed before a write is acknowledged: K, and always more than half of them.
    /// (K where K > M, K+1 where K = M; plain replication 1+2 waits for 2 copies.)
    pub const fn write_quorum(self) -> u8 {
        let majority = self.n() / 2 + 1;
        if self.k > majority { self.k } else { majority }
    }

    /// Raft replicas of each partition: enough that metadata survives what data survives.
    pub const fn voters(self) -> u8 {
        let needed = 2 * self.m + 1;
        if self.n() < needed { self.n() } else { needed }
    }

    /// Voters that must agree to commit.
    pub const fn voter_majority(self) -> u8 {
        self.voters() / 2 + 1
    }

    /// Disks of a set that may be gone while writes go on.
    pub const fn write_failures_tolerated(self) -> u8 {
        let metadata = self.voters() - self.voter_majority();
        if metadata < self.m { metadata } else { self.m }
    }

    /// Disks of a set that may be gone while everything stays readable: M, but where M > K no more than half of the
    /// voters. What is acknowledged is on a majority of them, so with fewer left nobody knows whether it is all there.
    pub const fn read_failures_tolerated(self) -> u8 {
        let metadata = self.voters() / 2;
        if metadata < self.m { metadata } else { self.m }
    }

    /// The code for an object that is written while `missing` of the disks are gone: fewer data chunks, so that the
    /// object tolerates what it would have tolerated. `None` where no redundancy would be left.
    pub const fn degraded(self, missing: u8) -> Option<Coding> {
        if missing >= self.n() {
            return None;
        }
        let k = if self.k > missing { self.k - missing } else { 1 };
        Coding::new(k, self.n() - missing - k)
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

impl fmt::Debug for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not `K+M`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not K+M with K and M from 1 to 16, for example 4+2")]
pub struct CodingError(String);

impl FromStr for Coding {
    type Err = CodingError;

    fn from_str(text: &str) -> Result<Coding, CodingError> {
        let parse = || {
            let (k, m) = text.split_once('+')?;
            Coding::new(digits(k)?, digits(m)?)
        };
        parse().ok_or_else(|| CodingError(text.to_owned()))
    }
}

fn digits(text: &str) -> Option<u8> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[derive(Serialize, Deserialize)]
struct StoredCoding {
    data: u8,
    parity: u8,
}

impl From<Coding> for StoredCoding {
    fn from(coding: Coding) -> StoredCoding {
        StoredCoding { data: coding.k, parity: coding.m }
    }
}

impl TryFrom<StoredCoding> for Coding {
    type Error = CodingError;

    fn try_from(stored: StoredCoding) -> Result<Coding, CodingError> {
        Coding::new(stored.data, stored.parity)
            .ok_or_else(|| CodingError(format!("{}+{}", stored.data, stored.parity)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_follow_the_code() {
        // (code, write quorum, voters, voter majority, failures tolerated for writes, for reads)
        let table = [
            ("4+2", 4, 5, 3, 2, 2),
            ("2+2", 3, 4, 3, 1, 2),
            ("8+4", 8, 9, 5, 4, 4),
            ("16+4", 16, 9, 5, 4, 4),
            ("1+1", 2, 2, 2, 0, 1),
            ("1+2", 2, 3, 2, 1, 1),
            ("1+3", 3, 4, 3, 1, 2),
            ("2+1", 2, 3, 2, 1, 1),
            ("16+16", 17, 32, 17, 15, 16),
        ];
        for (text, quorum, voters, majority, writes, reads) in table {
            let coding: Coding = text.parse().unwrap();
            assert_eq!(coding.to_string(), text);
            let derived = (
                coding.write_quorum(),
                coding.voters(),
                coding.voter_majority(),
                coding.write_failures_tolerated(),
                coding.read_failures_tolerated(),
            );
            assert_eq!(derived, (quorum, voters, majority, writes, reads), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_code_is_refused() {
        for text in [
            "", "4", "4+", "+2", "0+2", "2+0", "17+1", "1+17", "4-2", "4+2+1", " 4+2", "4++2", "-4+2", "4+ 2",
        ] {
            assert!(text.parse::<Coding>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn degraded_writes_keep_their_redundancy() {
        let of = |text: &str, missing| {
            let coding: Coding = text.parse().unwrap();
            coding.degraded(missing).map(|c| c.to_string())
        };
        assert_eq!(of("4+2", 0).as_deref(), Some("4+2"));
        assert_eq!(of("4+2", 1).as_deref(), Some("3+2"));
        assert_eq!(of("4+2", 2).as_deref(), Some("2+2"));
        assert_eq!(of("2+2", 1).as_deref(), Some("1+2"));
        assert_eq!(of("2+2", 2).as_deref(), Some("1+1"));
        assert_eq!(of("2+2", 3), None);
        assert_eq!(of("1+1", 1), None);
        assert_eq!(of("1+1", 9), None);
    }

    #[test]
    fn any_write_that_is_acknowledged_while_disks_are_missing_has_redundancy() {
        for k in 1..=16 {
            for m in 1..=16 {
                let coding = Coding::new(k, m).unwrap();
                assert!(coding.write_quorum() >= k && coding.write_quorum() <= coding.n());
                assert!(2 * coding.write_quorum() > coding.n());
                for missing in 0..=coding.write_failures_tolerated() {
                    let degraded = coding.degraded(missing).unwrap();
                    assert_eq!(degraded.n(), coding.n() - missing, "{coding} - {missing}");
                }
            }
        }
    }

    #[test]
    fn a_stored_code_is_checked() {
        assert_eq!(serde_json::to_string(&Coding::new(4, 2)).unwrap(), r#"{"data":4,"parity":2}"#);
        assert!(serde_json::from_str::<Coding>(r#"{"data":4,"parity":0}"#).is_err());
    }
}
