//! What a line of text means: readings by a pattern with named groups, or a message whole.
//!
//! Groups that the stream's name mentions are names; every other one is a number, and `{channel}` stands for the name of its group. A pattern
//! takes time in proportion to its own length times the line's, whatever it is (`regex-lite`).

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use regex_lite::{Regex, RegexBuilder};

use crate::stream::check_name;

/// Bytes of a compiled pattern: a hundred times what a line of a sensor takes.
const MAX_PATTERN_BYTES: usize = 262_144;

/// What is made of lines and frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Readings.
    Readings(Reader),
    /// It is a message on this stream, whole.
    Message(String),
}

/// What says that a line came whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    #[default]
    None,
    /// NMEA 0183: `$…*hh`, the exclusive or of what is between.
    Nmea,
}

impl Checksum {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 2] = [("none", Self::None), ("nmea", Self::Nmea)];

    fn holds(self, line: &str) -> bool {
        match self {
            Self::None => true,
            Self::Nmea => {
                let Some((data, sum)) = line.strip_prefix('$').and_then(|rest| rest.rsplit_once('*')) else {
                    return false;
                };
                let sum = if sum.len() == 2 { u8::from_str_radix(sum, 16).ok() } else { None };
                sum == Some(data.bytes().fold(0, |sum, byte| sum ^ byte))
            }
        }
    }
}

/// A pattern that is ready to be used.
#[derive(Clone, Debug)]
pub struct Reader {
    regex: Regex,
    streams: String,
    checksum: Checksum,
    /// Groups that are numbers, and groups that are names.
    values: Vec<String>,
    names: Vec<String>,
}

impl PartialEq for Reader {
    fn eq(&self, other: &Self) -> bool {
        // The groups follow from the pattern and the streams.
        (self.regex.as_str(), &self.streams, self.checksum) == (other.regex.as_str(), &other.streams, other.checksum)
    }
}

impl Eq for Reader {}

impl Reader {
    /// Makes a pattern ready.
    ///
    /// # Errors
    /// What is wrong with it, or with the streams that it names.
    pub fn new(pattern: &str, streams: &str, checksum: Checksum) -> Result<Self, String> {
        let built = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build();
        let regex = built.map_err(|error| format!("pattern `{pattern}`: {error}"))?;
        let groups = regex.capture_names().flatten().map(ToString::to_string);
        let (names, values): (Vec<_>, Vec<_>) = groups.partition(|group| streams.contains(&format!("{{{group}}}")));
        if values.is_empty() {
            return Err(format!(
                "pattern `{pattern}` has no named group with a number, such as (?<temperature>[-0-9.]+)"
            ));
        }
        if values.len() > 1 && !streams.contains("{channel}") {
            return Err(format!("streams `{streams}`: there are {} numbers, {{channel}} is missing", values.len()));
        }
        let reader = Self { regex, streams: streams.into(), checksum, values, names };
        let longest = reader.values.iter().map(|value| reader.stream(value, |_| Some("x"))).collect::<Vec<_>>();
        match longest.iter().find_map(|stream| check_name(stream).err()) {
            None => Ok(reader),
            Some(error) => Err(format!("streams `{streams}`: it has {error}")),
        }
    }

    fn stream<'a>(&self, value: &str, named: impl Fn(&str) -> Option<&'a str>) -> String {
        let mut stream = self.streams.replace("{channel}", value);
        for name in &self.names {
            stream = stream.replace(&format!("{{{name}}}"), named(name).unwrap_or_default());
        }
        stream
    }

    /// Gives the stream and the number of each group that has one.
    ///
    /// # Errors
    /// What is wrong with the line; then it has given nothing.
    pub fn read(&self, line: &str, mut found: impl FnMut(String, f64)) -> Result<(), String> {
        if !self.checksum.holds(line) {
            return Err("the checksum is wrong".into());
        }
        let captures = self.regex.captures(line).ok_or("it does not match the pattern")?;
        let group = |name: &str| captures.name(name).map(|found| found.as_str());
        let mut numbers = Vec::new();
        for value in &self.values {
            let Some(text) = group(value) else { continue };
            // What cannot measure often prints `nan`.
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            let number = number.ok_or_else(|| format!("`{value}` is `{}`, no number", text.escape_debug()))?;
            let stream = self.stream(value, group);
            check_name(&stream).map_err(|error| format!("the stream `{}` has {error}", stream.escape_debug()))?;
            numbers.push((stream, number));
        }
        numbers.into_iter().for_each(|(stream, number)| found(stream, number));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: &Reader, line: &str) -> Result<Vec<(String, f64)>, String> {
        let mut all = Vec::new();
        reader.read(line, |stream, number| all.push((stream, number)))?;
        Ok(all)
    }

    #[test]
    fn groups_are_numbers_or_names() {
        let pattern = r"^(?<node>\w+) T=(?<temperature>-?[0-9.]+)(?: H=(?<humidity>\S+))?";
        let reader = Reader::new(pattern, "{node}/{channel}", Checksum::None).expect("it is good");
        let both = [("roof/temperature".into(), -3.5), ("roof/humidity".into(), 81.0)];
        assert_eq!(read(&reader, "roof T=-3.5 H=81"), Ok(both.into()));
        assert_eq!(read(&reader, "roof T=7"), Ok([("roof/temperature".into(), 7.0)].into()));
        assert_eq!(read(&reader, "roof T=7 H=wet"), Err("`humidity` is `wet`, no number".into()));
        assert_eq!(read(&reader, "garbage"), Err("it does not match the pattern".into()));
        // A dot too many is not a number, and the line gives nothing at all.
        assert!(read(&reader, "roof T=1.2.3").is_err());
    }

    #[test]
    fn a_sentence_of_nmea_counts_only_whole() {
        let pattern = r"^\$..GGA,[^,]*,[^,]*,.,[^,]*,.,\d,(?<satellites>\d+),[^,]*,(?<altitude>[-0-9.]+),M";
        let reader = Reader::new(pattern, "gps/{channel}", Checksum::Nmea).expect("it is good");
        let good = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47";
        assert_eq!(read(&reader, good), Ok([("gps/satellites".into(), 8.0), ("gps/altitude".into(), 545.4)].into()));
        for bad in [&good.replace("545.4", "945.4"), &good.replace("*47", ""), &good.replace("*47", "*4"), "$*"] {
            assert_eq!(read(&reader, bad), Err("the checksum is wrong".into()), "{bad}");
        }
    }

    #[test]
    fn patterns_and_streams_that_cannot_be_are_refused() {
        let check = |pattern: &str, streams: &str, expected: &str| {
            let error = Reader::new(pattern, streams, Checksum::None).expect_err(pattern);
            assert!(error.contains(expected), "{error}");
        };
        check("(", "a", "pattern `(`");
        check("^x", "a", "no named group");
        check("(?<a>.)", "{a}", "no named group with a number");
        check("(?<a>.)(?<b>.)", "x", "there are 2 numbers");
        check("(?<a>.)", "x/{b}", "streams `x/{b}`");
        check("(?<a>(?:x{100}){1000})", "x", "pattern");
    }

    #[test]
    fn names_from_outside_cannot_be_anything() {
        let reader = Reader::new(r"^(?<node>\S+) (?<value>.+)$", "{node}", Checksum::None).expect("it is good");
        assert_eq!(read(&reader, "a 1"), Ok([("a".into(), 1.0)].into()));
        for bad in ["a/b/c/d 1", "# 1", "$SYS 1", "a{x} 1"] {
            assert!(read(&reader, bad).is_err(), "{bad}");
        }
    }
}
