//! The live table, the lines where there is no terminal, and the summary at the end: all from a status snapshot.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    io::Write as _,
    time::Instant,
};

use console::{Term, truncate_str};
use porin_core::{
    health::State,
    status::{SlotStatus, Snapshot, StreamStatus},
};

use super::{
    keyboard::{Keyboard, Scroll},
    log::Log,
    values::Values,
};

/// Lines besides streams and slots: heads, outbox, log.
const OTHER_LINES: usize = 12;

/// Streams that are shown even in a low window.
const MIN_ROWS: usize = 4;

/// Snapshots over which rates are computed: five seconds.
const SNAPSHOTS: usize = 10;

/// What is on the screen.
pub(super) struct Table {
    term: Option<Term>,
    log: Log,
    /// Lines on the screen, to be replaced, and for which width they were cut.
    drawn: usize,
    width: usize,
    values: Values,
    rates: Rates,
    keyboard: Option<Keyboard>,
    /// The first stream that is shown.
    first: usize,
}

/// How many packets each stream had when, oldest first.
#[derive(Default)]
struct Rates(VecDeque<(Instant, HashMap<String, u64>)>);

impl Rates {
    fn take(&mut self, status: &Snapshot) {
        let counts = status.streams.iter().map(|stream| (stream.name.clone(), stream.received));
        self.0.push_back((Instant::now(), counts.collect()));
        if self.0.len() > SNAPSHOTS {
            self.0.pop_front();
        }
    }

