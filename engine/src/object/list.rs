//! Listings: a merge of ordered runs, one per partition.
//!
//! What must hold: entries come in byte order, each once, with common prefixes that several partitions hold
//! merged into one; a page is cut only where every partition has been read up to the cut; a partition that does not answer
//! makes the page an error, never a shorter page.

use super::api::{
    ListEntry, ListPage, ListRequest, ListUploadsRequest, ObjectError, PartsPage, UploadInfo, UploadsPage,
};
use super::store::Store;
use crate::message::{ListRun, PartitionOp, Reply};
use buckets_ring::id::{BucketId, GroupId, UploadId};
use futures::future::try_join_all;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

impl Store {
    /// A page of a bucket's listing.
    pub async fn list(&self, bucket: &str, request: ListRequest) -> Result<ListPage, ObjectError> {
        let bucket = self.known_bucket(bucket)?;
        if request.max_keys == 0 {
            return Ok(ListPage { entries: Vec::new(), next: None });
        }
        let groups = self.core.map.all_partitions();
        let limit = first_share(request.max_keys, groups.len());
        let run =
            |group| Run { group, entries: VecDeque::new(), after: request.after.clone(), more: true, limit };
        let mut runs: Vec<Run> = groups.into_iter().map(run).collect();
        let mut entries: Vec<ListEntry> = Vec::new();
        let mut heads: BinaryHeap<Head> = BinaryHeap::new();
        // Runs whose next entry is not among the heads.
        let mut headless: Vec<usize> = (0..runs.len()).collect();
        loop {
            // Those that come to their last entry are asked along.
            let dry = runs.iter_mut().filter(|run| run.entries.is_empty() && run.more);
            try_join_all(dry.map(|run| self.refill(bucket, run, &request))).await?;
            headless.retain(|run| match runs[*run].entries.pop_front() {
                Some(entry) => {
                    heads.push(Head { entry, run: *run });
                    false
                }
                None => runs[*run].more,
            });
            // As long as no run is dry with more to come, the smallest head is the next entry.
            while headless.is_empty() {
                let Some(Head { entry, run }) = heads.pop() else {
                    return Ok(ListPage { entries, next: None });
                };
                match runs[run].entries.pop_front() {
                    Some(entry) => heads.push(Head { entry, run }),
                    None if runs[run].more => headless.push(run),
                    None => {}
                }
                let last = entries.last().map(text);
                if last == Some(text(&entry)) {
                    continue;
                }
                if entries.len() == request.max_keys {
                    let next = last.map(str::to_owned);
                    return Ok(ListPage { entries, next });
                }
                entries.push(entry);
            }
        }
    }

    async fn refill(
        &self,
        bucket: BucketId,
        run: &mut Run,
        request: &ListRequest,
    ) -> Result<(), ObjectError> {
        let op = PartitionOp::List(ListRun {
            bucket,
            prefix: request.prefix.clone(),
            delimiter: request.delimiter.clone(),
            after: run.after.clone(),
            limit: run.limit,
        });
        let Reply::Listed { entries, more } = self.core.ask_group(run.group, op).await? else {
            return Err(ObjectError::Internal("a listing was asked for".into()));
        };
        run.more = more;
        if let Some(last) = entries.last() {
            run.after = Some(text(last).to_owned());
        }
        run.entries = entries.into();
        // It has more than its share: prefixes, which many partitions may hold.
        run.limit = (2 * run.limit).min(request.max_keys + 1);
        Ok(())
    }

