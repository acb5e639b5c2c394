//! Source `replay`: the rows of a recorded file, as fast as they were recorded, faster, or as fast as possible.
//!
//! Columns timestamp, channel, value (RFC 4180 without quotes), a header first, `.csv` or `.csv.gz`; the timestamp in
//! decimal seconds since the Unix epoch. Rows come in the file's order: the recorded clock may repeat and step back,
//! and packets carry it as it is. A row that cannot be read is counted and told with its line, never fatal. A gzip file may have
//! several members (RFC 1952, 2.2); every whole row before the place where a file is cut or damaged is read.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    time::Duration,
};

use anyhow::{Context, ensure};
use flate2::bufread::MultiGzDecoder;
use porin_core::{
    config::Replay as Config,
    ids::StreamId,
    packet::{PacketKind, Quality, Reading},
    stream::check_name,
    time::Unix,
};
use tokio::time::Instant;
use tracing::info;

use super::{BATCH, Outlet};
use crate::inbox::FromSource;

/// Bytes of a line. Anything longer is no row of ours; its rest is skipped.
const MAX_LINE: usize = 4_096;

/// Channels of a file. A column of numbers taken for names would otherwise fill the memory.
const MAX_CHANNELS: usize = 10_000;

/// The longest that a replay waits for its next row: beyond it, the recorded clock has stepped.
const MAX_GAP: Duration = Duration::from_secs(3_600);

const HEADER: &str = "timestamp,channel,value";

/// A replay with its position: a restart goes on after the last row that was handed over.
pub(crate) struct Replay {
    config: Config,
    /// Lines of the file that are done with, the header among them.
    lines_done: u64,
    channels: HashMap<String, u32>,
    batch: Vec<Reading>,
    /// Recorded time and real time at the first row: what the speed is measured from.
    started: Option<(u64, Instant)>,
}

impl Replay {
    pub(crate) fn new(config: Config) -> Self {
        let (channels, batch) = (HashMap::new(), Vec::new());
        Self { config, lines_done: 0, channels, batch, started: None }
    }

    /// Runs to the end of the file.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        let mut lines = open(&self.config.file).with_context(|| format!("cannot replay {}", self.config.file))?;
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            match read_line(&mut lines, &mut line) {
                Ok(true) => number += 1,
                Ok(false) => break,
                Err(error) => {
                    // Rows read before the error count.
                    self.hand_over(outlet).await?;
                    return Err(error).with_context(|| format!("{} line {}", self.config.file, number + 1));
                }
            }
            if number <= self.lines_done {
                continue;
            }
            if number == 1 {
                let header = String::from_utf8_lossy(&line);
                ensure!(header == HEADER, "{}: the header is `{header}`, not `{HEADER}`", self.config.file);
            } else if let Err(reason) = self.row(&line, outlet).await? {
                let place = format!("{} line {number}: {reason}", self.config.file);
                outlet.send(FromSource::BadRow(place)).await?;
            }
            self.lines_done = number;
        }
        self.hand_over(outlet).await?;
        // The end is the end only when everything is decided about and durable.
        Ok(outlet.wait_until_settled(outlet.made).await?)
    }

    /// Takes one row. The inner error is the row's.
    async fn row(&mut self, line: &[u8], outlet: &mut Outlet) -> anyhow::Result<Result<(), String>> {
        let (time_us, channel, value) = match parse(line) {
            Ok(row) => row,
            Err(reason) => return Ok(Err(reason)),
        };
        let local = match self.channels.get(channel) {
            Some(local) => *local,
            None => {
                if self.channels.len() >= MAX_CHANNELS {
                    return Ok(Err(format!("the file has more than {MAX_CHANNELS} channels")));
                }
                let name = self.config.streams.replace("{channel}", channel);
                if let Err(error) = check_name(&name) {
                    return Ok(Err(format!("the stream `{}` has {error}", name.escape_debug())));
                }
                let local = u32::try_from(self.channels.len())?;
                outlet.send(FromSource::Stream { local, name, kind: PacketKind::Readings }).await?;
                self.channels.insert(channel.to_owned(), local);
                local
            }
        };
        self.wait_for(time_us, outlet).await?;
        self.batch.push(Reading { time: Unix(time_us), value, stream: StreamId(local), quality: Quality::GOOD });
        if self.batch.len() >= BATCH {
            self.hand_over(outlet).await?;
        }
        Ok(Ok(()))
    }

    /// Waits until the row is due. Rows of the past are due at once.
    async fn wait_for(&mut self, time_us: u64, outlet: &mut Outlet) -> anyhow::Result<()> {
        let Some(speed) = self.config.speed else { return Ok(()) };
        let (first_us, started) = *self.started.get_or_insert((time_us, Instant::now()));
        #[allow(clippy::cast_precision_loss)]
        let after = Duration::try_from_secs_f64(time_us.saturating_sub(first_us) as f64 / 1e6 / speed);
        let now = Instant::now();
        let due = after.ok().and_then(|after| started.checked_add(after));
        let Some(due) = due.filter(|due| *due <= now + MAX_GAP) else {
            // As it would be with a gap of nothing: from here on, this row is what the speed is measured from.
            info!(
                file = self.config.file,
                time_us, "the recorded clock steps by more than an hour of replay; going on at once"
            );
            self.started = Some((time_us, now));
            return Ok(());
        };
        if due > now {
            self.hand_over(outlet).await?;
            tokio::time::sleep_until(due).await;
        }
        Ok(())
    }

    async fn hand_over(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        let readings = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        Ok(outlet.hand_over(readings, Vec::new()).await?)
    }
}

