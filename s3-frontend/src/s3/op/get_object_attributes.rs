//! GetObjectAttributes: of an object's description, what the client names.

use crate::s3::checksum;
use crate::s3::error::{S3Error, S3Result};
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call, last_modified};
use crate::store::ObjectStore;
use buckets_engine::object::api::ObjectInfo;

const KNOWN: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
/// Parts of one answer.
const PARTS_MAX: usize = 1000;

pub(crate) async fn get_object_attributes<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    call.check_version()?;
    let wanted = wanted(call.header("x-amz-object-attributes").unwrap_or_default())?;
    let info = call.store.head(call.bucket(), call.key()).await.map_err(|error| call.refusal(error))?;

    let mut xml = XmlWriter::rooted("GetObjectAttributesResponse");
    if wanted.contains(&"ETag") {
        // Here, and only here, S3 shows the ETag without quotes.
        xml.text("ETag", &info.etag);
    }
    if let Some(stored) = info.checksum.as_ref().filter(|_| wanted.contains(&"Checksum")) {
        xml.open("Checksum");
        xml.text(checksum::names(stored.algorithm).element, &checksum::text(stored, info.parts.len()));
        xml.text("ChecksumType", checksum::kind_name(stored.kind));
        xml.close("Checksum");
    }
    if wanted.contains(&"ObjectParts") && !info.parts.is_empty() {
        object_parts(call, &info, &mut xml)?;
    }
    if wanted.contains(&"StorageClass") {
        xml.text("StorageClass", "STANDARD");
    }
    if wanted.contains(&"ObjectSize") {
        xml.number("ObjectSize", info.size);
    }
    xml.close("GetObjectAttributesResponse");
    let mut head = call.start(200);
    head.header("Last-Modified", last_modified(info.modified_unix_ms).as_str());
    Ok(call.document_with(head, xml))
}

fn wanted(header: &str) -> S3Result<Vec<&str>> {
    let names: Vec<_> = header.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.iter().any(|name| !KNOWN.contains(name)) {
        return Err(S3Error::invalid_argument(
            "Invalid attribute name specified.",
            "x-amz-object-attributes",
            header,
        ));
    }
    Ok(names)
}

fn object_parts<S: ObjectStore>(call: &Call<'_, S>, info: &ObjectInfo, xml: &mut XmlWriter) -> S3Result<()> {
    let number = |name: &str, default: usize| match call.header(name) {
        None => Ok(default),
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| S3Error::invalid_argument("Provided value is not an integer", name, text)),
    };
    let after = number("x-amz-part-number-marker", 0)?;
    let max = number("x-amz-max-parts", PARTS_MAX)?.min(PARTS_MAX);
    let mut parts = info.parts.iter().filter(|part| usize::from(part.number) > after);
    xml.open("ObjectParts");
    xml.number("PartsCount", info.parts.len() as u64);
    xml.number("PartNumberMarker", after as u64);
    xml.number("MaxParts", max as u64);
    let mut last = after;
    for part in parts.by_ref().take(max) {
        xml.open("Part");
        xml.number("PartNumber", u64::from(part.number));
        xml.number("Size", part.size);
        xml.close("Part");
        last = usize::from(part.number);
    }
    xml.number("NextPartNumberMarker", last as u64);
    xml.boolean("IsTruncated", parts.next().is_some());
    xml.close("ObjectParts");
    Ok(())
}
