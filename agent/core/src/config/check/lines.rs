//! Sources of lines: where they come from, and what they mean.

use alloc::{format, string::String, vec::Vec};
use core::net::SocketAddr;

use toml::Spanned;

use super::{Checked, Parser, raw};
use crate::{
    config::{LinesFrom, LinesSource, SerialLine},
    framing::{Framing, Length},
    lines::{Checksum, Lines, Reader},
    stream::check_name,
};

/// Of a serial line, in bits a second: from an old meter to what a USB adapter does.
pub(super) const BAUD: core::ops::RangeInclusive<u32> = 50..=4_000_000;

/// Bytes that a frame begins with at most.
const MAX_START: usize = 8;

/// Bytes that its length leaves out at most: a checksum and an end.
const MAX_EXTRA: usize = 64;

impl Parser<'_> {
    pub(super) fn udp(&self, name: &Spanned<String>, raw: raw::Udp) -> Checked<LinesSource> {
        let Ok(address) = raw.listen.get_ref().parse::<SocketAddr>() else {
            let text = raw.listen.get_ref();
            return self.fail(raw.listen.span(), format!("listen `{text}`: ADDRESS:PORT, such as 0.0.0.0:5005"));
        };
        Ok(LinesSource { from: LinesFrom::Udp(address), lines: self.lines(name, raw.lines)? })
    }

    pub(super) fn file(&self, name: &Spanned<String>, raw: raw::File) -> Checked<LinesSource> {
        let path = self.absolute("path", raw.path)?;
        Ok(LinesSource { from: LinesFrom::File(path), lines: self.lines(name, raw.lines)? })
    }

    pub(super) fn process(&self, name: &Spanned<String>, raw: raw::Process) -> Checked<LinesSource> {
        match raw.command.get_ref().first() {
            Some(program) if program.starts_with('/') => {}
            _ => {
                let message =
                    "command: a program by its absolute path, and its arguments, such as [\"/usr/bin/vmstat\", \"1\"]";
                return self.fail(raw.command.span(), message.into());
            }
        }
        let command: Vec<String> = raw.command.into_inner();
        Ok(LinesSource { from: LinesFrom::Process(command), lines: self.lines(name, raw.lines)? })
    }

    pub(super) fn serial(&self, name: &Spanned<String>, raw: raw::Serial) -> Checked<LinesSource> {
        let baud = self.number(raw.baud.as_ref(), 9_600, BAUD)?;
        let device = self.absolute("device", raw.device)?;
        let place = raw.frames.as_ref().map(Spanned::span);
        let framing = raw.frames.map_or(Ok(Framing::Lines), |frames| self.frames(frames))?;
        let lines = self.lines(name, raw.lines)?;
        if let (Some(place), Lines::Readings(_)) = (place, &lines) {
            return self.fail(place, "`frames` are bytes, not text: `lines` can only be a `message`".into());
        }
        Ok(LinesSource { from: LinesFrom::Serial(SerialLine { device, baud, framing }), lines })
    }

    fn frames(&self, raw: Spanned<raw::Frames>) -> Checked<Framing> {
        let span = raw.span();
        let raw::Frames { start, length, extra } = raw.into_inner();
        let length = self.one_of(length.as_ref(), "length", Length::U8, &Length::ALL)?;
        if start.len() > MAX_START {
            return self.fail(span, format!("start: {} bytes; at most {MAX_START}", start.len()));
        }
        if extra > MAX_EXTRA {
            return self.fail(span, format!("extra {extra}: at most {MAX_EXTRA} bytes"));
        }
        Ok(Framing::Counted { start, length, extra })
    }

    pub(super) fn absolute(&self, what: &str, raw: Spanned<String>) -> Checked<String> {
        match raw.get_ref().starts_with('/') {
            true => Ok(raw.into_inner()),
            false => self.fail(raw.span(), format!("{what} `{}`: an absolute path", raw.get_ref())),
        }
    }

    fn lines(&self, name: &Spanned<String>, raw: raw::Lines) -> Checked<Lines> {
        let raw::Lines { pattern, streams, checksum, message } = raw;
        match (pattern, streams, message) {
            (Some(pattern), Some(streams), None) => {
                let checksum = self.one_of(checksum.as_ref(), "checksum", Checksum::None, &Checksum::ALL)?;
                match Reader::new(pattern.get_ref(), streams.get_ref(), checksum) {
                    Ok(reader) => Ok(Lines::Readings(reader)),
                    Err(error) => self.fail(pattern.span(), error),
                }
            }
            (None, None, Some(message)) => match (check_name(message.get_ref()), checksum) {
                (Ok(()), None) => Ok(Lines::Message(message.into_inner())),
                (Ok(()), Some(checksum)) => {
                    self.fail(checksum.span(), "`checksum` does not go with `message`: a cell looks at it".into())
                }
                (Err(error), _) => {
                    self.fail(message.span(), format!("message `{}`: it has {error}", message.get_ref()))
                }
            },
            _ => {
                let message = "`pattern` and `streams`, or `message`";
                self.fail(name.span(), format!("lines of source `{}`: {message}", name.get_ref()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, SourceKind};

    #[test]
    fn lines_mean_readings_or_a_message_and_come_from_somewhere() {
        let parse = |source: &str, lines: &str| {
            let text = format!(
                "[gateway]\nid = \"a\"\n[uplink]\nbroker = \"mqtt://h\"\n[sources.s.{source}\nlines = {{ {lines} }}\n"
            );
            Config::parse(&text).map(|config| config.gateway.sources[0].kind.clone())
        };
        let readings = "pattern = \"(?<v>.)\", streams = \"a\", checksum = \"nmea\"";
        let lines = Lines::Readings(Reader::new("(?<v>.)", "a", Checksum::Nmea).expect("it is good"));
        let line = SerialLine { device: "/dev/ttyS0".into(), baud: 9_600, framing: Framing::Lines };
        let serial = LinesSource { from: LinesFrom::Serial(line), lines };
        assert_eq!(parse("serial]\ndevice = \"/dev/ttyS0\"", readings), Ok(SourceKind::Lines(serial)));
        let message = "message = \"raw\"";
        let command = LinesFrom::Process(vec!["/bin/x".into(), "y".into()]);
        let process = LinesSource { from: command, lines: Lines::Message("raw".into()) };
        assert_eq!(parse("process]\ncommand = [\"/bin/x\", \"y\"]", message), Ok(SourceKind::Lines(process)));

        let check = |source: &str, lines: &str, expected: &str| {
            let error = parse(source, lines).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        let udp = "udp]\nlisten = \"0.0.0.0:5005\"";
        check("udp]\nlisten = \"5005\"", message, "line 6: listen `5005`: ADDRESS:PORT");
        check("file]\npath = \"x.log\"", message, "line 6: path `x.log`: an absolute path");
        check("process]\ncommand = [\"vmstat\"]", message, "line 6: command: a program by its absolute path");
        check("process]\ncommand = []", message, "line 6: command");
        check("serial]\ndevice = \"/dev/x\"\nbaud = 1", message, "line 7: 1: 50 to 4000000");
        let frames = |frames: &str| format!("serial]\ndevice = \"/dev/x\"\nframes = {{ {frames} }}");
        let framing = Framing::Counted { start: vec![0x42, 0x4d], length: Length::U16Be, extra: 2 };
        let line = SerialLine { device: "/dev/x".into(), baud: 9_600, framing };
        let counted = LinesSource { from: LinesFrom::Serial(line), lines: Lines::Message("raw".into()) };
        let good = frames("start = [0x42, 0x4d], length = \"u16be\", extra = 2");
        assert_eq!(parse(&good, message), Ok(SourceKind::Lines(counted)));
        check(&good, readings, "line 7: `frames` are bytes, not text");
        check(&frames("start = [0, 1, 2, 3, 4, 5, 6, 7, 8]"), message, "line 7: start: 9 bytes; at most 8");
        check(&frames("start = [256]"), message, "line 7");
        check(&frames("length = \"u32\""), message, "length `u32`: known is u8, u16be, u16le");
        check(&frames("extra = 65"), message, "line 7: extra 65: at most 64 bytes");
        check(udp, "pattern = \"(\", streams = \"a\"", "line 7: pattern `(`");
        check(udp, "pattern = \".\"", "lines of source `s`: `pattern` and `streams`, or `message`");
        check(udp, "message = \"a\", checksum = \"nmea\"", "`checksum` does not go with `message`");
        check(udp, "message = \"#\"", "line 7: message `#`");
        check(udp, &readings.replace("nmea", "nema"), "did you mean `nmea`?");
    }
}
