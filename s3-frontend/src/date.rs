//! Dates as HTTP and S3 write them, from and to seconds since the Unix epoch. UTC only, no allocation, no clock.

const DAY_NAMES: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const LONG_DAY_NAMES: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTH_NAMES: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// 9999-12-31T23:59:59Z: the last second that fits four digits of year.
const SECONDS_MAX: i64 = 253_402_300_799;
const SECONDS_PER_DAY: i64 = 86_400;

/// A second, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Civil {
    /// Times outside the years 1970 to 9999 become the nearer end.
    fn from_unix(seconds: i64) -> (Civil, usize) {
        let seconds = seconds.clamp(0, SECONDS_MAX);
        let days = seconds / SECONDS_PER_DAY;
        let rest = (seconds % SECONDS_PER_DAY) as u32;
        // Days since 0000-03-01, in eras of 400 years, so that the leap day is the last day of a year.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let weekday = ((days + 4) % 7) as usize;
        let civil = Civil { year, month, day, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60 };
        (civil, weekday)
    }

    /// `None` where a field is out of its range. A leap second counts as the second before it.
    fn to_unix(self) -> Option<i64> {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let days_in_month = match self.month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let in_range = (0..=9999).contains(&self.year)
            && (1..=days_in_month).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second <= 60;
        if !in_range {
            return None;
        }
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = i64::from(if self.month > 2 { self.month - 3 } else { self.month + 9 });
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let second = i64::from(self.second.min(59));
        Some(days * SECONDS_PER_DAY + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + second)
    }
}

/// A date as text, without an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DateText<const N: usize>([u8; N]);

