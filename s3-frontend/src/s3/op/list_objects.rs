//! ListObjects, versions 1 and 2, and ListObjectVersions: one listing in three documents.

use crate::http::target::{Slash, encode_into};
use crate::limits::LIST_KEYS_MAX;
use crate::s3::checksum;
use crate::s3::error::{S3Error, S3Result};
use crate::s3::op::list_buckets::owner;
use crate::s3::op::list_parts::number;
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::store::ObjectStore;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use buckets_engine::object::api::{ListEntry, ListPage, ListRequest, ObjectSummary};

/// ListObjects.
pub(crate) async fn list_objects<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let asked = Asked::read(call)?;
    let marker = call.query("marker").unwrap_or_default();
    let page = asked.page(call, marker).await?;

    let mut xml = XmlWriter::rooted("ListBucketResult");
    xml.text("Name", call.bucket());
    asked.keys.write(&mut xml, "Prefix", asked.prefix);
    asked.keys.write(&mut xml, "Marker", marker);
    // Without a delimiter the client goes on from the last key itself.
    if let Some(next) = page.next.as_deref().filter(|_| asked.delimiter.is_some()) {
        asked.keys.write(&mut xml, "NextMarker", next);
    }
    asked.write_limits(&mut xml, page.next.is_some());
    for object in objects(&page) {
        asked.write_object(&mut xml, "Contents", object, true);
    }
    asked.write_prefixes(&mut xml, &page);
    xml.close("ListBucketResult");
    Ok(call.document(xml))
}

/// ListObjectsV2.
pub(crate) async fn list_objects_v2<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let asked = Asked::read(call)?;
    let token = call.query("continuation-token");
    let start_after = call.query("start-after").unwrap_or_default();
    let with_owner = call.query("fetch-owner") == Some("true");
    let after = match token {
        Some(token) => read_token(token)?,
        None => start_after.to_owned(),
    };
    let page = asked.page(call, &after).await?;

    let mut xml = XmlWriter::rooted("ListBucketResult");
    xml.text("Name", call.bucket());
    asked.keys.write(&mut xml, "Prefix", asked.prefix);
    if let Some(token) = token {
        xml.text("ContinuationToken", token);
    }
    if let Some(next) = &page.next {
        xml.text("NextContinuationToken", &write_token(next));
    }
    if !start_after.is_empty() {
        asked.keys.write(&mut xml, "StartAfter", start_after);
    }
    xml.number("KeyCount", page.entries.len() as u64);
    asked.write_limits(&mut xml, page.next.is_some());
    for object in objects(&page) {
        asked.write_object(&mut xml, "Contents", object, with_owner);
    }
    asked.write_prefixes(&mut xml, &page);
    xml.close("ListBucketResult");
    Ok(call.document(xml))
}

/// ListObjectVersions: the current objects, each the only version of its key.
pub(crate) async fn list_object_versions<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    let asked = Asked::read(call)?;
    let key_marker = call.query("key-marker").unwrap_or_default();
    let version_marker = call.query("version-id-marker").unwrap_or_default();
    let page = asked.page(call, key_marker).await?;

    let mut xml = XmlWriter::rooted("ListVersionsResult");
    xml.text("Name", call.bucket());
    asked.keys.write(&mut xml, "Prefix", asked.prefix);
    asked.keys.write(&mut xml, "KeyMarker", key_marker);
    xml.text("VersionIdMarker", version_marker);
    if let Some(next) = &page.next {
        asked.keys.write(&mut xml, "NextKeyMarker", next);
        xml.text("NextVersionIdMarker", "null");
    }
    asked.write_limits(&mut xml, page.next.is_some());
    for object in objects(&page) {
        asked.write_object(&mut xml, "Version", object, true);
    }
    asked.write_prefixes(&mut xml, &page);
    xml.close("ListVersionsResult");
    Ok(call.document(xml))
}

/// How the client wants keys written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyText {
    Plain,
    Url,
}

impl KeyText {
    pub(crate) fn asked(encoding_type: Option<&str>) -> S3Result<KeyText> {
        match encoding_type {
            None | Some("") => Ok(KeyText::Plain),
            Some(name) if name.eq_ignore_ascii_case("url") => Ok(KeyText::Url),
            Some(other) => Err(S3Error::invalid_argument(
                "Invalid Encoding Method specified in Request",
                "encoding-type",
                other,
            )),
        }
    }

    /// Writes a key, or a part of one.
    pub(crate) fn write(self, xml: &mut XmlWriter, element: &str, key: &str) {
        match self {
            KeyText::Plain => xml.text(element, key),
            KeyText::Url => {
                let mut encoded = Vec::with_capacity(key.len() + 16);
                encode_into(key, Slash::Keep, &mut encoded);
                xml.text(element, &String::from_utf8_lossy(&encoded));
            }
        }
    }

