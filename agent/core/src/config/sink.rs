//! Where a route ends besides the uplink: what the gateway does by itself, whether there is a cloud or not.

use alloc::{boxed::Box, string::String};

use super::{Broker, LinkConfig, TopicTemplate};
use crate::words::Word;

/// The name by which routes mean the uplink.
pub const UPLINK: &str = "uplink";

/// A local end of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Its name in the configuration.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
}

impl SinkKind {
    /// The broker that it connects to, if there is one.
    #[must_use]
    pub const fn broker(&self) -> Option<&Broker> {
        match self {
            Self::Mqtt(local) => Some(&local.link.broker),
            Self::File(_) | Self::Gpio(_) => None,
        }
    }
}

/// A file that is renamed when it is full, and another begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotatedFile {
    /// The newest; older ones have `.1`, `.2` and so on at the end.
    pub path: String,
    /// Bytes of each.
    pub max_bytes: u64,
    /// How many older ones are kept.
    pub keep: u32,
}

/// Every kind of sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// Packets as lines of JSON; when the file is full, it is renamed and another begins.
    File(RotatedFile),
    /// A line whose level follows what a cell decides.
    Gpio(OutputLine),
    /// A broker beside the gateway.
    Mqtt(Box<LocalBroker>),
}

/// A broker whose subscribers act on packets now: what is too old is not published any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalBroker {
    /// How it is reached.
    pub link: LinkConfig,
    /// Where each packet is published; the gateway stands in it already.
    pub topic: TopicTemplate,
    /// Whether the broker keeps the last packet of each topic for whoever subscribes later.
    pub retain: bool,
    /// What is published of a packet.
    pub payload: LocalPayload,
    /// A packet that has waited for longer is given up, in microseconds; `None`: only when there are too many.
    pub expire_us: Option<u64>,
}

/// What a local broker gets of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalPayload {
    /// All that is known of it, as JSON.
    #[default]
    Json,
    /// A reading's value as text, a message's own payload.
    Value,
}

impl LocalPayload {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 2] = [("json", Self::Json), ("value", Self::Value)];
}

/// A line of a GPIO chip that is an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputLine {
    /// Which.
    pub line: GpioLine,
    /// The level while a decision says so (a value other than 0); the other one while it says 0.
    pub on: Level,
    /// The level while there is no decision: at the start and at the end, and when it is of no value or too old.
    pub safe: Level,
    /// How long a decision counts, in microseconds; `None`: until the next one.
    pub hold_us: Option<u64>,
}

/// A line of a GPIO chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpioLine {
    /// By the name that the kernel has for it, such as `GPIO17`.
    Named(String),
    /// By its chip and its number there.
    Numbered(String, u32),
}

/// Of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Level {
    #[default]
    Low,
    High,
}

impl Level {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }
}

impl Word for Level {
    const WORDS: &'static [(&'static str, Self)] = &[("low", Self::Low), ("high", Self::High)];
}
