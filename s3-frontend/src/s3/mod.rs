//! S3 as values: errors, names, routes, signatures, checksums, XML.

pub(crate) mod auth;
pub(crate) mod aws_chunked;
pub(crate) mod checksum;
pub(crate) mod error;
pub(crate) mod names;
pub(crate) mod object_headers;
pub(crate) mod op;
pub(crate) mod route;
pub(crate) mod xml;
