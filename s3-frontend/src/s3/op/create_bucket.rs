//! CreateBucket.

use crate::limits::SMALL_XML_BYTES_MAX;
use crate::s3::checksum;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::names::is_bucket_name;
use crate::s3::object_headers;
use crate::s3::xml::reader;
use crate::server::call::{Answer, Call};
use crate::server::request_body::RequestBody;
use crate::store::ObjectStore;
use buckets_engine::object::api::BodySource;

pub(crate) async fn create_bucket<S: ObjectStore>(
    call: &Call<'_, S>,
    body: &mut RequestBody<'_>,
) -> Answer<S> {
    if !is_bucket_name(call.bucket()) {
        return Err(Code::InvalidBucketName.with("BucketName", call.bucket()));
    }
    object_headers::check_supported(call.head)?;
    let document = body.read_document(SMALL_XML_BYTES_MAX).await?;
    checksum::check_md5(call.head, &document)?;
    checksum::check_document(call.head, body.trailing_checksum(), &document)?;
    let location = read_location(&document)?;
    if !location.is_empty() && !is_region_name(&location) {
        return Err(Code::InvalidLocationConstraint.with("LocationConstraint", location));
    }

    let created = call.store.create_bucket(call.bucket(), &location).await;
    created.map_err(|error| call.refusal(error))?;
    let mut response = call.empty(200);
    response.head.header("Location", &format!("/{}", call.bucket()));
    Ok(response)
}

/// The server is one place, whatever it is called: a bucket keeps the name of the region that its owner wanted.
fn is_region_name(name: &str) -> bool {
    name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The `LocationConstraint`; empty where there is none.
pub(super) fn read_location(document: &[u8]) -> S3Result<String> {
    let mut location = String::new();
    if document.iter().all(u8::is_ascii_whitespace) {
        return Ok(location);
    }
    let mut unsupported = None;
    reader::read(document, |path, text| {
        match path {
            "CreateBucketConfiguration/LocationConstraint" => location = text.trim().to_owned(),
            "CreateBucketConfiguration" => {}
            _ if !path.starts_with("CreateBucketConfiguration/") => return Err(reader::MalformedXml),
            // Directory buckets and tags.
            other => unsupported = Some(other.to_owned()),
        }
        Ok(())
    })?;
    match unsupported {
        Some(what) => Err(S3Error::not_implemented(&what)),
        None => Ok(location),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_is_read_where_there_is_one() {
        let document = |inner: &str| {
            format!("<CreateBucketConfiguration xmlns='x'>{inner}</CreateBucketConfiguration>").into_bytes()
        };
        for (document, expected) in [
            (Vec::new(), Ok("")),
            (b" \n".to_vec(), Ok("")),
            (document(""), Ok("")),
            (document("<LocationConstraint>eu-west-1</LocationConstraint>"), Ok("eu-west-1")),
            (document("<LocationConstraint/>"), Ok("")),
            (document("<Bucket><Type>Directory</Type></Bucket>"), Err(Code::NotImplemented)),
            (b"<Other/>".to_vec(), Err(Code::MalformedXML)),
            (b"<CreateBucketConfiguration>".to_vec(), Err(Code::MalformedXML)),
        ] {
            let read = read_location(&document).map_err(|error| error.code);
            assert_eq!(read, expected.map(str::to_owned), "{document:?}");
        }
    }
}
