//! GetObject and HeadObject: conditions, then the range, then the headers, then verified bytes.

use crate::http::conditions::{Conditions, Verdict, if_range_holds};
use crate::http::range::ByteRange;
use crate::http::response::ResponseHead;
use crate::limits::PART_NUMBER_MAX;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::object_headers;
use crate::s3::op::put_object::checksum_headers;
use crate::server::call::{Answer, Blocks, Call, Response, ResponseBody, last_modified};
use crate::store::{BlockStream, ObjectReader, ObjectStore};
use buckets_engine::object::api::{ObjectError, ObjectInfo};
use std::ops::Range;

pub(crate) async fn get_object<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    call.check_version()?;
    loop {
        let object = call.store.open(call.bucket(), call.key()).await.map_err(|error| call.refusal(error))?;
        let version = version_of(object.info());
        let (mut response, range) = describe(call, object.info())?;
        let Some(range) = range.filter(|range| !range.is_empty()) else { return Ok(response) };
        let length = range.end - range.start;
        let mut blocks = object.read(range);
        // As long as nothing is sent, a failure can be told.
        match blocks.next().await {
            Ok(Some(first)) => {
                response.body = ResponseBody::Blocks { length, first, blocks };
                return Ok(response);
            }
            Ok(None) => {
                return Err(call.refusal(ObjectError::Internal("the body is shorter than its size".into())));
            }
            // It may have been replaced, and freed, before this node could say that it reads it.
            Err(error) => match call.store.head(call.bucket(), call.key()).await {
                Ok(info) if version_of(&info) != version => {}
                _ => return Err(call.refusal(error)),
            },
        }
    }
}

fn version_of(info: &ObjectInfo) -> (String, u64) {
    (info.etag.clone(), info.modified_unix_ms)
}

pub(crate) async fn head_object<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    call.check_version()?;
    let info = call.store.head(call.bucket(), call.key()).await.map_err(|error| call.refusal(error))?;
    let (mut response, range) = describe(call, &info)?;
    if let Some(range) = range {
        response.body = ResponseBody::Described(range.end - range.start);
    }
    Ok(response)
}

type Described<S> = (Response<Blocks<S>>, Option<Range<u64>>);

/// Everything of the response but the body, and the bytes to send; no bytes where the client has them already.
fn describe<S: ObjectStore>(call: &Call<'_, S>, info: &ObjectInfo) -> S3Result<Described<S>> {
    let modified = i64::try_from(info.modified_unix_ms).unwrap_or(i64::MAX);
    match Conditions::of_request(call.head).evaluate(&info.etag, modified) {
        Verdict::Proceed => {}
        Verdict::NotModified => {
            let mut head = call.start(304);
            head.etag(&info.etag);
            head.header("Last-Modified", last_modified(info.modified_unix_ms).as_str());
            return Ok((Response { head, body: ResponseBody::Absent }, None));
        }
        Verdict::Failed(condition) => return Err(Code::PreconditionFailed.with("Condition", condition)),
    }

    let asked = range_asked(call, info, modified)?;
    let range = asked.clone().unwrap_or(0..info.size);
    let mut head = call.start(if asked.is_some() { 206 } else { 200 });
    if asked.is_some() {
        let last = range.end.saturating_sub(1);
        head.header("Content-Range", &format!("bytes {}-{last}/{}", range.start, info.size));
    }
    object_headers(call, info, &mut head);
    if call.query("partNumber").is_some() && !info.parts.is_empty() {
        head.number("x-amz-mp-parts-count", info.parts.len() as u64);
    }
    // A checksum is of the whole object: a client would compare it with the part it gets.
    let whole = range == (0..info.size);
    if whole && call.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("ENABLED")) {
        checksum_headers(&mut head, info.checksum.as_ref(), info.parts.len());
    }
    Ok((Response { head, body: ResponseBody::Empty }, Some(range)))
}

