//! CompleteMultipartUpload: the client's list of parts, checked part by part by the engine, becomes the object.

use crate::http::conditions::unquoted;
use crate::http::target::{Slash, encode_into};
use crate::limits::{COMPLETE_XML_BYTES_MAX, PART_NUMBER_MAX};
use crate::s3::checksum;
use crate::s3::error::{Code, S3Result};
use crate::s3::op::create_multipart_upload::upload_asked;
use crate::s3::op::write_condition;
use crate::s3::xml::reader::{self, MalformedXml};
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::server::request_body::RequestBody;
use crate::store::ObjectStore;
use buckets_engine::object::api::{ChecksumAlgorithm, CompletePart, CompleteUploadRequest};

pub(crate) async fn complete_multipart_upload<S: ObjectStore>(
    call: &Call<'_, S>,
    body: &mut RequestBody<'_>,
) -> Answer<S> {
    let upload = upload_asked(call)?;
    let document = body.read_document(COMPLETE_XML_BYTES_MAX).await?;
    checksum::check_md5(call.head, &document)?;
    let parts = read_parts(&document)?;
    let request = CompleteUploadRequest {
        bucket: call.bucket().to_owned(),
        key: call.key().to_owned(),
        upload,
        parts,
        condition: write_condition::of_put(call.head)?,
        // Here the header speaks of the object, not of this document.
        checksum: whole_checksum(call)?,
    };
    let parts = request.parts.len();

    let stored = call.store.complete_upload(request).await.map_err(|error| call.refusal(error))?;

    let mut xml = XmlWriter::rooted("CompleteMultipartUploadResult");
    xml.text("Location", &location(call));
    xml.text("Bucket", call.bucket());
    xml.text("Key", call.key());
    xml.etag(&stored.etag);
    if let Some(stored) = &stored.checksum {
        xml.text(checksum::names(stored.algorithm).element, &checksum::text(stored, parts));
        xml.text("ChecksumType", checksum::kind_name(stored.kind));
    }
    xml.close("CompleteMultipartUploadResult");
    Ok(call.document(xml))
}

/// The checksum that the client sends of the whole object. One over the parts' checksums ends in their number; the engine computes
/// that one itself from the parts, each of which is checked.
fn whole_checksum<S: ObjectStore>(call: &Call<'_, S>) -> S3Result<Option<(ChecksumAlgorithm, Vec<u8>)>> {
    let composite =
        |value: &str| value.rsplit_once('-').is_some_and(|(_, parts)| parts.parse::<u16>().is_ok());
    if checksum::ALL.iter().any(|names| call.header(names.header).is_some_and(composite)) {
        return Ok(None);
    }
    checksum::announced_value(call.head)
}

/// Where the object is, as the client reached it.
fn location<S: ObjectStore>(call: &Call<'_, S>) -> String {
    let mut path = Vec::new();
    encode_into(call.bucket(), Slash::Keep, &mut path);
    path.push(b'/');
    encode_into(call.key(), Slash::Keep, &mut path);
    format!("http://{}/{}", call.header("host").unwrap_or_default(), String::from_utf8_lossy(&path))
}

pub(super) fn read_parts(document: &[u8]) -> S3Result<Vec<CompletePart>> {
    if document.is_empty() {
        return Err(Code::MissingRequestBodyError.into());
    }
    let mut parts: Vec<CompletePart> = Vec::new();
    let (mut number, mut etag, mut checksum) = (None, None, None);
    reader::read(document, |path, text| {
        let field = path.strip_prefix("CompleteMultipartUpload/Part/");
        match (path, field) {
            (_, Some("PartNumber")) => {
                let parsed = text.trim().parse().map_err(|_| MalformedXml)?;
                number = Some(parsed).filter(|number| (1..=PART_NUMBER_MAX).contains(number));
            }
            (_, Some("ETag")) => etag = Some(unquoted(text).to_owned()),
            (_, Some(element)) => {
                if let Some(names) = checksum::ALL.iter().find(|names| names.element == element) {
                    let value = checksum::decode(names.algorithm, text).ok_or(MalformedXml)?;
                    checksum = Some((names.algorithm, value));
                }
            }
            ("CompleteMultipartUpload/Part", _) => {
                let (Some(number), Some(etag)) = (number.take(), etag.take()) else {
                    return Err(MalformedXml);
                };
                parts.push(CompletePart { number, etag, checksum: checksum.take() });
            }
            _ if !path.starts_with("CompleteMultipartUpload") => return Err(MalformedXml),
            _ => {}
        }
        if parts.len() > usize::from(PART_NUMBER_MAX) { Err(MalformedXml) } else { Ok(()) }
    })?;
    if parts.is_empty() { Err(Code::MalformedXML.into()) } else { Ok(parts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_with_their_checksums() {
        let parts = read_parts(
            b"<CompleteMultipartUpload xmlns='x'><Part><ETag>\"a\"</ETag><PartNumber>1</PartNumber></Part>\
              <Part><PartNumber>7</PartNumber><ETag>b</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part>\
              </CompleteMultipartUpload>",
        )
        .unwrap();
        assert_eq!(
            parts,
            [
                CompletePart { number: 1, etag: "a".to_owned(), checksum: None },
                CompletePart {
                    number: 7,
                    etag: "b".to_owned(),
                    checksum: Some((ChecksumAlgorithm::Crc32, vec![0; 4]))
                },
            ]
        );
    }

    #[test]
    fn lists_that_name_no_parts_are_refused() {
        let part =
            |inner: &str| format!("<CompleteMultipartUpload><Part>{inner}</Part></CompleteMultipartUpload>");
        for (text, expected) in [
            (String::new(), Code::MissingRequestBodyError),
            ("<CompleteMultipartUpload/>".to_owned(), Code::MalformedXML),
            ("<Other><Part/></Other>".to_owned(), Code::MalformedXML),
            (part("<ETag>a</ETag>"), Code::MalformedXML),
            (part("<PartNumber>1</PartNumber>"), Code::MalformedXML),
            (part("<PartNumber>0</PartNumber><ETag>a</ETag>"), Code::MalformedXML),
            (part("<PartNumber>10001</PartNumber><ETag>a</ETag>"), Code::MalformedXML),
            (part("<PartNumber>x</PartNumber><ETag>a</ETag>"), Code::MalformedXML),
            (
                part("<PartNumber>1</PartNumber><ETag>a</ETag><ChecksumCRC32>A</ChecksumCRC32>"),
                Code::MalformedXML,
            ),
        ] {
            assert_eq!(read_parts(text.as_bytes()).map_err(|error| error.code), Err(expected), "{text}");
        }
    }
}
