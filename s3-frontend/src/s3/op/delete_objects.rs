//! DeleteObjects: up to a thousand keys; each has its own result.

use crate::http::conditions::unquoted;
use crate::limits::{DELETE_KEYS_MAX, DELETE_XML_BYTES_MAX};
use crate::s3::checksum;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::names::check_key;
use crate::s3::xml::reader::{self, MalformedXml};
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::server::request_body::RequestBody;
use crate::store::ObjectStore;
use buckets_engine::object::api::{BodySource, WriteCondition};

pub(crate) async fn delete_objects<S: ObjectStore>(
    call: &Call<'_, S>,
    body: &mut RequestBody<'_>,
) -> Answer<S> {
    let document = body.read_document(DELETE_XML_BYTES_MAX).await?;
    checksum::check_md5(call.head, &document)?;
    checksum::check_document(call.head, body.trailing_checksum(), &document)?;
    let Deletion { quiet, objects } = read_deletion(&document)?;
    // A missing bucket is the request's error, not each key's.
    call.store.bucket(call.bucket()).map_err(|error| call.refusal(error))?;

    let results = delete(call, &objects).await;

    let mut xml = XmlWriter::rooted("DeleteResult");
    for (object, result) in objects.iter().zip(results) {
        match result {
            Ok(()) if quiet => {}
            Ok(()) => {
                xml.open("Deleted");
                xml.text("Key", &object.key);
                if let Some(version) = &object.version {
                    xml.text("VersionId", version);
                }
                xml.close("Deleted");
            }
            Err(error) => {
                xml.open("Error");
                xml.text("Key", &object.key);
                if let Some(version) = &object.version {
                    xml.text("VersionId", version);
                }
                xml.text("Code", error.code.name());
                xml.text("Message", &error.message);
                xml.close("Error");
            }
        }
    }
    xml.close("DeleteResult");
    Ok(call.document(xml))
}

/// Deletes what may be deleted; one result an object, in order. Keys without a condition go together.
async fn delete<S: ObjectStore>(call: &Call<'_, S>, objects: &[Doomed]) -> Vec<S3Result<()>> {
    let mut results: Vec<S3Result<()>> = objects.iter().map(Doomed::check).collect();
    let together: Vec<usize> = (0..objects.len())
        .filter(|at| results[*at].is_ok() && objects[*at].condition == WriteCondition::Always)
        .collect();
    let keys = together.iter().map(|at| objects[*at].key.clone()).collect();
    let deleted = call.store.delete_many(call.bucket(), keys).await;
    for (at, result) in together.into_iter().zip(deleted) {
        results[at] = result.map_err(S3Error::from);
    }
    for (object, result) in objects.iter().zip(&mut results) {
        if result.is_ok() && object.condition != WriteCondition::Always {
            let deleted = call.store.delete(call.bucket(), &object.key, object.condition.clone()).await;
            *result = deleted.map_err(S3Error::from);
        }
    }
    results
}

pub(super) struct Deletion {
    quiet: bool,
    objects: Vec<Doomed>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Doomed {
    key: String,
    version: Option<String>,
    condition: WriteCondition,
}

impl Doomed {
    fn check(&self) -> S3Result<()> {
        check_key(&self.key)?;
        match self.version.as_deref() {
            None | Some("null") => Ok(()),
            Some(_) => Err(Code::NoSuchVersion.into()),
        }
    }
}

pub(super) fn read_deletion(document: &[u8]) -> S3Result<Deletion> {
    if document.is_empty() {
        return Err(Code::MissingRequestBodyError.into());
    }
    let mut deletion = Deletion { quiet: false, objects: Vec::new() };
    let mut object = Doomed::default();
    let mut unsupported = None;
    reader::read(document, |path, text| {
        match path {
            "Delete/Quiet" => deletion.quiet = text.trim() == "true",
            "Delete/Object/Key" => text.clone_into(&mut object.key),
            "Delete/Object/VersionId" if !text.is_empty() => object.version = Some(text.to_owned()),
            "Delete/Object/ETag" if !text.is_empty() => {
                object.condition = WriteCondition::IfMatch(unquoted(text).to_owned());
            }
            "Delete/Object/LastModifiedTime" | "Delete/Object/Size" => unsupported = Some(path.to_owned()),
            "Delete/Object" if object.key.is_empty() => return Err(MalformedXml),
            "Delete/Object" => deletion.objects.push(std::mem::take(&mut object)),
            _ if !path.starts_with("Delete") => return Err(MalformedXml),
            _ => {}
        }
        if deletion.objects.len() > DELETE_KEYS_MAX { Err(MalformedXml) } else { Ok(()) }
    })?;
    match unsupported {
        Some(what) => Err(S3Error::not_implemented(&what)),
        None if deletion.objects.is_empty() => Err(Code::MalformedXML.into()),
        None => Ok(deletion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(bool, Vec<Doomed>), Code> {
        let deletion = read_deletion(text.as_bytes()).map_err(|error| error.code)?;
        Ok((deletion.quiet, deletion.objects))
    }

    #[test]
    fn keys_versions_and_conditions_are_read() {
        let text = "<Delete xmlns='x'><Object><Key> a&amp;b </Key></Object><Object><Key>c</Key><VersionId>null</VersionId>\
            <ETag>\"e\"</ETag></Object><Quiet>true</Quiet></Delete>";
        let (quiet, objects) = read(text).unwrap();
        assert!(quiet);
        assert_eq!(objects[0], Doomed { key: " a&b ".to_owned(), ..Doomed::default() });
        assert_eq!(objects[1].version.as_deref(), Some("null"));
        assert_eq!(objects[1].condition, WriteCondition::IfMatch("e".to_owned()));
    }

    #[test]
    fn documents_that_delete_nothing_or_too_much_are_refused() {
        let object = "<Object><Key>k</Key></Object>";
        let many = |count: usize| format!("<Delete>{}</Delete>", object.repeat(count));
        assert!(read(&many(DELETE_KEYS_MAX)).is_ok());
        for (text, expected) in [
            (many(DELETE_KEYS_MAX + 1), Code::MalformedXML),
            (many(0), Code::MalformedXML),
            (String::new(), Code::MissingRequestBodyError),
            ("<Delete><Object><VersionId>1</VersionId></Object></Delete>".to_owned(), Code::MalformedXML),
            ("<Remove><Object><Key>k</Key></Object></Remove>".to_owned(), Code::MalformedXML),
            ("<Delete><Object><Key>k</Key><Size>1</Size></Object></Delete>".to_owned(), Code::NotImplemented),
        ] {
            assert_eq!(read(&text).err(), Some(expected), "{text}");
        }
        assert!(Doomed { key: "k".repeat(1025), ..Doomed::default() }.check().is_err());
        assert!(Doomed { version: Some("v1".to_owned()), ..Doomed::default() }.check().is_err());
    }
}
