//! The one table of S3 error codes, their statuses and their messages, and the XML of an error.

use crate::http::body::FramingError;
use crate::http::head::HeadError;
use crate::http::target::InvalidTarget;
use crate::s3::checksum;
use crate::s3::xml::reader::MalformedXml;
use crate::s3::xml::writer::XmlWriter;
use buckets_engine::object::api::{BodyError, ObjectError};
use std::borrow::Cow;

macro_rules! codes {
    ($($code:ident $status:literal $message:literal)*) => {
        /// The codes of S3, by the names that clients compare.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Code { $($code),* }

        impl Code {
            pub(crate) const ALL: &[Code] = &[$(Code::$code),*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Code::$code => stringify!($code)),* }
            }
            pub(crate) fn status(self) -> u16 {
                match self { $(Code::$code => $status),* }
            }
            /// What the code means, where no occasion says more.
            pub(crate) fn message(self) -> &'static str {
                match self { $(Code::$code => $message),* }
            }
        }

    };
}

codes! {
    AccessControlListNotSupported 400 "The bucket does not allow ACLs"
    AccessDenied 403 "Access Denied"
    AccessForbidden 403 "CORSResponse: CORS is not enabled for this bucket."
    AuthorizationHeaderMalformed 400 "The authorization header that you provided is not valid."
    AuthorizationQueryParametersError 400 "The authorization query parameters that you provided are not valid."
    BadDigest 400 "The Content-MD5 or checksum value that you specified did not match what the server received."
    BadRequest 400 "An error occurred when parsing the HTTP request."
    BucketAlreadyOwnedByYou 409 "Your previous request to create the named bucket succeeded and you already own it."
    BucketNotEmpty 409 "The bucket you tried to delete is not empty"
    EntityTooLarge 400 "Your proposed upload exceeds the maximum allowed object size."
    EntityTooSmall 400 "Your proposed upload is smaller than the minimum allowed size"
    ExpectationFailed 417 "The expectation given in the Expect request header could not be met."
    HttpVersionNotSupported 505 "The HTTP version specified is not supported."
    IncompleteBody 400 "You did not provide the number of bytes specified by the Content-Length HTTP header"
    InsufficientStorage 507 "There is no space left on the disks."
    InternalError 500 "We encountered an internal error. Please try again."
    InvalidAccessKeyId 403 "The AWS Access Key Id you provided does not exist in our records."
    InvalidArgument 400 "Invalid Argument"
    InvalidBucketName 400 "The specified bucket is not valid."
    InvalidDigest 400 "The Content-MD5 you specified was invalid."
    InvalidLocationConstraint 400 "The specified location-constraint is not valid"
    InvalidPart 400 "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."
    InvalidPartNumber 416 "The requested partnumber is not satisfiable"
    InvalidPartOrder 400 "The list of parts was not in ascending order. Parts must be ordered by part number."
    InvalidRange 416 "The requested range is not satisfiable"
    InvalidRequest 400 "Invalid Request"
    InvalidStorageClass 400 "The storage class you specified is not valid"
    InvalidURI 400 "Couldn't parse the specified URI."
    KeyTooLongError 400 "Your key is too long"
    MalformedTrailerError 400 "The request contained trailing data that was not well-formed or did not conform to our published schema."
    MalformedXML 400 "The XML you provided was not well-formed or did not validate against our published schema"
    MaxMessageLengthExceeded 400 "Your request was too big."
    MetadataTooLarge 400 "Your metadata headers exceed the maximum allowed metadata size"
    MethodNotAllowed 405 "The specified method is not allowed against this resource."
    MissingContentLength 411 "You must provide the Content-Length HTTP header."
    MissingRequestBodyError 400 "Request Body is empty"
    NoSuchBucket 404 "The specified bucket does not exist"
    NoSuchBucketPolicy 404 "The bucket policy does not exist"
    NoSuchCORSConfiguration 404 "The CORS configuration does not exist"
    NoSuchConfiguration 404 "The specified configuration does not exist."
    NoSuchKey 404 "The specified key does not exist."
    NoSuchLifecycleConfiguration 404 "The lifecycle configuration does not exist"
    NoSuchPublicAccessBlockConfiguration 404 "The public access block configuration was not found"
    NoSuchTagSet 404 "The TagSet does not exist"
    NoSuchUpload 404 "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    NoSuchVersion 404 "The specified version does not exist."
    NoSuchWebsiteConfiguration 404 "The specified bucket does not have a website configuration"
    NotImplemented 501 "A header you provided implies functionality that is not implemented"
    ObjectLockConfigurationNotFoundError 404 "Object Lock configuration does not exist for this bucket"
    OperationAborted 409 "A conflicting conditional operation is currently in progress against this resource. Please try again."
    OwnershipControlsNotFoundError 404 "The bucket ownership controls were not found"
    PreconditionFailed 412 "At least one of the pre-conditions you specified did not hold"
    ReplicationConfigurationNotFoundError 404 "The replication configuration was not found"
    RequestHeaderSectionTooLarge 400 "Your request header section exceeds the maximum allowed size."
    RequestTimeTooSkewed 403 "The difference between the request time and the current time is too large."
    RequestTimeout 400 "Your socket connection to the server was not read from or written to within the timeout period. Idle connections will be closed."
    ServerSideEncryptionConfigurationNotFoundError 404 "The server side encryption configuration was not found"
    ServiceUnavailable 503 "Service is unable to handle request."
    SignatureDoesNotMatch 403 "The request signature we calculated does not match the signature you provided. Check your key and signing method."
    SlowDown 503 "Please reduce your request rate."
    TooManyBuckets 400 "You have attempted to create more buckets than allowed"
    XAmzContentSHA256Mismatch 400 "The provided 'x-amz-content-sha256' header does not match what was computed."
}