fn open(path: &str) -> anyhow::Result<Box<dyn BufRead + Send>> {
    let file = BufReader::new(File::open(path)?);
    Ok(if path.ends_with(".gz") { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) })
}

/// Reads a line without its end. What is longer than a row may be is cut off, and then does not parse.
fn read_line(lines: &mut (impl BufRead + ?Sized), line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    if lines.take(limit).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else {
        lines.skip_until(b'\n')?;
    }
    Ok(true)
}

/// Timestamp in microseconds, channel, value.
fn parse(line: &[u8]) -> Result<(u64, &str, f64), String> {
    if line.len() >= MAX_LINE {
        return Err(format!("it has more than {MAX_LINE} bytes"));
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let mut columns = text.split(',');
    let (Some(time), Some(channel), Some(value), None) =
        (columns.next(), columns.next(), columns.next(), columns.next())
    else {
        return Err(format!("it has {} columns, not 3", text.split(',').count()));
    };
    let quoted = |text: &str| format!("`{}`", text.chars().take(32).collect::<String>().escape_debug());
    let time_us =
        microseconds(time).ok_or_else(|| format!("the timestamp {} is not a time in seconds", quoted(time)))?;
    let value = value.parse().map_err(|_| format!("the value {} is not a number", quoted(value)))?;
    Ok((time_us, channel, value))
}

/// Decimal seconds as microseconds, exactly: digits beyond the sixth are cut off, never rounded by a float.
fn microseconds(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) {
        return None;
    }
    let micros: u64 = format!("{fraction:0<6}")[..6].parse().ok()?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_microseconds_exactly() {
        assert_eq!(microseconds("1455494400"), Some(1_455_494_400_000_000));
        assert_eq!(microseconds("0.1"), Some(100_000));
        assert_eq!(microseconds("1.0000019"), Some(1_000_001));
        for bad in ["", ".5", "5.", "-1", "1e3", "nan", "99999999999999999999"] {
            assert_eq!(microseconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bad_row_says_what_is_wrong() {
        let check = |line: &str, expected: &str| {
            let error = parse(line.as_bytes()).expect_err("bad");
            assert!(error.contains(expected), "{error}");
        };
        check("1,a", "it has 2 columns, not 3");
        check("x,a,1", "the timestamp `x` is not a time in seconds");
        check("1,a,one", "the value `one` is not a number");
        check(&"x".repeat(5_000), "more than 4096 bytes");
        assert!(parse(&[b'1', b',', 0xff, b',', b'1']).expect_err("bad").contains("UTF-8"));
        assert_eq!(parse(b"1,a,2.5"), Ok((1_000_000, "a", 2.5)));
    }

    #[test]
    fn a_line_without_end_is_skipped_to_its_end() {
        let text = [&b"a\r\n"[..], &[b'x'; 10_000], b"\nlast"].concat();
        let mut lines = &text[..];
        let mut line = Vec::new();
        let mut lengths = Vec::new();
        while read_line(&mut lines, &mut line).expect("memory") {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [1, MAX_LINE, 4]);
    }
}
