//! What the agent says while a table is on the screen: kept, and shown under the table.

use std::{
    collections::VecDeque,
    io::{IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::Level;
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::failure::{Exit, Failure};

/// Lines that are kept.
const LINES: usize = 4;

/// The last lines, or nothing where they go to stderr at once.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    /// Takes what the agent logs; `live`: a table is on the screen.
    pub(super) fn start(live: bool) -> anyhow::Result<Self> {
        let log = Self::default();
        let level = porind::log_level().map_err(|message| Failure { exit: Exit::Usage, message, hint: None })?;
        let level = level.unwrap_or(if live { Level::WARN } else { Level::INFO });
        let filter = Targets::new().with_target("porind", level).with_default(Level::WARN);
        let layer = fmt::layer().with_target(false);
        if live {
            let layer = layer.with_ansi(false).with_writer(log.clone());
            tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
        } else {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = layer.with_ansi(colours).with_writer(std::io::stderr);
            tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
        }
        Ok(log)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in String::from_utf8_lossy(bytes).lines() {
            lines.push_back(line.to_owned());
        }
        while lines.len() > LINES {
            lines.pop_front();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
