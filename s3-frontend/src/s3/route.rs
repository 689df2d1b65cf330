//! Which operation a request asks for: by method, by what its path names, and by its sub-resource.
//!
//! What must hold: every sub-resource that S3 knows is in the table, so that a request for one never becomes another operation (a
//! `PUT ?tagging` must not overwrite the object). Parameters that S3 does not know are ignored, as S3 does.

use crate::http::head::Method;
use crate::http::target::Target;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::names::Resource;

macro_rules! operations {
    ($($operation:ident),* $(,)?) => {
        /// Everything that a request can be, by the names of S3's API; `Unknown` is what was refused before it had one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Operation { $($operation),* }

        impl Operation {
            pub(crate) const ALL: &[Operation] = &[$(Operation::$operation),*];

            /// The name in metrics and logs.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Operation::$operation => stringify!($operation)),* }
            }
        }
    };
}

operations! {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketSetting,
    DeleteBucketSetting,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObjects,
    GetObject,
    HeadObject,
    GetObjectAttributes,
    GetObjectSetting,
    PutObject,
    CopyObject,
    DeleteObject,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    Admin,
    Health,
    Metrics,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Bucket,
    Object,
}

impl Operation {
    /// The method that asks for it.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Operation::HeadBucket | Operation::HeadObject => "HEAD",
            Operation::CreateBucket
            | Operation::PutObject
            | Operation::CopyObject
            | Operation::UploadPart
            | Operation::UploadPartCopy => "PUT",
            Operation::DeleteBucket
            | Operation::DeleteBucketSetting
            | Operation::DeleteObject
            | Operation::AbortMultipartUpload => "DELETE",
            Operation::DeleteObjects
            | Operation::CreateMultipartUpload
            | Operation::CompleteMultipartUpload => "POST",
            Operation::Admin | Operation::Unknown => "any",
            _ => "GET",
        }
    }
}

use Level::{Bucket, Object};
use Method::{Delete, Get, Head, Post, Put};

/// The sub-resources with answers of their own. The first that fits decides.
const ANSWERS: &[(Level, Method, &str, Operation)] = &[
    (Bucket, Get, "location", Operation::GetBucketLocation),
    (Bucket, Get, "uploads", Operation::ListMultipartUploads),
    (Bucket, Get, "versions", Operation::ListObjectVersions),
    (Bucket, Post, "delete", Operation::DeleteObjects),
    (Object, Post, "uploads", Operation::CreateMultipartUpload),
    (Object, Post, "uploadId", Operation::CompleteMultipartUpload),
    (Object, Delete, "uploadId", Operation::AbortMultipartUpload),
    (Object, Get, "uploadId", Operation::ListParts),
    (Object, Get, "attributes", Operation::GetObjectAttributes),
];

/// Settings that a bucket of this server has in their one fixed form, or not at all: see `op::settings`.
pub(crate) const BUCKET_SETTINGS: &[&str] = &[
    "accelerate",
    "acl",
    "cors",
    "encryption",
    "lifecycle",
    "logging",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "tagging",
    "versioning",
    "website",
];

/// The same for objects.
pub(crate) const OBJECT_SETTINGS: &[&str] = &["acl", "legal-hold", "retention", "tagging", "torrent"];

/// Every other sub-resource of S3: what asks for one is refused, whatever the method.
const OTHER_SUBRESOURCES: &[&str] = &[
    "abac",
    "analytics",
    "annotation",
    "append",
    "attributes",
    "delete",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "location",
    "metadataAnnotationTable",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "renameObject",
    "restore",
    "select",
    "select-type",
    "session",
    "uploads",
    "versions",
];

/// Names the operation, or says why there is none.
pub(crate) fn route(
    method: Method,
    resource: Resource<'_>,
    target: &Target,
    is_copy: bool,
) -> S3Result<Operation> {
    match resource {
        Resource::Service => service(method),
        Resource::Bucket(_) => bucket(method, target),
        Resource::Object { .. } => object(method, target, is_copy),
    }
}

