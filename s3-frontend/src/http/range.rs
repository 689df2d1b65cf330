//! `Range` requests. One range of bytes is served; what is malformed or asks for several is ignored, as RFC 9110 allows and S3
//! does; what lies outside the object is an error.

use std::ops::Range;

/// What a `Range` header asks for, before the size of the object is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// `bytes=first-last` (inclusive).
    FromTo(u64, u64),
    /// `bytes=first-`.
    From(u64),
    /// `bytes=-count`: the last `count` bytes.
    Last(u64),
}

/// The range lies outside the object: 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range lies outside the object")]
pub(crate) struct Unsatisfiable;

impl ByteRange {
    /// Reads the value of a `Range` header; `None` where it is to be ignored.
    pub(crate) fn parse(value: &str) -> Option<ByteRange> {
        let unit = value.get(..6)?;
        if !unit.eq_ignore_ascii_case("bytes=") {
            return None;
        }
        let (first, last) = value[6..].trim().split_once('-')?;
        match (first, last) {
            ("", count) => Some(ByteRange::Last(number(count)?)),
            (first, "") => Some(ByteRange::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(ByteRange::FromTo(first, last))
            }
        }
    }

    /// The bytes meant of an object of `size` bytes; never empty.
    pub(crate) fn resolve(self, size: u64) -> Result<Range<u64>, Unsatisfiable> {
        let range = match self {
            ByteRange::FromTo(first, last) => first..last.saturating_add(1).min(size),
            ByteRange::From(first) => first..size,
            ByteRange::Last(count) => size.saturating_sub(count)..size,
        };
        if range.is_empty() { Err(Unsatisfiable) } else { Ok(range) }
    }
}

/// Numbers too large for 64 bits lie behind every object all the same.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mean_what_the_standard_says() {
        for (value, size, expected) in [
            ("bytes=0-9", 100, Some(Ok(0..10))),
            ("bytes=0-0", 1, Some(Ok(0..1))),
            ("bytes=90-", 100, Some(Ok(90..100))),
            ("bytes=90-1000", 100, Some(Ok(90..100))),
            ("bytes=-10", 100, Some(Ok(90..100))),
            ("bytes=-1000", 100, Some(Ok(0..100))),
            ("Bytes=5-5", 100, Some(Ok(5..6))),
            ("bytes=0-18446744073709551615", 100, Some(Ok(0..100))),
            ("bytes=0-99999999999999999999999", 100, Some(Ok(0..100))),
            ("bytes=100-", 100, Some(Err(Unsatisfiable))),
            ("bytes=100-200", 100, Some(Err(Unsatisfiable))),
            ("bytes=99999999999999999999999-", 100, Some(Err(Unsatisfiable))),
            ("bytes=-0", 100, Some(Err(Unsatisfiable))),
            ("bytes=0-", 0, Some(Err(Unsatisfiable))),
            ("bytes=-5", 0, Some(Err(Unsatisfiable))),
            ("bytes=9-5", 100, None),
            ("bytes=0-5,10-20", 100, None),
            ("bytes=-", 100, None),
            ("bytes=a-b", 100, None),
            ("bytes=+1-2", 100, None),
            ("bytes=", 100, None),
            ("items=0-5", 100, None),
            ("", 100, None),
        ] {
            assert_eq!(ByteRange::parse(value).map(|range| range.resolve(size)), expected, "{value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_range_reaches_outside_the_object(value in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in 0u64..1000) {
            if let Some(Ok(range)) = ByteRange::parse(&value).map(|range| range.resolve(size)) {
                proptest::prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