/// The part of the object that the client wants; `None` for all of it, without saying that it is a part.
fn range_asked<S: ObjectStore>(
    call: &Call<'_, S>,
    info: &ObjectInfo,
    modified: i64,
) -> S3Result<Option<Range<u64>>> {
    let range = call.header("range").and_then(ByteRange::parse);
    if let Some(text) = call.query("partNumber") {
        if range.is_some() {
            return Err(Code::InvalidRequest
                .because("Cannot specify both Range header and partNumber query parameter"));
        }
        // An empty part has no bytes that a range could name.
        return Ok(Some(part_range(info, text)?).filter(|range| !range.is_empty()));
    }
    let Some(range) = range else { return Ok(None) };
    if call.header("if-range").is_some_and(|value| !if_range_holds(value, &info.etag, modified)) {
        return Ok(None);
    }
    range.resolve(info.size).map(Some).map_err(|_| {
        S3Error::from(Code::InvalidRange)
            .with("RangeRequested", call.header("range").unwrap_or_default())
            .with("ActualObjectSize", info.size.to_string())
            .with_header("Content-Range", format!("bytes */{}", info.size))
    })
}

/// The bytes of one part. An object that was put in one piece is its own part 1.
fn part_range(info: &ObjectInfo, text: &str) -> S3Result<Range<u64>> {
    let number = text.parse::<u16>().ok().filter(|number| (1..=PART_NUMBER_MAX).contains(number));
    let Some(number) = number else {
        let message = "Part number must be an integer between 1 and 10000, inclusive";
        return Err(S3Error::invalid_argument(message, "partNumber", text));
    };
    if info.parts.is_empty() && number == 1 {
        return Ok(0..info.size);
    }
    let mut start = 0;
    for part in &info.parts {
        if part.number == number {
            return Ok(start..start + part.size);
        }
        start += part.size;
    }
    Err(S3Error::from(Code::InvalidPartNumber)
        .with("PartNumberRequested", text)
        .with("ActualPartCount", info.parts.len().max(1).to_string()))
}

/// The headers that belong to the object, those that the client chose instead, and those that every object has.
fn object_headers<S: ObjectStore>(call: &Call<'_, S>, info: &ObjectInfo, head: &mut ResponseHead) {
    head.header("Last-Modified", last_modified(info.modified_unix_ms).as_str());
    head.etag(&info.etag);
    head.header("Accept-Ranges", "bytes");
    let mut has_type = false;
    for (name, kept) in &info.headers {
        has_type |= name == "content-type";
        head.header(name, object_headers::overridden(call.target, name).unwrap_or(kept));
    }
    if !call.target.query_is_empty() {
        for (name, value) in object_headers::added_overrides(call.target, &info.headers) {
            has_type |= name == "content-type";
            head.header(name, value);
        }
    }
    if !has_type {
        head.header("content-type", object_headers::DEFAULT_CONTENT_TYPE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_engine::object::api::PartSize;

    #[test]
    fn a_part_is_found_by_its_number() {
        let mut info = ObjectInfo {
            key: "k".to_owned(),
            size: 30,
            etag: "e".to_owned(),
            modified_unix_ms: 0,
            headers: Vec::new(),
            checksum: None,
            parts: Vec::new(),
        };
        assert_eq!(part_range(&info, "1"), Ok(0..30));
        assert_eq!(part_range(&info, "2").unwrap_err().code, Code::InvalidPartNumber);
        info.parts = vec![PartSize { number: 2, size: 20 }, PartSize { number: 5, size: 10 }];
        for (text, expected) in [
            ("2", Ok(0..20)),
            ("5", Ok(20..30)),
            ("1", Err(Code::InvalidPartNumber)),
            ("0", Err(Code::InvalidArgument)),
            ("10001", Err(Code::InvalidArgument)),
            ("x", Err(Code::InvalidArgument)),
        ] {
            assert_eq!(part_range(&info, text).map_err(|error| error.code), expected, "{text}");
        }
    }
}