fn service(method: Method) -> S3Result<Operation> {
    match method {
        Get => Ok(Operation::ListBuckets),
        Method::Options => Err(Code::AccessForbidden.into()),
        _ => Err(not_allowed("SERVICE")),
    }
}

fn bucket(method: Method, target: &Target) -> S3Result<Operation> {
    if let Some(operation) = subresource(Bucket, method, target)? {
        return Ok(operation);
    }
    match method {
        Get if target.query("list-type") == Some("2") => Ok(Operation::ListObjectsV2),
        Get => Ok(Operation::ListObjects),
        Head => Ok(Operation::HeadBucket),
        Put => Ok(Operation::CreateBucket),
        Delete => Ok(Operation::DeleteBucket),
        Post => Err(S3Error::not_implemented("uploads from a browser form")),
        Method::Options => Err(Code::AccessForbidden.into()),
        Method::Other => Err(not_allowed("BUCKET")),
    }
}

fn object(method: Method, target: &Target, is_copy: bool) -> S3Result<Operation> {
    if let Some(operation) = subresource(Object, method, target)? {
        return Ok(operation);
    }
    let part = target.has_query("uploadId") || target.has_query("partNumber");
    match method {
        Get => Ok(Operation::GetObject),
        Head => Ok(Operation::HeadObject),
        Put if part && is_copy => Ok(Operation::UploadPartCopy),
        Put if part => Ok(Operation::UploadPart),
        Put if is_copy => Ok(Operation::CopyObject),
        Put => Ok(Operation::PutObject),
        Delete => Ok(Operation::DeleteObject),
        Method::Options => Err(Code::AccessForbidden.into()),
        Post | Method::Other => Err(not_allowed("OBJECT")),
    }
}

fn subresource(level: Level, method: Method, target: &Target) -> S3Result<Option<Operation>> {
    if target.query_is_empty() {
        return Ok(None);
    }
    for (of_level, of_method, name, operation) in ANSWERS {
        if *of_level == level && *of_method == method && target.has_query(name) {
            return Ok(Some(*operation));
        }
    }
    let settings = match level {
        Bucket => BUCKET_SETTINGS,
        Object => OBJECT_SETTINGS,
    };
    if let Some(setting) = settings.iter().find(|setting| target.has_query(setting)) {
        return match (level, method) {
            (Bucket, Get) => Ok(Some(Operation::GetBucketSetting)),
            (Object, Get) => Ok(Some(Operation::GetObjectSetting)),
            (Bucket, Delete) => Ok(Some(Operation::DeleteBucketSetting)),
            _ => Err(S3Error::not_implemented(setting)),
        };
    }
    match OTHER_SUBRESOURCES.iter().find(|name| target.has_query(name)) {
        Some(name) => Err(S3Error::not_implemented(name)),
        None => Ok(None),
    }
}

