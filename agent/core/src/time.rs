//! Two kinds of time that must never be mixed: what the world calls now, and what only ever grows.

use core::fmt;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch. May repeat and step backward: it is somebody's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Unix(pub u64);

impl Unix {
    /// Returns the date of a time in UTC: year, month, day. By Howard Hinnant's `civil_from_days`, which is exact.
    fn date(self) -> (u64, u64, u64) {
        let days = self.0 / 86_400_000_000 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        (year_of_era + era * 400 + u64::from(month <= 2), month, day)
    }
}

/// As RFC 3339 has it, in UTC: `2026-11-23T10:00:00Z`. `{:.0}` is the date alone, `{:.6}` has microseconds.
impl fmt::Display for Unix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")?;
        if f.precision() == Some(0) {
            return Ok(());
        }
        let seconds = self.0 / 1_000_000 % 86_400;
        write!(f, "T{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)?;
        if f.precision().is_some() {
            write!(f, ".{:06}", self.0 % 1_000_000)?;
        }
        f.write_str("Z")
    }
}

/// Microseconds since this program started. Never steps backward; means nothing after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The moment `us` microseconds later.
    #[must_use]
    pub fn after(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to `self`, or 0.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The moment of a decision. The core is told; it never asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What cells, windows and ticks see: packet time on replay routes, else wall time.
    pub unix: Unix,
    /// What commits and back-off see.
    pub mono: Monotonic,
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use alloc::{format, string::ToString};

    use super::*;

    #[test]
    fn dates_and_times_are_those_of_the_calendar() {
        let check = |seconds: u64, expected: &str| assert_eq!(Unix(seconds * 1_000_000).to_string(), expected);
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_399, "2000-02-28T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(1_795_403_393, "2026-11-23T03:09:53Z");
        check(4_102_444_799, "2099-12-31T23:59:59Z");
        assert_eq!(format!("{:.0} {:.6}", Unix(5), Unix(1_500_000)), "1970-01-01 1970-01-01T00:00:01.500000Z");
        // No time is too late to be printed.
        assert!(Unix(u64::MAX).to_string().ends_with('Z'));
    }
}
