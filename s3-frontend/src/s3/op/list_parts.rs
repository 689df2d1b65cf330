//! ListParts.

use crate::limits::LIST_KEYS_MAX;
use crate::s3::checksum;
use crate::s3::error::{S3Error, S3Result};
use crate::s3::op::create_multipart_upload::{upload_asked, upload_text};
use crate::s3::op::list_buckets::owner;
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::store::ObjectStore;

pub(crate) async fn list_parts<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let upload = upload_asked(call)?;
    let after = number(call.query("part-number-marker"), "part-number-marker")?.unwrap_or(0);
    let max =
        number(call.query("max-parts"), "max-parts")?.map_or(LIST_KEYS_MAX, |max| max.min(LIST_KEYS_MAX));
    // Part numbers are far below 65,535: a marker above names the end.
    let marker = u16::try_from(after).unwrap_or(u16::MAX);
    let page = call.store.list_parts(call.bucket(), call.key(), upload, marker, max as usize).await;
    let page = page.map_err(|error| call.refusal(error))?;

    let mut xml = XmlWriter::rooted("ListPartsResult");
    xml.text("Bucket", call.bucket());
    xml.text("Key", call.key());
    xml.text("UploadId", &upload_text(upload));
    owner(&mut xml, "Initiator");
    owner(&mut xml, "Owner");
    xml.text("StorageClass", "STANDARD");
    xml.number("PartNumberMarker", u64::from(after));
    if let Some(next) = page.next {
        xml.number("NextPartNumberMarker", u64::from(next));
    }
    xml.number("MaxParts", u64::from(max));
    xml.boolean("IsTruncated", page.next.is_some());
    if let Some((algorithm, kind)) = page.checksum {
        xml.text("ChecksumAlgorithm", checksum::names(algorithm).name);
        xml.text("ChecksumType", checksum::kind_name(kind));
    }
    for part in &page.parts {
        xml.open("Part");
        xml.number("PartNumber", u64::from(part.number));
        xml.date("LastModified", part.modified_unix_ms);
        xml.etag(&part.etag);
        xml.number("Size", part.size);
        if let Some(stored) = &part.checksum {
            xml.text(checksum::names(stored.algorithm).element, &checksum::text(stored, 0));
        }
        xml.close("Part");
    }
    xml.close("ListPartsResult");
    Ok(call.document(xml))
}

/// A parameter of a listing that is a number from 0 to 2^31 - 1; empty counts as absent.
pub(crate) fn number(text: Option<&str>, name: &str) -> S3Result<Option<u32>> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(number) if i32::try_from(number).is_ok() && !text.starts_with('+') => Ok(Some(number)),
            _ => {
                let message = format!("Provided {name} not an integer or within integer range");
                Err(S3Error::invalid_argument(message, name, text))
            }
        },
    }
}