impl<const N: usize> DateText<N> {
    pub(crate) fn as_str(&self) -> &str {
        // Only ASCII digits, names and punctuation are ever written below.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> std::fmt::Display for DateText<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> std::fmt::Debug for DateText<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

fn digits(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`: `Date`, `Last-Modified`.
pub(crate) fn imf_fixdate(unix_seconds: i64) -> DateText<29> {
    let (civil, weekday) = Civil::from_unix(unix_seconds);
    let mut text = *b"Sun, 06 Nov 1994 08:49:37 GMT";
    text[0..3].copy_from_slice(DAY_NAMES[weekday].as_bytes());
    digits(&mut text[5..7], civil.day);
    text[8..11].copy_from_slice(MONTH_NAMES[civil.month as usize - 1].as_bytes());
    digits(&mut text[12..16], civil.year as u32);
    digits(&mut text[17..19], civil.hour);
    digits(&mut text[20..22], civil.minute);
    digits(&mut text[23..25], civil.second);
    DateText(text)
}

/// `2009-10-12T17:50:30.000Z`: dates inside XML.
pub(crate) fn iso8601_millis(unix_millis: i64) -> DateText<24> {
    let (civil, _) = Civil::from_unix(unix_millis.div_euclid(1000));
    let mut text = *b"2009-10-12T17:50:30.000Z";
    digits(&mut text[0..4], civil.year as u32);
    digits(&mut text[5..7], civil.month);
    digits(&mut text[8..10], civil.day);
    digits(&mut text[11..13], civil.hour);
    digits(&mut text[14..16], civil.minute);
    digits(&mut text[17..19], civil.second);
    digits(&mut text[20..23], unix_millis.rem_euclid(1000) as u32);
    DateText(text)
}

/// `20130524T000000Z`: dates inside signatures.
pub(crate) fn amz_date(unix_seconds: i64) -> DateText<16> {
    let (civil, _) = Civil::from_unix(unix_seconds);
    let mut text = *b"20130524T000000Z";
    digits(&mut text[0..4], civil.year as u32);
    digits(&mut text[4..6], civil.month);
    digits(&mut text[6..8], civil.day);
    digits(&mut text[9..11], civil.hour);
    digits(&mut text[11..13], civil.minute);
    digits(&mut text[13..15], civil.second);
    DateText(text)
}

fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 4 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |n, digit| n * 10 + u32::from(digit - b'0')))
}

/// Parses `20130524T000000Z`.
pub(crate) fn parse_amz_date(text: &str) -> Option<i64> {
    let text = text.as_bytes();
    if text.len() != 16 || text[8] != b'T' || text[15] != b'Z' {
        return None;
    }
    Civil {
        year: i64::from(number(&text[0..4])?),
        month: number(&text[4..6])?,
        day: number(&text[6..8])?,
        hour: number(&text[9..11])?,
        minute: number(&text[11..13])?,
        second: number(&text[13..15])?,
    }
    .to_unix()
}

/// Parses the three forms that RFC 9110 demands: IMF-fixdate, RFC 850 and asctime.
pub(crate) fn parse_http_date(text: &str) -> Option<i64> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next()?;
    let civil = match first.strip_suffix(',') {
        Some(name) if DAY_NAMES.contains(&name) => {
            let day = number(words.next()?.as_bytes())?;
            let month = month_number(words.next()?)?;
            let year = i64::from(number(words.next()?.as_bytes())?);
            let (hour, minute, second) = clock(words.next()?)?;
            is_utc(words.next()?)?;
            Civil { year, month, day, hour, minute, second }
        }
        Some(name) if LONG_DAY_NAMES.contains(&name) => {
            let mut date = words.next()?.split('-');
            let day = number(date.next()?.as_bytes())?;
            let month = month_number(date.next()?)?;
            // Two digits of year: this century up to 69, as every date that S3 knows is after 2005.
            let year = match i64::from(number(date.next()?.as_bytes())?) {
                year @ 0..=69 => 2000 + year,
                year @ 70..=99 => 1900 + year,
                year => year,
            };
            let (hour, minute, second) = clock(words.next()?)?;
            is_utc(words.next()?)?;
            Civil { year, month, day, hour, minute, second }
        }
        None if DAY_NAMES.contains(&first) => {
            let month = month_number(words.next()?)?;
            let day = number(words.next()?.as_bytes())?;
            let (hour, minute, second) = clock(words.next()?)?;
            let year = i64::from(number(words.next()?.as_bytes())?);
            Civil { year, month, day, hour, minute, second }
        }
        _ => return None,
    };
    if words.next().is_some() { None } else { civil.to_unix() }
}

fn month_number(name: &str) -> Option<u32> {
    MONTH_NAMES.iter().position(|month| *month == name).map(|index| index as u32 + 1)
}

fn clock(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(':');
    let mut next = || number(parts.next()?.as_bytes());
    let time = (next()?, next()?, next()?);
    if parts.next().is_some() { None } else { Some(time) }
}

fn is_utc(zone: &str) -> Option<()> {
    matches!(zone, "GMT" | "UTC" | "+0000").then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_standards_show_them() {
        assert_eq!(imf_fixdate(784_111_777).as_str(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(imf_fixdate(0).as_str(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(imf_fixdate(951_782_400).as_str(), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(imf_fixdate(-5).as_str(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(imf_fixdate(i64::MAX).as_str(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(iso8601_millis(1_255_369_830_042).as_str(), "2009-10-12T17:50:30.042Z");
        assert_eq!(amz_date(1_369_353_600).as_str(), "20130524T000000Z");
    }

    #[test]
    fn the_three_http_forms_are_one_moment() {
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "Sun",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
            "2009-10-12T17:50:30.000Z",
            "Sun, 06 Nov 99999 08:49:37 GMT",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
        for text in ["20130524T000000", "20130524t000000Z", "2013052aT000000Z", "20131324T000000Z"] {
            assert_eq!(parse_amz_date(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_second_survives_the_round_trip(seconds in 0..=SECONDS_MAX) {
            proptest::prop_assert_eq!(parse_http_date(imf_fixdate(seconds).as_str()), Some(seconds));
            proptest::prop_assert_eq!(parse_amz_date(amz_date(seconds).as_str()), Some(seconds));
        }

        #[test]
        fn no_text_breaks_the_parsers(text in ".{0,40}") {
            let _ = parse_http_date(&text);
            let _ = parse_amz_date(&text);
        }
    }
}