/// An error on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct S3Error {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
    /// Further elements, as S3 adds to some codes (`<BucketName>`, `<Region>`).
    pub(crate) details: Vec<(&'static str, String)>,
    /// Headers that go with it (`ETag` of a failed condition, `Content-Range` of a bad range).
    pub(crate) headers: Vec<(&'static str, String)>,
}

pub(crate) type S3Result<T> = Result<T, S3Error>;

impl From<Code> for S3Error {
    fn from(code: Code) -> S3Error {
        S3Error { code, message: Cow::Borrowed(code.message()), details: Vec::new(), headers: Vec::new() }
    }
}

impl Code {
    /// The code with the message of the occasion.
    pub(crate) fn because(self, message: impl Into<Cow<'static, str>>) -> S3Error {
        S3Error { message: message.into(), ..S3Error::from(self) }
    }
    /// The code with one more element.
    pub(crate) fn with(self, name: &'static str, value: impl Into<String>) -> S3Error {
        S3Error::from(self).with(name, value)
    }
}

impl S3Error {
    /// Adds an element to the XML.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> S3Error {
        self.details.push((name, value.into()));
        self
    }

    /// Adds a header to the response.
    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> S3Error {
        self.headers.push((name, value.into()));
        self
    }

    /// `InvalidArgument` with the argument that is meant, as S3 shows it.
    pub(crate) fn invalid_argument(
        message: impl Into<Cow<'static, str>>,
        name: &str,
        value: &str,
    ) -> S3Error {
        Code::InvalidArgument.because(message).with("ArgumentName", name).with("ArgumentValue", value)
    }

    /// Something that S3 has and this server does not.
    pub(crate) fn not_implemented(what: &str) -> S3Error {
        Code::NotImplemented.because(format!("{}: {what}", Code::NotImplemented.message()))
    }

    /// The document that the client gets.
    pub(crate) fn to_xml(&self, resource: &str, request_id: &str) -> Vec<u8> {
        let mut xml = XmlWriter::document();
        xml.open("Error");
        xml.text("Code", self.code.name());
        xml.readable("Message", &self.message);
        for (name, value) in &self.details {
            xml.readable(name, value);
        }
        xml.readable("Resource", resource);
        xml.text("RequestId", request_id);
        xml.text("HostId", "buckets");
        xml.close("Error");
        xml.into_bytes()
    }
}

impl From<HeadError> for S3Error {
    fn from(error: HeadError) -> S3Error {
        match error {
            HeadError::Malformed | HeadError::Ambiguous | HeadError::Host => {
                Code::BadRequest.because(format!("{} ({error})", Code::BadRequest.message()))
            }
            HeadError::TooLarge => Code::RequestHeaderSectionTooLarge.into(),
            HeadError::Version => Code::HttpVersionNotSupported.into(),
            HeadError::TransferCoding => S3Error::not_implemented("Transfer-Encoding"),
            HeadError::Expectation => Code::ExpectationFailed.into(),
        }
    }
}