    /// A page of an upload's parts. Errors: `NoSuchUpload`.
    pub async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: UploadId,
        after: u16,
        max: usize,
    ) -> Result<PartsPage, ObjectError> {
        let bucket = self.known_bucket(bucket)?;
        let group = self.core.map.group_for(bucket, key);
        let op = PartitionOp::ListParts { bucket, key: key.to_owned(), upload, after, max };
        match self.core.ask_group(group, op).await? {
            Reply::Parts(page) => Ok(*page),
            _ => Err(ObjectError::Internal("parts were asked for".into())),
        }
    }

    /// A page of a bucket's uploads, by key and upload id, prefixes rolled up.
    pub async fn list_uploads(
        &self,
        bucket: &str,
        request: ListUploadsRequest,
    ) -> Result<UploadsPage, ObjectError> {
        let bucket = self.known_bucket(bucket)?;
        // Uploads in progress are few: each partition gives its first ones, and the page is cut from the merge.
        let groups = self.core.map.all_partitions();
        let asked = groups.iter().map(|group| {
            let op = PartitionOp::ListUploads { bucket, request: request.clone() };
            self.core.ask_group(*group, op)
        });
        let mut uploads: Vec<UploadInfo> = Vec::new();
        // Past this point some partition was not read.
        let mut read_up_to: Option<(String, UploadId)> = None;
        for reply in try_join_all(asked).await? {
            let Reply::Uploads(page) = reply else {
                return Err(ObjectError::Internal("uploads were asked for".into()));
            };
            if let Some((key, Some(upload))) = page.next {
                let end = (key, upload);
                read_up_to = Some(read_up_to.map_or(end.clone(), |least| least.min(end)));
            }
            uploads.extend(page.uploads);
        }
        uploads.sort_by(|a, b| (&a.key, a.upload).cmp(&(&b.key, b.upload)));
        let known = uploads.len();
        if let Some((key, upload)) = &read_up_to {
            uploads.retain(|u| (&u.key, u.upload) <= (key, *upload));
        }
        let mut more = read_up_to.is_some() || uploads.len() < known;
        if uploads.len() > request.max_uploads {
            uploads.truncate(request.max_uploads);
            more = true;
        }
        let next = uploads.last().filter(|_| more).map(|last| (last.key.clone(), Some(last.upload)));
        let mut page = UploadsPage { uploads: Vec::new(), prefixes: Vec::new(), next };
        for upload in uploads {
            match rolled_up(&upload.key, &request.prefix, request.delimiter.as_deref()) {
                None => page.uploads.push(upload),
                Some(prefix) if page.prefixes.last().map(String::as_str) == Some(prefix) => {}
                Some(prefix) => page.prefixes.push(prefix.to_owned()),
            }
        }
        Ok(page)
    }
}

/// Entries asked of each partition at first: its even share of the page, and as many more as the ring and chance rarely
/// exceed. What each gives beyond its share, a page costs as many times as there are partitions.
fn first_share(max_keys: usize, partitions: usize) -> usize {
    let even = max_keys.div_ceil(partitions);
    (even + even / 4 + 4 * even.isqrt() + 4).min(max_keys + 1)
}

/// One partition's run of a listing.
struct Run {
    group: GroupId,
    entries: VecDeque<ListEntry>,
    after: Option<String>,
    more: bool,
    /// Entries asked for with the next question.
    limit: usize,
}

/// The first entry of a run that is not in the page yet; the smallest is the greatest.
struct Head {
    entry: ListEntry,
    run: usize,
}

impl Head {
    fn key(&self) -> Reverse<(&str, usize)> {
        Reverse((text(&self.entry), self.run))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Head {}

fn text(entry: &ListEntry) -> &str {
    match entry {
        ListEntry::Object(object) => &object.key,
        ListEntry::Prefix(prefix) => prefix,
    }
}

/// The common prefix that a key belongs to, delimiter included.
pub(crate) fn rolled_up<'a>(key: &'a str, prefix: &str, delimiter: Option<&str>) -> Option<&'a str> {
    let delimiter = delimiter.filter(|d| !d.is_empty())?;
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_takes_few_more_rows_where_many_partitions_share_it() {
        assert_eq!(first_share(1000, 1), 1001);
        assert_eq!(first_share(1000, 6), 260);
        assert_eq!(first_share(1000, 1000), 9);
        assert_eq!([first_share(1, 6), first_share(2, 1000)], [2, 3]);
    }
}
