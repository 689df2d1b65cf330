//! ListBuckets.

use crate::s3::error::{S3Error, S3Result};
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::store::ObjectStore;

/// There is one account: every user sees and owns everything.
pub(crate) const OWNER_ID: &str = "75aa57f09aa0c8caeab4f8c24e99d10f8e7faeebf76c078efc7c6caea54ba06a";
const OWNER_NAME: &str = "buckets";

/// Buckets of a page where the client asks for pages.
const PAGE_MAX: usize = 10_000;

pub(crate) async fn list_buckets<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let buckets = call.store.buckets().map_err(|error| call.refusal(error))?;
    let prefix = call.query("prefix").unwrap_or_default();
    let after = call.query("continuation-token").unwrap_or_default();
    let page_max = page_max(call.query("max-buckets"))?;
    let mut found = buckets.iter().filter(|bucket| {
        bucket.name.starts_with(prefix) && (after.is_empty() || bucket.name.as_str() > after)
    });

    let mut xml = XmlWriter::rooted("ListAllMyBucketsResult");
    owner(&mut xml, "Owner");
    xml.open("Buckets");
    let mut last = "";
    for bucket in found.by_ref().take(page_max) {
        xml.open("Bucket");
        xml.text("Name", &bucket.name);
        xml.date("CreationDate", bucket.created_unix_ms);
        xml.close("Bucket");
        last = &bucket.name;
    }
    xml.close("Buckets");
    if found.next().is_some() {
        xml.text("ContinuationToken", last);
    }
    if !prefix.is_empty() {
        xml.text("Prefix", prefix);
    }
    xml.close("ListAllMyBucketsResult");
    Ok(call.document(xml))
}

fn page_max(asked: Option<&str>) -> S3Result<usize> {
    let Some(text) = asked else { return Ok(usize::MAX) };
    match text.parse() {
        Ok(number @ 1..=PAGE_MAX) => Ok(number),
        _ => Err(S3Error::invalid_argument(
            "Argument max-buckets must be an integer between 1 and 10000",
            "max-buckets",
            text,
        )),
    }
}

/// The owner of everything, as an element of that name.
pub(crate) fn owner(xml: &mut XmlWriter, element: &str) {
    xml.open(element);
    xml.text("ID", OWNER_ID);
    xml.text("DisplayName", OWNER_NAME);
    xml.close(element);
}
