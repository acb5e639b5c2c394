//! The live table, the lines where there is no terminal, and the summary at the end: all from a status snapshot.

use std::{fmt::Write as _, io::Write as _};

use console::{Term, truncate_str};
use serde_json::Value;

use super::log::Log;

/// Lines besides streams and slots: heads, outbox, log.
const OTHER_LINES: usize = 12;

/// What is on the screen.
pub(super) struct Table {
    term: Option<Term>,
    log: Log,
    /// Lines on the screen, to be replaced, and for which width they were cut.
    drawn: usize,
    width: usize,
}

impl Table {
    /// A table on a terminal, or lines.
    pub(super) fn new(term: Option<Term>, log: Log) -> Self {
        Self { term, log, drawn: 0, width: 0 }
    }

    pub(super) fn is_live(&self) -> bool {
        self.term.is_some()
    }

    /// Shows a snapshot in place of the last one.
    pub(super) fn show(&mut self, status: &Value) -> anyhow::Result<()> {
        let Some(term) = &self.term else {
            return Ok(writeln!(std::io::stdout(), "{}", line(status))?);
        };
        let (height, width) = term.size();
        let (height, width) = (usize::from(height), usize::from(width));
        let mut text = tables(status, height.saturating_sub(OTHER_LINES).max(4));
        for line in self.log.lines() {
            let _ = writeln!(text, "{line}");
        }
        // Narrower than before: the terminal may have folded what is there.
        if width == self.width || self.drawn == 0 {
            term.clear_last_lines(self.drawn)?;
        } else {
            term.clear_screen()?;
        }
        // A line less than there is room for: a last one would scroll.
        let lines: Vec<_> = text.lines().take(height.saturating_sub(1)).collect();
        for line in &lines {
            term.write_line(&truncate_str(line, width.saturating_sub(1), "…"))?;
        }
        (self.drawn, self.width) = (lines.len(), width);
        Ok(())
    }

    /// Says something below what is there.
    pub(super) fn say(&mut self, text: &str) -> anyhow::Result<()> {
        match &self.term {
            Some(term) => term.write_line(text)?,
            None => eprintln!("{text}"),
        }
        self.drawn = 0;
        Ok(())
    }

    /// Leaves the screen for the summary.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        if let Some(term) = &self.term {
            term.clear_last_lines(self.drawn)?;
        }
        self.drawn = 0;
        Ok(())
    }
}

fn count(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

#[allow(clippy::cast_precision_loss)] // for the eyes
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Packets that sources made, and that routes forwarded.
fn totals(status: &Value) -> (u64, u64) {
    let sum = |key: &str, field: &str| list(status, key).iter().map(|item| count(item, field)).sum();
    (sum("sources", "/received"), sum("routes", "/forwarded"))
}

/// What the packets that were not sent would have taken, at the bytes that those sent took.
fn saved_bytes(status: &Value) -> u64 {
    let (received, forwarded) = totals(status);
    let bytes = count(status, "/uplink/bytes");
    bytes.checked_div(forwarded).unwrap_or(0).saturating_mul(received.saturating_sub(forwarded))
}

/// A snapshot in one line, for a file.
fn line(status: &Value) -> String {
    let (received, forwarded) = totals(status);
    let connected = if status["uplink"]["connected"] == true { "connected" } else { "no connection" };
    format!(
        "{} s: {received} packets in, {forwarded} forwarded, {} bytes sent, {} waiting, {connected}",
        count(status, "/uptime_s"),
        count(status, "/uplink/bytes"),
        count(status, "/outbox/waiting"),
    )
}

/// The tables; at most `rows` streams and slots together.
fn tables(status: &Value, rows: usize) -> String {
    let mut text = format!("{}\n\n{}", line(status), streams(status, rows));
    let _ = write!(text, "\n{}", slots(status));
    let _ = write!(text, "\n{}{}", outbox(status), saved(status));
    text
}

/// What was sent, and what was not.
fn saved(status: &Value) -> String {
    let (received, forwarded) = totals(status);
    let (sent, saved) = (count(status, "/uplink/bytes"), saved_bytes(status));
    format!(
        "{received} packets in, {forwarded} forwarded in {} publishes of {sent} bytes; about {saved} bytes saved at the same batching ({:.0} %)\n",
        count(status, "/uplink/publishes"),
        ratio(saved, saved + sent) * 100.0,
    )
}

fn streams(status: &Value, rows: usize) -> String {
    let mut text = format!("{:<40} {:>12} {:>12} {:>8}\n", "stream", "raw", "forwarded", "kept");
    let streams: Vec<_> = list(status, "streams")
        .iter()
        .filter(|stream| count(stream, "/received") + count(stream, "/forwarded") > 0)
        .collect();
    for stream in streams.iter().take(rows) {
        let (received, forwarded) = (count(stream, "/received"), count(stream, "/forwarded"));
        let name = stream["name"].as_str().unwrap_or_default();
        let kept = match received {
            0 => "-".into(),
            received => format!("{:.1} %", ratio(forwarded, received) * 100.0),
        };
        let _ = writeln!(text, "{name:<40} {received:>12} {forwarded:>12} {kept:>8}");
    }
    if streams.len() > rows {
        let _ = writeln!(text, "… and {} more streams", streams.len() - rows);
    }
    text
}

fn slots(status: &Value) -> String {
    let slots: Vec<_> = list(status, "routes").iter().flat_map(|route| list(route, "slots")).collect();
    if slots.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "{:<27} {:>12} {:>12} {:>12} {:>12} {:>8}\n",
        "cell in slot", "in", "out", "fuel/packet", "µs/packet", "faults"
    );
    for slot in slots {
        let input = count(slot, "/processed").max(1);
        let _ = writeln!(
            text,
            "{:<27} {:>12} {:>12} {:>12} {:>12.2} {:>8}",
            slot["name"].as_str().unwrap_or_default(),
            count(slot, "/input"),
            count(slot, "/output"),
            count(slot, "/fuel") / input,
            ratio(count(slot, "/nanoseconds"), input) / 1_000.0,
            count(slot, "/faults"),
        );
    }
    text
}

fn outbox(status: &Value) -> String {
    let number = |field: &str| count(status, &format!("/outbox/{field}"));
    format!(
        "outbox: {} waiting, {} acknowledged, {} given up, {} dead letters\n",
        number("waiting"),
        number("acknowledged"),
        number("evicted") + number("expired"),
        number("dead_lettered")
    )
}

/// The end of the story.
pub(super) fn summary(status: &Value) -> String {
    let mut text = format!("{}\n{}\n{}{}", streams(status, 20), slots(status), outbox(status), saved(status));
    for wrong in list(status, "imbalance") {
        let _ = writeln!(text, "warning: {}", wrong.as_str().unwrap_or_default());
    }
    text
}