fn not_allowed(resource_type: &str) -> S3Error {
    Code::MethodNotAllowed.with("ResourceType", resource_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, path_and_query: &str) -> Result<Operation, Code> {
        let (line, is_copy) = match path_and_query.strip_suffix(" copy") {
            Some(line) => (line, true),
            None => (path_and_query, false),
        };
        let mut target = Target::default();
        target.parse(line.as_bytes()).unwrap();
        let resource = Resource::locate("h", target.path(), &[]);
        route(method, resource, &target, is_copy).map_err(|error| error.code)
    }

    #[test]
    fn every_operation_is_reached() {
        for (method, line, expected) in [
            (Get, "/", Operation::ListBuckets),
            (Get, "/?x-id=ListBuckets&max-buckets=10", Operation::ListBuckets),
            (Put, "/b", Operation::CreateBucket),
            (Put, "/b/", Operation::CreateBucket),
            (Head, "/b", Operation::HeadBucket),
            (Delete, "/b", Operation::DeleteBucket),
            (Get, "/b?location", Operation::GetBucketLocation),
            (Get, "/b?versioning", Operation::GetBucketSetting),
            (Delete, "/b?lifecycle", Operation::DeleteBucketSetting),
            (Get, "/b", Operation::ListObjects),
            (Get, "/b?list-type=1", Operation::ListObjects),
            (Get, "/b?prefix=acl&delimiter=%2F", Operation::ListObjects),
            (Get, "/b?list-type=2&prefix=a", Operation::ListObjectsV2),
            (Get, "/b?versions", Operation::ListObjectVersions),
            (Get, "/b?uploads", Operation::ListMultipartUploads),
            (Post, "/b?delete", Operation::DeleteObjects),
            (Get, "/b/k", Operation::GetObject),
            (Get, "/b/k?x-id=GetObject&response-content-type=x", Operation::GetObject),
            (Get, "/b/k?partNumber=1", Operation::GetObject),
            (Get, "/b/k?acl", Operation::GetObjectSetting),
            (Get, "/b/k?attributes", Operation::GetObjectAttributes),
            (Head, "/b/k", Operation::HeadObject),
            (Put, "/b/k", Operation::PutObject),
            (Put, "/b/k?unknown=1", Operation::PutObject),
            (Put, "/b/k copy", Operation::CopyObject),
            (Delete, "/b/k", Operation::DeleteObject),
            (Post, "/b/k?uploads", Operation::CreateMultipartUpload),
            (Put, "/b/k?partNumber=1&uploadId=u", Operation::UploadPart),
            (Put, "/b/k?partNumber=1&uploadId=u copy", Operation::UploadPartCopy),
            (Post, "/b/k?uploadId=u", Operation::CompleteMultipartUpload),
            (Delete, "/b/k?uploadId=u", Operation::AbortMultipartUpload),
            (Get, "/b/k?uploadId=u", Operation::ListParts),
        ] {
            assert_eq!(ask(method, line), Ok(expected), "{method:?} {line}");
        }
    }

    #[test]
    fn no_subresource_becomes_another_operation() {
        for name in BUCKET_SETTINGS.iter().chain(OBJECT_SETTINGS).chain(OTHER_SUBRESOURCES) {
            for method in [Get, Head, Put, Post, Delete] {
                for resource in ["/b", "/b/k"] {
                    let plain = ask(method, resource);
                    let with = ask(method, &format!("{resource}?{name}"));
                    let level = if resource == "/b" { BUCKET_SETTINGS } else { OBJECT_SETTINGS };
                    let known = level.contains(name) || OTHER_SUBRESOURCES.contains(name);
                    assert!(
                        !known || with != plain || plain.is_err(),
                        "{method:?} {resource}?{name} is {with:?}"
                    );
                }
            }
        }
        for (method, line) in [
            (Put, "/b?tagging"),
            (Put, "/b/k?tagging"),
            (Put, "/b/k?acl"),
            (Delete, "/b/k?tagging"),
            (Post, "/b/k?select&select-type=2"),
            (Post, "/b/k?restore"),
            (Get, "/b?session"),
            (Get, "/b?inventory&id=1"),
            (Post, "/b"),
            (Put, "/b/k?append&position=0"),
        ] {
            assert_eq!(ask(method, line), Err(Code::NotImplemented), "{method:?} {line}");
        }
    }

    #[test]
    fn methods_without_a_meaning_are_not_allowed() {
        for (method, line) in [
            (Post, "/"),
            (Put, "/"),
            (Delete, "/"),
            (Post, "/b/k"),
            (Method::Other, "/b"),
            (Method::Other, "/b/k"),
        ] {
            assert_eq!(ask(method, line), Err(Code::MethodNotAllowed), "{method:?} {line}");
        }
        assert_eq!(ask(Method::Options, "/b/k"), Err(Code::AccessForbidden));
    }
}
