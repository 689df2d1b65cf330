//! The operations of S3, a file each, told from the request to the response.

pub(crate) mod complete_multipart_upload;
pub(crate) mod copy_object;
pub(crate) mod copy_source;
pub(crate) mod create_bucket;
pub(crate) mod create_multipart_upload;
pub(crate) mod delete_object;
pub(crate) mod delete_objects;
pub(crate) mod get_object;
pub(crate) mod get_object_attributes;
pub(crate) mod list_buckets;
pub(crate) mod list_multipart_uploads;
pub(crate) mod list_objects;
pub(crate) mod list_parts;
pub(crate) mod named_bucket;
pub(crate) mod put_object;
pub(crate) mod settings;
pub(crate) mod upload_part;
pub(crate) mod write_condition;

/// Reads a document as each operation that takes one would.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz_documents(document: &[u8]) {
    let _ = complete_multipart_upload::read_parts(document);
    let _ = create_bucket::read_location(document);
    let _ = delete_objects::read_deletion(document);
}
