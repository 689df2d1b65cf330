//! `If-Match` and `If-None-Match` of a write. The partition decides them.

use crate::http::conditions::unquoted;
use crate::http::head::Head;
use crate::s3::error::{S3Error, S3Result};
use buckets_engine::object::api::WriteCondition;

/// The condition of a PutObject, CopyObject or CompleteMultipartUpload.
pub(crate) fn of_put(head: &Head) -> S3Result<WriteCondition> {
    match (head.header("if-match"), head.header("if-none-match")) {
        (None, None) => Ok(WriteCondition::Always),
        (Some(etag), None) if !etag.contains(',') => Ok(WriteCondition::IfMatch(unquoted(etag).to_owned())),
        (None, Some(etag)) if etag.trim() == "*" => Ok(WriteCondition::IfAbsent),
        (None, Some(_)) => Err(S3Error::not_implemented("If-None-Match with an ETag")),
        (Some(_), _) => Err(S3Error::not_implemented("several conditions on a write")),
    }
}

/// The condition of a DeleteObject.
pub(crate) fn of_delete(head: &Head) -> S3Result<WriteCondition> {
    const DIRECTORY_BUCKETS_ONLY: [&str; 2] = ["x-amz-if-match-last-modified-time", "x-amz-if-match-size"];
    if let Some(name) = DIRECTORY_BUCKETS_ONLY.iter().find(|name| head.header(name).is_some()) {
        return Err(S3Error::not_implemented(name));
    }
    match head.header("if-none-match") {
        Some(_) => Err(S3Error::not_implemented("If-None-Match on a deletion")),
        None => of_put(head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::error::Code;

    #[test]
    fn conditions_of_writes_are_read_or_refused() {
        let if_match = |etag: &str| Ok(WriteCondition::IfMatch(etag.to_owned()));
        for (lines, put, delete) in [
            ("", Ok(WriteCondition::Always), Ok(WriteCondition::Always)),
            ("If-Match: \"a\"\r\n", if_match("a"), if_match("a")),
            ("If-Match: *\r\n", if_match("*"), if_match("*")),
            ("If-None-Match: *\r\n", Ok(WriteCondition::IfAbsent), Err(Code::NotImplemented)),
            ("If-None-Match: \"a\"\r\n", Err(Code::NotImplemented), Err(Code::NotImplemented)),
            ("If-Match: \"a\", \"b\"\r\n", Err(Code::NotImplemented), Err(Code::NotImplemented)),
            ("If-Match: *\r\nIf-None-Match: *\r\n", Err(Code::NotImplemented), Err(Code::NotImplemented)),
            ("x-amz-if-match-size: 1\r\n", Ok(WriteCondition::Always), Err(Code::NotImplemented)),
        ] {
            let mut head = Head::default();
            head.parse(format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n").as_bytes()).unwrap();
            assert_eq!(of_put(&head).map_err(|error| error.code), put, "{lines}");
            assert_eq!(of_delete(&head).map_err(|error| error.code), delete, "{lines}");
        }
    }
}
