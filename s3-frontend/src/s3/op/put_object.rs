//! PutObject: the body goes from the socket into the engine's buffers; the answer comes when it is durable.

use crate::http::response::ResponseHead;
use crate::limits::PUT_BYTES_MAX;
use crate::s3::checksum;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::object_headers;
use crate::s3::op::write_condition;
use crate::server::call::{Answer, Call};
use crate::server::request_body::RequestBody;
use crate::store::ObjectStore;
use buckets_engine::object::api::{Checksum, PutRequest};

pub(crate) async fn put_object<S: ObjectStore>(call: &Call<'_, S>, body: &mut RequestBody<'_>) -> Answer<S> {
    check_length(call, body)?;
    let request = PutRequest {
        bucket: call.bucket().to_owned(),
        key: call.key().to_owned(),
        headers: object_headers::kept(call.head)?,
        length: body.length(),
        condition: write_condition::of_put(call.head)?,
        content_md5: checksum::content_md5(call.head)?,
        checksum: checksum::of_upload(call.head)?,
    };

    let stored = call.store.put(request, body).await.map_err(|error| call.refusal(error))?;

    let mut response = call.empty(200);
    response.head.etag(&stored.etag);
    checksum_headers(&mut response.head, stored.checksum.as_ref(), 0);
    Ok(response)
}

/// An upload says how long it is, and is no longer than allowed.
pub(crate) fn check_length<S: ObjectStore>(call: &Call<'_, S>, body: &RequestBody<'_>) -> S3Result<()> {
    if !call.head.has_length() {
        return Err(Code::MissingContentLength.into());
    }
    match body.length() {
        Some(length) if length > PUT_BYTES_MAX => Err(S3Error::from(Code::EntityTooLarge)
            .with("ProposedSize", length.to_string())
            .with("MaxSizeAllowed", PUT_BYTES_MAX.to_string())),
        _ => Ok(()),
    }
}

/// The headers that show a stored checksum.
pub(crate) fn checksum_headers(head: &mut ResponseHead, stored: Option<&Checksum>, parts: usize) {
    if let Some(stored) = stored {
        head.header(checksum::names(stored.algorithm).header, &checksum::text(stored, parts));
        head.header("x-amz-checksum-type", checksum::kind_name(stored.kind));
    }
}
