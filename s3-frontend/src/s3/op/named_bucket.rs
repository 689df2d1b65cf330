//! HeadBucket, DeleteBucket and GetBucketLocation: what is asked of a bucket by its name alone.

use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::store::ObjectStore;
use buckets_engine::object::api::BucketInfo;

/// HeadBucket: it is there, and here.
pub(crate) async fn head_bucket<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let bucket = call.store.bucket(call.bucket()).map_err(|error| call.refusal(error))?;
    let mut response = call.empty(200);
    response.head.header("x-amz-bucket-region", region(call, &bucket));
    response.head.header("x-amz-access-point-alias", "false");
    Ok(response)
}

/// Where a bucket is: where it was wanted, or where the server is.
fn region<'a, S>(call: &Call<'a, S>, bucket: &'a BucketInfo) -> &'a str {
    if bucket.location.is_empty() { &call.options.region } else { &bucket.location }
}

/// DeleteBucket.
pub(crate) async fn delete_bucket<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    call.store.delete_bucket(call.bucket()).await.map_err(|error| call.refusal(error))?;
    Ok(call.empty(204))
}

/// GetBucketLocation: the region, but nothing for `us-east-1`, which had no name when S3 began.
pub(crate) async fn get_bucket_location<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let bucket = call.store.bucket(call.bucket()).map_err(|error| call.refusal(error))?;
    let region = region(call, &bucket);
    let mut xml = XmlWriter::rooted("LocationConstraint");
    if region != "us-east-1" {
        xml.own_text(region);
    }
    xml.close("LocationConstraint");
    Ok(call.document(xml))
}
