//! One S3 request as its operation sees it, and the response that it makes.

use super::options::Options;
use crate::date::{self, DateText};
use crate::http::head::Head;
use crate::http::response::ResponseHead;
use crate::http::target::Target;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::names::Resource;
use crate::s3::xml::writer::XmlWriter;
use crate::store::{ObjectReader, ObjectStore};
use buckets_engine::object::api::{BodyBlock, ObjectError, User};
use std::cell::Cell;

/// A request that was authenticated and routed.
pub(crate) struct Call<'a, S> {
    pub(crate) store: &'a S,
    pub(crate) options: &'a Options,
    pub(crate) head: &'a Head,
    pub(crate) target: &'a Target,
    pub(crate) resource: Resource<'a>,
    pub(crate) user: User,
    pub(crate) frame: &'a Frame<'a>,
}

/// What every response of a connection needs.
pub(crate) struct Frame<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) date: DateText<29>,
    /// The connection's buffer for heads, while no response has it.
    pub(crate) buffer: &'a Cell<Vec<u8>>,
}

/// The blocks of a store's objects.
pub(crate) type Blocks<S> = <<S as ObjectStore>::Reader as ObjectReader>::Blocks;

/// What an operation ends with.
pub(crate) type Answer<S> = S3Result<Response<Blocks<S>>>;

/// A response, ready but for the headers that the connection adds.
pub(crate) struct Response<B> {
    pub(crate) head: ResponseHead,
    pub(crate) body: ResponseBody<B>,
}

/// The body of a response.
pub(crate) enum ResponseBody<B> {
    /// Nothing, and the length says so.
    Empty,
    /// Nothing, by the nature of the status (204, 304).
    Absent,
    /// Nothing, but the length that a GET would have (HEAD).
    Described(u64),
    /// A document.
    Bytes(Vec<u8>),
    /// An object. Its first block is there: from here on a failure can only end the connection.
    Blocks { length: u64, first: BodyBlock, blocks: B },
}

impl Frame<'_> {
    /// Starts a response.
    pub(crate) fn start(&self, status: u16) -> ResponseHead {
        let mut head = ResponseHead::start(self.buffer.take(), status, &self.date);
        head.header("x-amz-request-id", self.request_id);
        head
    }
}

impl<'a, S: ObjectStore> Call<'a, S> {
    pub(crate) fn bucket(&self) -> &'a str {
        self.resource.bucket()
    }

    pub(crate) fn key(&self) -> &'a str {
        self.resource.key()
    }

    /// A header of the request.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        self.head.header(name)
    }

    /// A parameter of the query.
    pub(crate) fn query(&self, name: &str) -> Option<&'a str> {
        self.target.query(name)
    }

    /// Starts a response.
    pub(crate) fn start(&self, status: u16) -> ResponseHead {
        self.frame.start(status)
    }

    /// A response without a body.
    pub(crate) fn empty(&self, status: u16) -> Response<Blocks<S>> {
        let body = if status == 204 { ResponseBody::Absent } else { ResponseBody::Empty };
        Response { head: self.start(status), body }
    }

    /// A response with a document.
    pub(crate) fn document(&self, xml: XmlWriter) -> Response<Blocks<S>> {
        self.document_with(self.start(200), xml)
    }

    /// The same, on a head that has more headers.
    pub(crate) fn document_with(&self, mut head: ResponseHead, xml: XmlWriter) -> Response<Blocks<S>> {
        head.header("Content-Type", "application/xml");
        Response { head, body: ResponseBody::Bytes(xml.into_bytes()) }
    }

    /// An error of the store, with the names that S3 shows with it.
    pub(crate) fn refusal(&self, error: ObjectError) -> S3Error {
        let error = S3Error::from(error);
        match error.code {
            Code::NoSuchBucket | Code::BucketAlreadyOwnedByYou | Code::BucketNotEmpty => {
                error.with("BucketName", self.bucket())
            }
            Code::NoSuchKey => error.with("Key", self.key()),
            Code::NoSuchUpload => error.with("UploadId", self.query("uploadId").unwrap_or_default()),
            _ => error,
        }
    }

    /// Refuses a version that cannot be: buckets keep the current one only, whose name is `null`.
    pub(crate) fn check_version(&self) -> S3Result<()> {
        match self.query("versionId") {
            None | Some("null") => Ok(()),
            Some(other) => Err(S3Error::invalid_argument("Invalid version id specified", "versionId", other)),
        }
    }
}

/// `Last-Modified` of a time in milliseconds.
pub(crate) fn last_modified(unix_ms: u64) -> DateText<29> {
    date::imf_fixdate(i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX))
}

/// The response to a refused request.
pub(crate) fn error_response<B>(frame: &Frame<'_>, error: &S3Error, resource: &str) -> Response<B> {
    let mut head = frame.start(error.code.status());
    for (name, value) in &error.headers {
        head.header(name, value);
    }
    if matches!(error.code, Code::SlowDown | Code::ServiceUnavailable) {
        head.header("Retry-After", "1");
    }
    head.header("Content-Type", "application/xml");
    Response { head, body: ResponseBody::Bytes(error.to_xml(resource, frame.request_id)) }
}