    /// Packets a second of a stream.
    #[allow(clippy::cast_precision_loss)] // for the eyes
    fn of(&self, stream: &str) -> f64 {
        let (Some((then, before)), Some((now, after))) = (self.0.front(), self.0.back()) else { return 0.0 };
        let (before, after) = (before.get(stream).unwrap_or(&0), after.get(stream).unwrap_or(&0));
        let seconds = now.duration_since(*then).as_secs_f64();
        if seconds > 0.0 { after.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

impl Table {
    /// A table on a terminal, or lines.
    pub(super) fn new(term: Option<Term>, log: Log) -> Self {
        let keyboard = term.as_ref().and_then(|_| Keyboard::listen());
        let (values, rates) = (Values::default(), Rates::default());
        Self { term, log, drawn: 0, width: 0, values, rates, keyboard, first: 0 }
    }

    /// Shows the current values of streams from now on.
    pub(super) fn follow(&mut self, values: Values) {
        self.values = values;
    }

    pub(super) fn is_live(&self) -> bool {
        self.term.is_some()
    }

    /// Shows a snapshot in place of the last one.
    pub(super) fn show(&mut self, status: &Snapshot) -> anyhow::Result<()> {
        let Some(term) = &self.term else {
            return Ok(writeln!(crate::output::stdout(), "{}", line(status))?);
        };
        let (height, width) = term.size();
        let (height, width) = (usize::from(height), usize::from(width));
        self.rates.take(status);
        let slots = slots(status);
        let rows = height.saturating_sub(OTHER_LINES + slots.lines().count()).max(MIN_ROWS);
        let pressed = self.keyboard.iter().flat_map(Keyboard::pressed);
        self.first = pressed.fold(self.first, |first, key| scrolled(first, key, rows, active(status).len()));
        let streams = live(status, self.first, rows, &self.values, &self.rates);
        let mut text = format!("{}\n\n{streams}\n{slots}\n{}{}", line(status), outbox(status), saved(status));
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
        self.keyboard = None;
        Ok(())
    }
}

/// The first stream to show after a key, with this many rows for this many streams.
fn scrolled(first: usize, key: Scroll, rows: usize, streams: usize) -> usize {
    let to = match key {
        Scroll::Up => first.saturating_sub(1),
        Scroll::Down => first + 1,
        Scroll::PageUp => first.saturating_sub(rows),
        Scroll::PageDown => first + rows,
        Scroll::Start => 0,
        Scroll::End => streams,
    };
    to.min(streams.saturating_sub(rows))
}

#[allow(clippy::cast_precision_loss)] // for the eyes
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Packets that sources made; copies of them that came to routes, and that routes forwarded.
fn totals(status: &Snapshot) -> (u64, u64, u64) {
    let received = status.sources.iter().map(|source| source.received).sum();
    let routed = status.routes.iter().map(|route| route.received).sum();
    (received, routed, status.routes.iter().map(|route| route.forwarded).sum())
}

/// What the copies that were not sent would have taken, at the bytes that those sent took.
fn saved_bytes(status: &Snapshot) -> u64 {
    let (_, routed, forwarded) = totals(status);
    status.uplink.bytes.checked_div(forwarded).unwrap_or(0).saturating_mul(routed.saturating_sub(forwarded))
}

/// A snapshot in one line, for a file.
fn line(status: &Snapshot) -> String {
    let (received, _, forwarded) = totals(status);
    let connected = if status.uplink.connected { "connected" } else { "no connection" };
    format!(
        "{} s: {received} packets in, {forwarded} forwarded, {} bytes sent, {} waiting, {connected}",
        status.uptime_s, status.uplink.bytes, status.outbox.waiting,
    )
}

/// What was sent, and what was not.
fn saved(status: &Snapshot) -> String {
    let (received, routed, forwarded) = totals(status);
    let (sent, saved) = (status.uplink.bytes, saved_bytes(status));
    format!(
        "{received} packets in; routes kept {forwarded} of {routed}; {} publishes of {sent} bytes\n\
         about {saved} bytes saved at the same batching ({:.0} %)\n",
        status.uplink.publishes,
        ratio(saved, saved + sent) * 100.0,
    )
}

/// Streams that had a packet.
fn active(status: &Snapshot) -> Vec<&StreamStatus> {
    status.streams.iter().filter(|stream| stream.received + stream.forwarded > 0).collect()
}

fn kept(stream: &StreamStatus) -> String {
    match stream.received {
        0 => "-".into(),
        received => format!("{:.1} %", ratio(stream.forwarded, received) * 100.0),
    }
}

/// `rows` streams from the `first` on with what they do now, in 80 columns.
fn live(status: &Snapshot, first: usize, rows: usize, values: &Values, rates: &Rates) -> String {
    let mut text = format!("{:<32} {:>10} {:>8} {:>8}  last 16 values\n", "stream", "value", "per s", "kept");
    let streams = active(status);
    for stream in streams.iter().skip(first).take(rows) {
        let name = stream.name.as_str();
        let (value, sparkline) = values.of(name);
        let rate = rates.of(name);
        let rate = if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
        let _ = writeln!(
            text,
            "{:<32} {value:>10} {rate:>8} {:>8}  {sparkline}",
            truncate_str(name, 32, "…"),
            kept(stream)
        );
    }
    if streams.len() > rows {
        let last = streams.len().min(first + rows);
        let _ = writeln!(text, "{} to {last} of {} streams; arrows and page keys scroll", first + 1, streams.len());
    }
    text
}

fn streams(status: &Snapshot, rows: usize) -> String {
    let mut text = format!("{:<40} {:>12} {:>12} {:>8}\n", "stream", "raw", "forwarded", "kept");
    let streams = active(status);
    for stream in streams.iter().take(rows) {
        let StreamStatus { name, received, forwarded } = stream;
        let _ = writeln!(text, "{name:<40} {received:>12} {forwarded:>12} {:>8}", kept(stream));
    }
    if streams.len() > rows {
        let _ = writeln!(text, "… and {} more streams", streams.len() - rows);
    }
    text
}

fn slots(status: &Snapshot) -> String {
    let slots: Vec<_> = status.routes.iter().flat_map(|route| &route.slots).collect();
    if slots.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "{:<27} {:>10} {:>10} {:>11} {:>9} {:>6}\n",
        "cell in slot", "in", "out", "fuel/packet", "µs/packet", "faults"
    );
    for slot in slots {
        let SlotStatus { name, input, output, faults, .. } = slot;
        let processed = slot.processed.max(1);
        let _ = writeln!(
            text,
            "{:<27} {:>10} {:>10} {:>11} {:>9.2} {:>6}",
            truncate_str(name, 27, "…"),
            input,
            output,
            slot.fuel / processed,
            ratio(slot.nanoseconds, processed) / 1_000.0,
            faults,
        );
    }
    text
}

fn outbox(status: &Snapshot) -> String {
    let outbox = &status.outbox;
    format!(
        "outbox: {} waiting, {} acknowledged, {} discarded, {} dead letters\n",
        outbox.waiting,
        outbox.acknowledged,
        outbox.evicted + outbox.expired,
        outbox.dead_lettered
    )
}

/// The end of the story.
pub(super) fn summary(status: &Snapshot) -> String {
    format!("{}\n{}\n{}{}", streams(status, 20), slots(status), outbox(status), saved(status))
}

/// What went wrong, for the end and the exit code.
pub(super) fn problems(status: &Snapshot) -> Vec<String> {
    let mut problems = status.imbalance.clone();
    for slot in status.routes.iter().flat_map(|route| &route.slots) {
        if slot.state == State::Quarantined {
            let fault = slot.last_fault.as_deref().unwrap_or_default();
            problems.push(format!("slot `{}` is in quarantine: {fault}", slot.name));
        }
    }
    for source in &status.sources {
        if let (0, Some(error)) = (source.received, &source.last_error) {
            problems.push(format!("source `{}` gave nothing: {error}", source.name));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use porin_core::status::{RouteStatus, SourceStatus, UplinkStatus};

    use super::*;

    #[test]
    fn copies_for_two_routes_are_not_counted_as_two_packets() {
        let route = |forwarded| RouteStatus { received: 100, forwarded, ..RouteStatus::default() };
        let status = Snapshot {
            sources: vec![SourceStatus { received: 100, ..SourceStatus::default() }],
            routes: vec![route(100), route(10)],
            uplink: UplinkStatus { bytes: 1100, publishes: 5, ..UplinkStatus::default() },
            ..Snapshot::default()
        };
        let text = saved(&status);
        assert!(text.starts_with("100 packets in; routes kept 110 of 200; 5 publishes of 1100 bytes\n"), "{text}");
        assert!(text.contains("about 900 bytes saved"), "{text}");
    }

    #[test]
    fn a_cell_in_quarantine_and_a_source_that_gave_nothing_are_problems() {
        let slot = SlotStatus {
            name: "odd".into(),
            state: State::Quarantined,
            last_fault: Some("trap".into()),
            ..SlotStatus::default()
        };
        let silent =
            SourceStatus { name: "a".into(), last_error: Some("no such file".into()), ..SourceStatus::default() };
        let status = Snapshot {
            sources: vec![silent, SourceStatus { name: "b".into(), received: 1, ..SourceStatus::default() }],
            routes: vec![RouteStatus { slots: vec![slot], ..RouteStatus::default() }],
            ..Snapshot::default()
        };
        let expected = ["slot `odd` is in quarantine: trap", "source `a` gave nothing: no such file"];
        assert_eq!(problems(&status), expected);
    }
}
