//! What becomes of the lines that a cell logs: bounded in bytes a second, and sent where the slot says.

use porin_cell::{Level, LogLine};
use porin_core::{
    config::{LogTo, Slot as Config},
    rate::Bucket,
    time::Monotonic,
};
use tracing::{debug, error, info, trace, warn};

/// Lines that wait to be written or published. The loop takes them after each step.
const MAX_LINES: usize = 64;

/// A line that is not for the journal.
#[derive(Debug)]
pub(crate) struct LogEntry {
    pub(crate) level: Level,
    pub(crate) context: String,
    pub(crate) message: String,
}

/// What a line counts for besides its text: what stands around it in a journal or as JSON.
const LINE_BYTES: u64 = 128;

/// Where a slot's lines go, and how many may.
pub(super) struct SlotLog {
    slot: String,
    to: LogTo,
    rate: Bucket,
    lines: Vec<LogEntry>,
    /// Beyond what a call or a second may bring, or what can wait.
    pub(super) dropped: u64,
    /// Of them, those for which there was no room to wait.
    pub(super) unwritten: u64,
}

impl SlotLog {
    pub(super) fn new(config: &Config) -> Self {
        let rate = Bucket::new(config.limits.log_bytes_per_s);
        Self { slot: config.name.clone(), to: config.log.clone(), rate, lines: Vec::new(), dropped: 0, unwritten: 0 }
    }

    /// Writes what a cell has logged. `dropped`: lines that it logged besides.
    pub(super) fn write(&mut self, lines: Vec<LogLine>, dropped: u64, now: Monotonic) {
        self.dropped += dropped;
        for LogLine { level, context, message } in lines {
            if !self.rate.take(LINE_BYTES + (context.len() + message.len()) as u64, now) {
                self.dropped += 1;
                continue;
            }
            match &self.to {
                LogTo::Journal => self.to_journal(level, &context, &message),
                LogTo::File(_) | LogTo::Mqtt(_) if self.lines.len() >= MAX_LINES => {
                    self.dropped += 1;
                    self.unwritten += 1;
                }
                LogTo::File(_) | LogTo::Mqtt(_) => self.lines.push(LogEntry { level, context, message }),
            }
        }
    }

    fn to_journal(&self, level: Level, context: &str, message: &str) {
        let slot = &self.slot;
        match level {
            Level::Trace => trace!(slot, context, "{message}"),
            Level::Debug => debug!(slot, context, "{message}"),
            Level::Info => info!(slot, context, "{message}"),
            Level::Warn => warn!(slot, context, "{message}"),
            Level::Error | Level::Critical => error!(slot, context, "{message}"),
        }
    }

    /// Gives lines away in order, until `take` does not take one: slot, where to, what.
    pub(super) fn take(&mut self, mut take: impl FnMut(&str, &LogTo, &LogEntry) -> bool) {
        let taken = self.lines.iter().take_while(|line| take(&self.slot, &self.to, line)).count();
        self.lines.drain(..taken);
    }
}
