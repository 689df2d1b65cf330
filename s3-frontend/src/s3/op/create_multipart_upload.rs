//! CreateMultipartUpload and AbortMultipartUpload: where an upload in parts begins, and where it ends without an object.

use crate::s3::checksum;
use crate::s3::error::{Code, S3Result};
use crate::s3::object_headers;
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::store::ObjectStore;
use buckets_engine::object::api::CreateUploadRequest;
use buckets_ring::id::UploadId;

pub(crate) async fn create_multipart_upload<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let checksum = checksum::of_multipart(call.head)?;
    let request = CreateUploadRequest {
        bucket: call.bucket().to_owned(),
        key: call.key().to_owned(),
        headers: object_headers::kept(call.head)?,
        checksum,
    };
    let upload = call.store.create_upload(request).await.map_err(|error| call.refusal(error))?;

    let mut xml = XmlWriter::rooted("InitiateMultipartUploadResult");
    xml.text("Bucket", call.bucket());
    xml.text("Key", call.key());
    xml.text("UploadId", &upload_text(upload));
    xml.close("InitiateMultipartUploadResult");
    let mut head = call.start(200);
    if let Some((algorithm, kind)) = checksum {
        head.header("x-amz-checksum-algorithm", checksum::names(algorithm).name);
        head.header("x-amz-checksum-type", checksum::kind_name(kind));
    }
    Ok(call.document_with(head, xml))
}

pub(crate) async fn abort_multipart_upload<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let upload = upload_asked(call)?;
    let aborted = call.store.abort_upload(call.bucket(), call.key(), upload).await;
    aborted.map_err(|error| call.refusal(error))?;
    Ok(call.empty(204))
}

/// An upload's id as clients see it.
pub(crate) fn upload_text(upload: UploadId) -> String {
    upload.0.simple().to_string()
}

/// The upload that the request names. What cannot be an id names no upload.
pub(crate) fn upload_asked<S: ObjectStore>(call: &Call<'_, S>) -> S3Result<UploadId> {
    let text = call.query("uploadId").unwrap_or_default();
    parse_upload(text).ok_or_else(|| Code::NoSuchUpload.with("UploadId", text))
}

/// Reads an upload's id back.
pub(crate) fn parse_upload(text: &str) -> Option<UploadId> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(|number| UploadId::from_bytes(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_uploads_are_read_back() {
        let upload = UploadId::from_random(std::array::from_fn(|at| at as u8));
        assert_eq!(parse_upload(&upload_text(upload)), Some(upload));
        for text in ["", "x", &"g".repeat(32), &"0".repeat(33), &format!("+{}", "0".repeat(31))] {
            assert_eq!(parse_upload(text), None, "{text}");
        }
    }
}
