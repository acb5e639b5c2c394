//! Standard output, whose reader may close it at any time: `porin ls | head -1`.

use std::io::{ErrorKind, Result, StdoutLock, Write};

use anyhow::Context;

/// Standard output. After its reader has closed it, output is discarded, and the command ends as it would have.
#[derive(Debug)]
pub(crate) struct Output(StdoutLock<'static>);

pub(crate) fn stdout() -> Output {
    Output(std::io::stdout().lock())
}

pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    stdout().write_all(text.as_bytes()).context("writing to standard output")
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes).or_else(|error| if_open(error, bytes.len()))
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush().or_else(|error| if_open(error, ()))
    }
}

fn if_open<T>(error: std::io::Error, discarded: T) -> Result<T> {
    if error.kind() == ErrorKind::BrokenPipe { Ok(discarded) } else { Err(error) }
}
