//! Capability `log`: lines for the operator, bounded in number and length, without control characters.

use porin_core::fault::{BadOutput, Fault};
use wasmi::{Caller, Error, Func, Memory};

use super::{Capability, Host, HostFault};
use crate::abi;

pub(crate) const CAPABILITY: Capability = Capability {
    grant: "log",
    interface: "porin:cell/log@0.1.0",
    functions: &[("log", |store, memory| {
        Func::wrap(
            store,
            move |caller: Caller<'_, Host>,
                  level: u32,
                  context: u32,
                  context_len: u32,
                  message: u32,
                  message_len: u32| {
                log(caller, memory, level, (context, context_len), (message, message_len))
            },
        )
    })],
};

/// A line that a cell logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// Where in the cell, by the cell's own words.
    pub context: String,
    /// What happened, by the cell's own words.
    pub message: String,
}

/// How much a line matters. The cases are those of `log` in `wit/filter.wit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

const LEVELS: [Level; 6] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical];

fn log(
    mut caller: Caller<'_, Host>,
    memory: Option<Memory>,
    level: u32,
    context: (u32, u32),
    message: (u32, u32),
) -> Result<(), Error> {
    write(&mut caller, memory, |bytes, limit| read(bytes, level, context, message, limit))
}

/// Keeps a line, unless the call has logged enough.
pub(super) fn write(
    caller: &mut Caller<'_, Host>,
    memory: Option<Memory>,
    read: impl FnOnce(&[u8], usize) -> Result<LogLine, Fault>,
) -> Result<(), Error> {
    caller.data().leave()?;
    if caller.data().log.len() >= caller.data().limits.log_lines_per_call {
        caller.data_mut().log_lines_dropped += 1;
        return Ok(());
    }
    let limit = caller.data().limits.text_bytes;
    let bytes = memory.map_or(&[][..], |memory| memory.data(&*caller));
    let line = read(bytes, limit).map_err(|fault| Error::host(HostFault(fault)))?;
    caller.data_mut().log.push(line);
    Ok(())
}

fn read(bytes: &[u8], level: u32, context: (u32, u32), message: (u32, u32), limit: usize) -> Result<LogLine, Fault> {
    let no_such_level = || Fault::BadOutput(BadOutput::NoSuchCase { what: "log level", value: level });
    let level = usize::try_from(level).ok().and_then(|level| LEVELS.get(level)).ok_or_else(no_such_level)?;
    let text = |what, (pointer, len)| abi::text(bytes, what, pointer, len, limit).map(printable);
    Ok(LogLine { level: *level, context: text("log context", context)?, message: text("log message", message)? })
}

/// The text without what would move an operator's cursor or start a line that the agent did not write.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