    /// Says how keys are written.
    pub(crate) fn name(self, xml: &mut XmlWriter) {
        if self == KeyText::Url {
            xml.text("EncodingType", "url");
        }
    }
}

/// What all three listings are asked.
struct Asked<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    max_keys: u32,
    keys: KeyText,
}

impl<'a> Asked<'a> {
    fn read<S: ObjectStore>(call: &Call<'a, S>) -> S3Result<Asked<'a>> {
        let max_keys = number(call.query("max-keys"), "max-keys")?.unwrap_or(LIST_KEYS_MAX);
        Ok(Asked {
            prefix: call.query("prefix").unwrap_or_default(),
            delimiter: call.query("delimiter").filter(|delimiter| !delimiter.is_empty()),
            max_keys: max_keys.min(LIST_KEYS_MAX),
            keys: KeyText::asked(call.query("encoding-type"))?,
        })
    }

    async fn page<S: ObjectStore>(&self, call: &Call<'_, S>, after: &str) -> S3Result<ListPage> {
        let request = ListRequest {
            prefix: self.prefix.to_owned(),
            delimiter: self.delimiter.map(str::to_owned),
            after: (!after.is_empty()).then(|| after.to_owned()),
            max_keys: self.max_keys as usize,
        };
        call.store.list(call.bucket(), request).await.map_err(|error| call.refusal(error))
    }

    fn write_limits(&self, xml: &mut XmlWriter, is_truncated: bool) {
        xml.number("MaxKeys", u64::from(self.max_keys));
        if let Some(delimiter) = self.delimiter {
            self.keys.write(xml, "Delimiter", delimiter);
        }
        self.keys.name(xml);
        xml.boolean("IsTruncated", is_truncated);
    }

    fn write_object(&self, xml: &mut XmlWriter, element: &str, object: &ObjectSummary, with_owner: bool) {
        xml.open(element);
        self.keys.write(xml, "Key", &object.key);
        if element == "Version" {
            xml.text("VersionId", "null");
            xml.boolean("IsLatest", true);
        }
        xml.date("LastModified", object.modified_unix_ms);
        xml.etag(&object.etag);
        if let Some((algorithm, kind)) = object.checksum {
            xml.text("ChecksumAlgorithm", checksum::names(algorithm).name);
            xml.text("ChecksumType", checksum::kind_name(kind));
        }
        xml.number("Size", object.size);
        if with_owner {
            owner(xml, "Owner");
        }
        xml.text("StorageClass", "STANDARD");
        xml.close(element);
    }

    fn write_prefixes(&self, xml: &mut XmlWriter, page: &ListPage) {
        for entry in &page.entries {
            if let ListEntry::Prefix(prefix) = entry {
                xml.open("CommonPrefixes");
                self.keys.write(xml, "Prefix", prefix);
                xml.close("CommonPrefixes");
            }
        }
    }
}

fn objects(page: &ListPage) -> impl Iterator<Item = &ObjectSummary> {
    page.entries.iter().filter_map(|entry| match entry {
        ListEntry::Object(object) => Some(object),
        ListEntry::Prefix(_) => None,
    })
}

/// Clients must not look into a token: the version in front lets it change.
fn write_token(after: &str) -> String {
    format!("1{}", URL_SAFE_NO_PAD.encode(after))
}

fn read_token(token: &str) -> S3Result<String> {
    let after = token.strip_prefix('1').and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    after.and_then(|after| String::from_utf8(after).ok()).ok_or_else(|| {
        S3Error::invalid_argument("The continuation token provided is incorrect", "continuation-token", token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_others_are_refused() {
        for key in ["", "a", "a/b\u{1}\u{20ac}"] {
            assert_eq!(read_token(&write_token(key)), Ok(key.to_owned()));
        }
        for token in ["", "2YQ", "1?", "1/w", "key"] {
            assert!(read_token(token).is_err(), "{token}");
        }
    }

    #[test]
    fn keys_are_written_as_the_client_asks() {
        for (encoding, expected) in
            [(None, "<K>a b/&amp;+%\u{20ac}</K>"), (Some("url"), "<K>a%20b/%26%2B%25%E2%82%AC</K>")]
        {
            let mut xml = XmlWriter::document();
            KeyText::asked(encoding).unwrap().write(&mut xml, "K", "a b/&+%\u{20ac}");
            let document = String::from_utf8(xml.into_bytes()).unwrap();
            assert!(document.ends_with(expected), "{document}");
        }
        assert!(KeyText::asked(Some("base64")).is_err());
    }
}
