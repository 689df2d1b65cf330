//! CopyObject: an object of this store as the body of a put.

use crate::limits::PUT_BYTES_MAX;
use crate::s3::checksum;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::object_headers;
use crate::s3::op::copy_source::{CopiedBody, CopySource};
use crate::s3::op::write_condition;
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::store::{ObjectReader, ObjectStore};
use buckets_engine::object::api::{Checksum, ChecksumRequest, ObjectInfo, PutRequest};

pub(crate) async fn copy_object<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let source = CopySource::parse(call.header("x-amz-copy-source").unwrap_or_default())?;
    let replaces = directive(call, "x-amz-metadata-directive")? == Directive::Replace;
    // Tags: there are none to copy, and none can be given.
    directive(call, "x-amz-tagging-directive")?;
    let kept = object_headers::kept(call.head)?;
    if source.is(&call.resource) && !replaces {
        return Err(Code::InvalidRequest.because(
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's \
             metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    let condition = write_condition::of_put(call.head)?;
    let object = source.open(call).await?;
    let info = object.info();
    if info.size > PUT_BYTES_MAX {
        return Err(Code::InvalidRequest.because(
            "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
        ));
    }

    let request = PutRequest {
        bucket: call.bucket().to_owned(),
        key: call.key().to_owned(),
        headers: if replaces { kept } else { info.headers.clone() },
        length: Some(info.size),
        condition,
        content_md5: None,
        checksum: checksum_of_copy(call, info)?,
    };
    let range = 0..info.size;
    let mut body = CopiedBody::new(object.read(range));
    let stored = call.store.put(request, &mut body).await.map_err(|error| call.refusal(error))?;

    let mut xml = XmlWriter::rooted("CopyObjectResult");
    copy_result(&mut xml, &stored.etag, stored.modified_unix_ms, stored.checksum.as_ref());
    xml.close("CopyObjectResult");
    Ok(call.document(xml))
}

/// What CopyObject and UploadPartCopy show of what they stored.
pub(crate) fn copy_result(xml: &mut XmlWriter, etag: &str, modified_unix_ms: u64, stored: Option<&Checksum>) {
    xml.date("LastModified", modified_unix_ms);
    xml.etag(etag);
    if let Some(stored) = stored {
        xml.text(checksum::names(stored.algorithm).element, &checksum::text(stored, 0));
        xml.text("ChecksumType", checksum::kind_name(stored.kind));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Copy,
    Replace,
}

fn directive<S: ObjectStore>(call: &Call<'_, S>, name: &str) -> S3Result<Directive> {
    match call.header(name) {
        None | Some("COPY") => Ok(Directive::Copy),
        Some("REPLACE") => Ok(Directive::Replace),
        Some(other) => Err(S3Error::invalid_argument("Unknown directive.", name, other)),
    }
}

/// The algorithm that the client names, or that of the source.
fn checksum_of_copy<S: ObjectStore>(
    call: &Call<'_, S>,
    source: &ObjectInfo,
) -> S3Result<Option<ChecksumRequest>> {
    let algorithm = match call.header("x-amz-checksum-algorithm") {
        Some(name) => Some(checksum::algorithm_named(name)?),
        None => source.checksum.as_ref().map(|stored| stored.algorithm),
    };
    Ok(algorithm.map(|algorithm| ChecksumRequest { algorithm, expected: None }))
}
