//! S3's XML: documents that come in, within limits and without entities of their own; documents that go out.

pub(crate) mod reader;
pub(crate) mod writer;
