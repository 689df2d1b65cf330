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
use std::collections::VecDeque;

/// Entries asked of each partition beyond its even share, so that one round is nearly always enough.
const SHARE_SLACK: usize = 32;

impl Store {
    /// A page of a bucket's listing.
    pub async fn list(&self, bucket: &str, request: ListRequest) -> Result<ListPage, ObjectError> {
        let bucket = self.known_bucket(bucket)?;
        if request.max_keys == 0 {
            return Ok(ListPage { entries: Vec::new(), next: None });
        }
        let groups = self.core.map.all_partitions();
        let share = request.max_keys / groups.len() + request.max_keys / 8 + SHARE_SLACK;
        let limit = share.min(request.max_keys + 1);
        let mut runs: Vec<Run> = groups.iter().map(|group| Run::new(*group, request.after.clone())).collect();
        let mut entries: Vec<ListEntry> = Vec::new();
        loop {
            try_join_all(runs.iter_mut().map(|run| self.refill(bucket, run, &request, limit))).await?;
            // As long as no run is empty with more to come, the smallest head is the next entry.
            while runs.iter().all(Run::is_settled) {
                let Some(least) = runs.iter().filter_map(Run::head).min().map(str::to_owned) else {
                    return Ok(ListPage { entries, next: None });
                };
                if entries.len() == request.max_keys {
                    let next = entries.last().map(|entry| text(entry).to_owned());
                    return Ok(ListPage { entries, next });
                }
                let mut same = runs.iter_mut().filter(|run| run.head() == Some(&least));
                entries.extend(same.next().and_then(|run| run.entries.pop_front()));
                same.for_each(|run| drop(run.entries.pop_front()));
            }
        }
    }

    async fn refill(
        &self,
        bucket: BucketId,
        run: &mut Run,
        request: &ListRequest,
        limit: usize,
    ) -> Result<(), ObjectError> {
        if run.is_settled() {
            return Ok(());
        }
        let op = PartitionOp::List(ListRun {
            bucket,
            prefix: request.prefix.clone(),
            delimiter: request.delimiter.clone(),
            after: run.after.clone(),
            limit,
        });
        let Reply::Listed { entries, more } = self.core.ask_group(run.group, op).await? else {
            return Err(ObjectError::Internal("a listing was asked for".into()));
        };
        run.more = more;
        if let Some(last) = entries.last() {
            run.after = Some(text(last).to_owned());
        }
        run.entries = entries.into();
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

/// One partition's run of a listing.
struct Run {
    group: GroupId,
    entries: VecDeque<ListEntry>,
    after: Option<String>,
    more: bool,
}

impl Run {
    fn new(group: GroupId, after: Option<String>) -> Run {
        Run { group, entries: VecDeque::new(), after, more: true }
    }

    /// Its head is known, or it has ended.
    fn is_settled(&self) -> bool {
        !self.entries.is_empty() || !self.more
    }

    fn head(&self) -> Option<&str> {
        self.entries.front().map(text)
    }
}

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
