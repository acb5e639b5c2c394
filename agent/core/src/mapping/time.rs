//! Times as devices write them: RFC 3339, or a count since 1970.

use alloc::{borrow::ToOwned, format, string::String};

use serde_json::Value;
use toml::value::{Datetime, Offset};

use crate::time::Unix;

/// What a number counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TimeUnit {
    #[default]
    Seconds,
    Milliseconds,
    Microseconds,
}

impl TimeUnit {
    /// By the names that a configuration uses.
    pub const ALL: [(&'static str, Self); 3] =
        [("s", Self::Seconds), ("ms", Self::Milliseconds), ("us", Self::Microseconds)];

    fn microseconds(self) -> u64 {
        match self {
            Self::Seconds => 1_000_000,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1,
        }
    }
}

/// A time of a JSON payload.
pub(super) fn parse(value: &Value, unit: TimeUnit) -> Result<Unix, String> {
    match value {
        Value::String(text) => rfc3339(text),
        Value::Number(number) => {
            let factor = unit.microseconds();
            if let Some(count) = number.as_u64() {
                return count.checked_mul(factor).map(Unix).ok_or_else(|| format!("{number} is too far away"));
            }
            #[allow(clippy::cast_precision_loss)]
            let time = number.as_f64().unwrap_or(f64::NAN) * factor as f64;
            // Below 2^63: a float holds it, if not every microsecond.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let time = (0.0..9.2e18).contains(&time).then_some((time + 0.5) as u64);
            time.map(Unix).ok_or_else(|| format!("{number} is not a time since 1970"))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err("it is not a time".to_owned()),
    }
}

/// A date with a time, and an offset; without one it is taken for UTC.
fn rfc3339(text: &str) -> Result<Unix, String> {
    let shown: String = text.chars().take(40).collect();
    let wrong = || format!("`{}` is not a time as RFC 3339 has it (2026-11-22T10:00:00Z)", shown.escape_debug());
    let parsed: Datetime = text.parse().map_err(|_| wrong())?;
    let (Some(date), Some(time)) = (parsed.date, parsed.time) else { return Err(wrong()) };
    let minutes = match parsed.offset {
        None | Some(Offset::Z) => 0,
        Some(Offset::Custom { minutes }) => i64::from(minutes),
    };
    let days = days_from_1970(date.year.into(), date.month.into(), date.day.into());
    let seconds = i64::from(time.hour) * 3_600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0));
    let seconds = u64::try_from(days * 86_400 + seconds - minutes * 60).map_err(|_| wrong())?;
    Ok(Unix(seconds * 1_000_000 + u64::from(time.nanosecond.unwrap_or(0) / 1_000)))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. March is the first month of this year, so that the leap day
/// is its last.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let days_in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + days_in_year - 719_468
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_rfc_3339() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2016-02-15T00:00:00Z", 1_455_494_400),
            ("2016-02-15T01:00:00+01:00", 1_455_494_400),
            ("2016-02-14 19:00:00-05:00", 1_455_494_400),
            ("2024-12-31T23:59:59", 1_735_689_599),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(rfc3339(text), Ok(Unix(seconds * 1_000_000)), "{text}");
        }
        assert_eq!(rfc3339("2022-07-18T09:34:15.775023242+00:00"), Ok(Unix(1_658_136_855_775_023)));
        for bad in ["", "yesterday", "2016-02-15", "12:00:00", "1969-12-31T23:59:59Z", "2016-13-01T00:00:00Z"] {
            assert!(rfc3339(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_count_since_1970() {
        let check = |value: Value, unit, expected: Option<u64>| {
            assert_eq!(parse(&value, unit).ok(), expected.map(Unix), "{value}");
        };
        check(json!(1_455_494_400), TimeUnit::Seconds, Some(1_455_494_400_000_000));
        check(json!(1_455_494_400.25), TimeUnit::Seconds, Some(1_455_494_400_250_000));
        check(json!(1_455_494_400_123u64), TimeUnit::Milliseconds, Some(1_455_494_400_123_000));
        check(json!(7), TimeUnit::Microseconds, Some(7));
        check(json!(-1), TimeUnit::Seconds, None);
        check(json!(u64::MAX), TimeUnit::Seconds, None);
        check(json!(1e300), TimeUnit::Seconds, None);
        check(json!([1]), TimeUnit::Seconds, None);
    }
}