impl From<InvalidTarget> for S3Error {
    fn from(_: InvalidTarget) -> S3Error {
        Code::InvalidURI.into()
    }
}

impl From<MalformedXml> for S3Error {
    fn from(_: MalformedXml) -> S3Error {
        Code::MalformedXML.into()
    }
}

impl From<FramingError> for S3Error {
    fn from(error: FramingError) -> S3Error {
        match error {
            FramingError::Malformed(_) => Code::InvalidRequest.because(error.to_string()),
            FramingError::Incomplete | FramingError::TooLong => Code::IncompleteBody.into(),
            FramingError::Signature => Code::SignatureDoesNotMatch.into(),
            FramingError::Trailer => Code::MalformedTrailerError.into(),
            FramingError::PayloadHash { computed } => {
                Code::XAmzContentSHA256Mismatch.with("S3ComputedContentSHA256", computed)
            }
        }
    }
}

impl From<ObjectError> for S3Error {
    fn from(error: ObjectError) -> S3Error {
        match error {
            ObjectError::NoSuchBucket => Code::NoSuchBucket.into(),
            ObjectError::BucketExists => Code::BucketAlreadyOwnedByYou.into(),
            ObjectError::TooManyBuckets => Code::TooManyBuckets.into(),
            ObjectError::BucketNotEmpty => Code::BucketNotEmpty.into(),
            ObjectError::OperationAborted => Code::OperationAborted.into(),
            ObjectError::NoSuchKey => Code::NoSuchKey.into(),
            ObjectError::PreconditionFailed => Code::PreconditionFailed.into(),
            ObjectError::NoSuchUpload => Code::NoSuchUpload.into(),
            ObjectError::InvalidPart { number } => Code::InvalidPart.with("PartNumber", number.to_string()),
            ObjectError::InvalidPartOrder => Code::InvalidPartOrder.into(),
            ObjectError::PartTooSmall { number, size, minimum } => S3Error::from(Code::EntityTooSmall)
                .with("ProposedSize", size.to_string())
                .with("MinSizeAllowed", minimum.to_string())
                .with("PartNumber", number.to_string()),
            ObjectError::BadDigest => {
                Code::BadDigest.because("The Content-MD5 you specified did not match what we received.")
            }
            ObjectError::BadChecksum { algorithm } => checksum::mismatch(algorithm),
            ObjectError::TooLarge => Code::EntityTooLarge.into(),
            ObjectError::Body(BodyError::Incomplete) => Code::IncompleteBody.into(),
            ObjectError::Body(BodyError::Timeout) => Code::RequestTimeout.into(),
            ObjectError::Body(BodyError::Invalid(what)) => Code::InvalidRequest.because(what),
            ObjectError::Body(BodyError::Source(error)) => S3Error::from(*error),
            ObjectError::SlowDown => Code::SlowDown.into(),
            ObjectError::Unavailable(what) => {
                Code::ServiceUnavailable.because(format!("{} ({what})", Code::ServiceUnavailable.message()))
            }
            ObjectError::NoSpace => Code::InsufficientStorage.into(),
            ObjectError::Conflict(what) => Code::InvalidRequest.because(what),
            ObjectError::Internal(what) => {
                tracing::error!(what, "a request failed inside");
                Code::InternalError.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::STATUSES;

    #[test]
    fn every_code_has_a_status_of_an_error_and_a_message() {
        for code in Code::ALL {
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(STATUSES.iter().any(|(status, _)| *status == code.status()), "{code:?}");
            assert!(!code.message().is_empty(), "{code:?}");
        }
    }

    #[test]
    fn an_error_is_a_document_with_its_resource_and_request_id() {
        let error = Code::NoSuchKey.with("Key", "a<b");
        assert_eq!(
            String::from_utf8(error.to_xml("/bucket/a<b", "17")).unwrap(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code><Message>The specified key does not \
             exist.</Message><Key>a&lt;b</Key><Resource>/bucket/a&lt;b</Resource><RequestId>17</RequestId>\
             <HostId>buckets</HostId></Error>"
        );
    }
}
