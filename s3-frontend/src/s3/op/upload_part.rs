//! UploadPart and UploadPartCopy: one part of an upload, from the client or from an object of this store.

use crate::limits::{PART_NUMBER_MAX, PUT_BYTES_MAX};
use crate::s3::checksum;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::object_headers;
use crate::s3::op::copy_object::copy_result;
use crate::s3::op::copy_source::{CopiedBody, CopySource};
use crate::s3::op::create_multipart_upload::upload_asked;
use crate::s3::op::put_object::{check_length, checksum_headers};
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::server::request_body::RequestBody;
use crate::store::{ObjectReader, ObjectStore};
use buckets_engine::object::api::UploadPartRequest;
use std::ops::Range;

pub(crate) async fn upload_part<S: ObjectStore>(call: &Call<'_, S>, body: &mut RequestBody<'_>) -> Answer<S> {
    check_length(call, body)?;
    object_headers::check_supported(call.head)?;
    let request = UploadPartRequest {
        bucket: call.bucket().to_owned(),
        key: call.key().to_owned(),
        number: part_number(call)?,
        upload: upload_asked(call)?,
        length: body.length(),
        content_md5: checksum::content_md5(call.head)?,
        checksum: checksum::of_upload(call.head)?,
    };

    let stored = call.store.upload_part(request, body).await.map_err(|error| call.refusal(error))?;

    let mut response = call.empty(200);
    response.head.etag(&stored.etag);
    checksum_headers(&mut response.head, stored.checksum.as_ref(), 0);
    Ok(response)
}

pub(crate) async fn upload_part_copy<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let source = CopySource::parse(call.header("x-amz-copy-source").unwrap_or_default())?;
    object_headers::check_supported(call.head)?;
    let number = part_number(call)?;
    let upload = upload_asked(call)?;
    let object = source.open(call).await?;
    let range = match call.header("x-amz-copy-source-range") {
        None => 0..object.info().size,
        Some(text) => source_range(text, object.info().size)?,
    };
    if range.end - range.start > PUT_BYTES_MAX {
        return Err(Code::InvalidRequest.because(
            "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
        ));
    }

    let request = UploadPartRequest {
        bucket: call.bucket().to_owned(),
        key: call.key().to_owned(),
        upload,
        number,
        length: Some(range.end - range.start),
        content_md5: None,
        checksum: None,
    };
    let mut body = CopiedBody::new(object.read(range));
    let stored = call.store.upload_part(request, &mut body).await.map_err(|error| call.refusal(error))?;

    let mut xml = XmlWriter::rooted("CopyPartResult");
    copy_result(&mut xml, &stored.etag, stored.modified_unix_ms, stored.checksum.as_ref());
    xml.close("CopyPartResult");
    Ok(call.document(xml))
}

fn part_number<S: ObjectStore>(call: &Call<'_, S>) -> S3Result<u16> {
    let text = call.query("partNumber").unwrap_or_default();
    match text.parse() {
        Ok(number @ 1..=PART_NUMBER_MAX) => Ok(number),
        _ => {
            let message = "Part number must be an integer between 1 and 10000, inclusive";
            Err(S3Error::invalid_argument(message, "partNumber", text))
        }
    }
}

/// `bytes=first-last`, both given, both inside the source.
fn source_range(text: &str, size: u64) -> S3Result<Range<u64>> {
    let number = |digits: &str| digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    let parsed = text.strip_prefix("bytes=").and_then(|range| {
        let (first, last) = range.split_once('-')?;
        Some((number(first)?, number(last)?))
    });
    match parsed {
        Some((first, last)) if first <= last && last < size => Ok(first..last + 1),
        Some(_) => {
            let message = format!("Range specified is not valid for source object of size: {size}");
            Err(S3Error::invalid_argument(message, "x-amz-copy-source-range", text))
        }
        None => {
            let message = "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
                zero-based offsets of the first and last bytes to copy";
            Err(S3Error::invalid_argument(message, "x-amz-copy-source-range", text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_source_are_strict() {
        for (text, expected) in [
            ("bytes=0-9", Some(0..10)),
            ("bytes=9-9", Some(9..10)),
            ("bytes=0-10", None),
            ("bytes=5-4", None),
            ("bytes=5-", None),
            ("bytes=-5", None),
            ("bytes=+1-2", None),
            ("0-9", None),
        ] {
            assert_eq!(source_range(text, 10).ok(), expected, "{text}");
        }
    }
}
