//! A run of a listing within one partition: a range scan that seeks past rolled-up prefixes.
//!
//! What must hold: entries come in byte order; everything of the partition between `after` and the last entry is in
//! the run; the cost follows the entries returned, not the keys below a rolled-up prefix.

use crate::core::Core;
use crate::manifest::ManifestSummary;
use crate::message::{Answer, ListRun, Reply};
use crate::object::api::{ListEntry, ObjectSummary};
use crate::partition::decoded;
use crate::rows;
use buckets_ring::id::GroupId;
use bytes::Bytes;
use std::ops::Bound;
use std::rc::Rc;

pub(super) async fn run(core: &Rc<Core>, group: GroupId, run: ListRun, salvage: bool) -> Answer {
    let view = core.read_view(group, salvage).await?;
    let Some(start) = start_of(&run) else {
        return Ok(Reply::Listed { entries: Vec::new(), more: false });
    };
    let all = rows::object(run.bucket, run.prefix.as_bytes());
    let end = rows::after_prefix(&all).map_or(Bound::Unbounded, Bound::Excluded);
    let mut scan = view.scan(start, end);
    let mut entries = Vec::new();
    let failed = |error| core.index_refusal(group, &error);
    while let Some((row, record)) = scan.next().await.map_err(failed)? {
        let Some(key) = rows::parse_object(&row).and_then(|key| std::str::from_utf8(key).ok()) else {
            continue;
        };
        if entries.len() == run.limit {
            return Ok(Reply::Listed { entries, more: true });
        }
        match rolled_up(key, &run) {
            Some(prefix) => {
                entries.push(ListEntry::Prefix(prefix.to_owned()));
                let below = rows::object(run.bucket, prefix.as_bytes());
                match rows::after_prefix(&below) {
                    Some(next) => scan.seek(&next),
                    None => break,
                }
            }
            None => {
                let summary = decoded(ManifestSummary::decode(&record))?;
                entries.push(ListEntry::Object(ObjectSummary {
                    key: key.to_owned(),
                    size: summary.size,
                    etag: summary.etag.text(),
                    modified_unix_ms: summary.modified_unix_ms,
                    checksum: summary.checksum.map(|c| (c.algorithm, c.kind)),
                }));
            }
        }
        core.env.yield_if_needed().await;
    }
    Ok(Reply::Listed { entries, more: false })
}

fn rolled_up<'a>(key: &'a str, run: &ListRun) -> Option<&'a str> {
    crate::object::list::rolled_up(key, &run.prefix, run.delimiter.as_deref())
}

/// Where the scan starts; `None` where nothing can follow.
fn start_of(run: &ListRun) -> Option<Bound<Bytes>> {
    let prefix_row = rows::object(run.bucket, run.prefix.as_bytes());
    let Some(after) = run.after.as_deref().filter(|after| **after >= *run.prefix) else {
        return Some(Bound::Included(prefix_row));
    };
    let after_row = rows::object(run.bucket, after.as_bytes());
    let is_rolled_up = after.starts_with(&run.prefix) && rolled_up(after, run) == Some(after);
    match is_rolled_up {
        true => rows::after_prefix(&after_row).map(Bound::Included),
        false => Some(Bound::Excluded(after_row)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_ring::id::BucketId;

    fn listing(prefix: &str, delimiter: Option<&str>, after: Option<&str>) -> ListRun {
        ListRun {
            bucket: BucketId::from_bytes([0; 16]),
            prefix: prefix.into(),
            delimiter: delimiter.map(str::to_owned),
            after: after.map(str::to_owned),
            limit: 10,
        }
    }

    #[test]
    fn keys_roll_up_at_the_first_delimiter_after_the_prefix() {
        let run = listing("a/", Some("/"), None);
        assert_eq!(rolled_up("a/b/c", &run), Some("a/b/"));
        assert_eq!(rolled_up("a/b", &run), None);
        assert_eq!(rolled_up("a//", &run), Some("a//"));
        assert_eq!(rolled_up("axxb", &listing("a", Some("xx"), None)), Some("axx"));
        assert_eq!(rolled_up("a/b", &listing("", Some(""), None)), None);
    }

    #[test]
    fn a_marker_that_is_a_rolled_up_prefix_skips_what_is_below_it() {
        let row = |key: &str| rows::object(BucketId::from_bytes([0; 16]), key.as_bytes());
        let start = |p, d, a| start_of(&listing(p, d, a)).unwrap();
        assert_eq!(start("", Some("/"), Some("a/")), Bound::Included(row("a0")));
        assert_eq!(start("", Some("/"), Some("a/b")), Bound::Excluded(row("a/b")));
        assert_eq!(start("", None, Some("a/")), Bound::Excluded(row("a/")));
        assert_eq!(start("b", None, Some("a")), Bound::Included(row("b")));
        assert_eq!(start("b", None, None), Bound::Included(row("b")));
    }
}
