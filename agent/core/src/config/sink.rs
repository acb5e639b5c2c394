//! Where a route ends besides the uplink: what the gateway does by itself, whether there is a cloud or not.

use alloc::string::String;

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
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 2] = [("low", Self::Low), ("high", Self::High)];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High => "high",
        }
    }
}
