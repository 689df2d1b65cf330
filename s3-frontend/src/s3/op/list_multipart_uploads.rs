//! ListMultipartUploads.

use crate::limits::LIST_KEYS_MAX;
use crate::s3::checksum;
use crate::s3::op::create_multipart_upload::{parse_upload, upload_text};
use crate::s3::op::list_buckets::owner;
use crate::s3::op::list_objects::KeyText;
use crate::s3::op::list_parts::number;
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::store::ObjectStore;
use buckets_engine::object::api::ListUploadsRequest;

pub(crate) async fn list_multipart_uploads<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let keys = KeyText::asked(call.query("encoding-type"))?;
    let prefix = call.query("prefix").unwrap_or_default();
    let delimiter = call.query("delimiter").filter(|delimiter| !delimiter.is_empty());
    let key_marker = call.query("key-marker").unwrap_or_default();
    let upload_marker = call.query("upload-id-marker").unwrap_or_default();
    let max =
        number(call.query("max-uploads"), "max-uploads")?.map_or(LIST_KEYS_MAX, |max| max.min(LIST_KEYS_MAX));
    // Without a key an upload marks nothing.
    let after = (!key_marker.is_empty()).then(|| (key_marker.to_owned(), parse_upload(upload_marker)));
    let request = ListUploadsRequest {
        prefix: prefix.to_owned(),
        delimiter: delimiter.map(str::to_owned),
        after,
        max_uploads: max as usize,
    };
    let page = call.store.list_uploads(call.bucket(), request).await.map_err(|error| call.refusal(error))?;

    let mut xml = XmlWriter::rooted("ListMultipartUploadsResult");
    xml.text("Bucket", call.bucket());
    keys.write(&mut xml, "KeyMarker", key_marker);
    xml.text("UploadIdMarker", upload_marker);
    if let Some((key, upload)) = &page.next {
        keys.write(&mut xml, "NextKeyMarker", key);
        xml.text("NextUploadIdMarker", &upload.map(upload_text).unwrap_or_default());
    }
    keys.write(&mut xml, "Prefix", prefix);
    if let Some(delimiter) = delimiter {
        keys.write(&mut xml, "Delimiter", delimiter);
    }
    keys.name(&mut xml);
    xml.number("MaxUploads", u64::from(max));
    xml.boolean("IsTruncated", page.next.is_some());
    for upload in &page.uploads {
        xml.open("Upload");
        keys.write(&mut xml, "Key", &upload.key);
        xml.text("UploadId", &upload_text(upload.upload));
        owner(&mut xml, "Initiator");
        owner(&mut xml, "Owner");
        xml.text("StorageClass", "STANDARD");
        xml.date("Initiated", upload.initiated_unix_ms);
        if let Some((algorithm, kind)) = upload.checksum {
            xml.text("ChecksumAlgorithm", checksum::names(algorithm).name);
            xml.text("ChecksumType", checksum::kind_name(kind));
        }
        xml.close("Upload");
    }
    for prefix in &page.prefixes {
        xml.open("CommonPrefixes");
        keys.write(&mut xml, "Prefix", prefix);
        xml.close("CommonPrefixes");
    }
    xml.close("ListMultipartUploadsResult");
    Ok(call.document(xml))
}
