//! Conditional requests: `If-Match`, `If-None-Match`, `If-Modified-Since`, `If-Unmodified-Since`, `If-Range`, and the same four as
//! conditions on the source of a copy.
//!
//! What must hold: the order of RFC 9110, section 13.2.2. A condition on an ETag hides the condition on a date of the same sense.
//! Conditions of *writes* are not decided here: the partition decides them.

use crate::date;
use crate::http::head::Head;

/// Entity tags as a client lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EtagList<'a> {
    /// `*`
    Any,
    /// The text of the header.
    Tags(&'a str),
}

impl<'a> EtagList<'a> {
    pub(crate) fn parse(value: &'a str) -> EtagList<'a> {
        if value.trim() == "*" { EtagList::Any } else { EtagList::Tags(value) }
    }

    /// Whether `etag` (without quotes) is listed. Our tags are never weak, so that a weak one is compared by its text; clients
    /// that leave out the quotes are understood, as S3 does.
    pub(crate) fn contains(&self, etag: &str) -> bool {
        match self {
            EtagList::Any => true,
            EtagList::Tags(tags) => tags.split(',').any(|tag| unquoted(tag) == etag),
        }
    }
}

/// An entity tag without blanks, weakness and quotes.
pub(crate) fn unquoted(tag: &str) -> &str {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}

/// What the conditions of a read decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send the object.
    Proceed,
    /// 304: the client has it.
    NotModified,
    /// 412: this is not what the client wants; which condition says so.
    Failed(&'static str),
}

/// The four conditions of a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions<'a> {
    pub(crate) if_match: Option<EtagList<'a>>,
    pub(crate) if_none_match: Option<EtagList<'a>>,
    /// Unix seconds.
    pub(crate) if_modified_since: Option<i64>,
    /// Unix seconds.
    pub(crate) if_unmodified_since: Option<i64>,
}

impl<'a> Conditions<'a> {
    /// The conditions on the object itself. Dates that are no dates are ignored, as the standard demands.
    pub(crate) fn of_request(head: &'a Head) -> Conditions<'a> {
        Conditions::read(head, ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"])
    }

    /// The conditions on the source of a copy.
    pub(crate) fn of_copy_source(head: &'a Head) -> Conditions<'a> {
        Conditions::read(
            head,
            [
                "x-amz-copy-source-if-match",
                "x-amz-copy-source-if-none-match",
                "x-amz-copy-source-if-modified-since",
                "x-amz-copy-source-if-unmodified-since",
            ],
        )
    }

    fn read(head: &'a Head, [if_match, if_none_match, modified, unmodified]: [&str; 4]) -> Conditions<'a> {
        Conditions {
            if_match: head.header(if_match).map(EtagList::parse),
            if_none_match: head.header(if_none_match).map(EtagList::parse),
            if_modified_since: head.header(modified).and_then(date::parse_http_date),
            if_unmodified_since: head.header(unmodified).and_then(date::parse_http_date),
        }
    }

    /// Decides for an object with this ETag (without quotes) and this time of its last change.
    pub(crate) fn evaluate(&self, etag: &str, modified_unix_ms: i64) -> Verdict {
        // HTTP dates have no fraction: what changed within the second that the client names counts as not changed since.
        let modified = modified_unix_ms.div_euclid(1000);
        match (&self.if_match, self.if_unmodified_since) {
            (Some(tags), _) if !tags.contains(etag) => return Verdict::Failed("If-Match"),
            (None, Some(since)) if modified > since => return Verdict::Failed("If-Unmodified-Since"),
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(tags), _) if tags.contains(etag) => Verdict::NotModified,
            (None, Some(since)) if modified <= since => Verdict::NotModified,
            _ => Verdict::Proceed,
        }
    }
}

/// Whether an `If-Range` allows the range: it names this ETag, or the exact time of the last change. Otherwise the whole object is
/// sent.
pub(crate) fn if_range_holds(value: &str, etag: &str, modified_unix_ms: i64) -> bool {
    match date::parse_http_date(value) {
        Some(date) => date == modified_unix_ms.div_euclid(1000),
        None => !value.trim().starts_with("W/") && unquoted(value) == etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: i64 = 784_111_777;

    fn verdict(lines: &str) -> Verdict {
        let mut head = Head::default();
        head.parse(format!("GET /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n").as_bytes()).unwrap();
        Conditions::of_request(&head).evaluate("abc", TIME * 1000 + 500)
    }

    #[test]
    fn conditions_follow_the_order_of_the_standard() {
        let same = "Sun, 06 Nov 1994 08:49:37 GMT";
        let before = "Sun, 06 Nov 1994 08:49:36 GMT";
        let failed_match = Verdict::Failed("If-Match");
        let failed_date = Verdict::Failed("If-Unmodified-Since");
        for (lines, expected) in [
            ("".to_owned(), Verdict::Proceed),
            ("If-Match: \"abc\"\r\n".to_owned(), Verdict::Proceed),
            ("If-Match: abc\r\n".to_owned(), Verdict::Proceed),
            ("If-Match: *\r\n".to_owned(), Verdict::Proceed),
            ("If-Match: \"x\", \"abc\"\r\n".to_owned(), Verdict::Proceed),
            ("If-Match: \"x\"\r\n".to_owned(), failed_match),
            ("If-None-Match: \"abc\"\r\n".to_owned(), Verdict::NotModified),
            ("If-None-Match: W/\"abc\"\r\n".to_owned(), Verdict::NotModified),
            ("If-None-Match: *\r\n".to_owned(), Verdict::NotModified),
            ("If-None-Match: \"x\"\r\n".to_owned(), Verdict::Proceed),
            (format!("If-Modified-Since: {same}\r\n"), Verdict::NotModified),
            (format!("If-Modified-Since: {before}\r\n"), Verdict::Proceed),
            (format!("If-Unmodified-Since: {same}\r\n"), Verdict::Proceed),
            (format!("If-Unmodified-Since: {before}\r\n"), failed_date),
            ("If-Unmodified-Since: yesterday\r\n".to_owned(), Verdict::Proceed),
            // The ETag hides the date.
            (format!("If-Match: \"abc\"\r\nIf-Unmodified-Since: {before}\r\n"), Verdict::Proceed),
            (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {same}\r\n"), Verdict::Proceed),
            (format!("If-None-Match: \"abc\"\r\nIf-Modified-Since: {before}\r\n"), Verdict::NotModified),
            // What fails comes before what is not modified.
            ("If-Match: \"x\"\r\nIf-None-Match: \"abc\"\r\n".to_owned(), failed_match),
        ] {
            assert_eq!(verdict(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn if_range_takes_a_strong_tag_or_the_exact_time() {
        assert!(if_range_holds("\"abc\"", "abc", TIME * 1000));
        assert!(!if_range_holds("W/\"abc\"", "abc", TIME * 1000));
        assert!(!if_range_holds("\"abd\"", "abc", TIME * 1000));
        assert!(if_range_holds("Sun, 06 Nov 1994 08:49:37 GMT", "abc", TIME * 1000 + 999));
        assert!(!if_range_holds("Sun, 06 Nov 1994 08:49:38 GMT", "abc", TIME * 1000));
    }
}
