//! Reads sensor chips through embedded-hal 1.0. Knows nothing of porin.
//!
//! One file for each family of chips: its [`Chip`] (what it measures, how it is wired, what can be set) and a [`Sensor`] made on a
//! bus. Calls block for as long as the chip converts, which its file says. Kept crates do the work where they exist; what
//! they do not tell (which chip it is, what is beyond its range) is added here.
//!
//! | word | meaning |
//! |---|---|
//! | chip | a kind of sensor, by the name that is printed on it, in lower case |
//! | channel | one quantity that a chip measures |
//! | no data | a chip that has nothing new yet: an ordinary outcome, not an error |

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod ads1115;
mod bme280;
mod chips;
mod ina219;
mod lis3dh;
mod mcp3008;
mod scd4x;
mod sht4x;
mod tmp10x;

use alloc::{string::String, vec::Vec};
use core::fmt;

use embedded_hal::{i2c, spi};

pub use self::chips::{CHIPS, NoSuchChip, chip, open_i2c, open_spi};

/// A chip on a bus.
pub trait Sensor {
    /// Makes sure that it is the chip it should be, and makes it ready. Called before the first measurement and after every
    /// failure: a chip that was without power has forgotten what it was told.
    ///
    /// # Errors
    /// If it does not answer, or another chip does.
    fn begin(&mut self) -> Result<(), Error>;

    /// Measures every channel, in the order of [`Chip::channels`]. `None`: it has no data yet.
    ///
    /// # Errors
    /// If it does not answer, or what it says cannot be right.
    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error>;
}

/// A kind of chip.
#[derive(Debug)]
pub struct Chip {
    /// As it is printed on the chip, in lower case.
    pub name: &'static str,
    /// How it is wired.
    pub wiring: Wiring,
    /// What it measures.
    pub channels: &'static [Channel],
    /// What can be set.
    pub options: &'static [Setting],
}

/// How a chip is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// On I²C, at one of these addresses; the first unless it is wired otherwise.
    I2c(&'static [u8]),
    /// On SPI, mode 0, at most at this clock in Hz.
    Spi(u32),
}

/// One quantity that a chip measures.
#[derive(Debug)]
pub struct Channel {
    /// A name within the chip.
    pub name: &'static str,
    /// SenML unit symbol (RFC 8428).
    pub unit: &'static str,
    /// What the chip can measure, by its datasheet; beyond it (or, where the chip stops there, at it) a value means nothing.
    pub range: (f64, f64),
}

impl Channel {
    /// Whether a value is one that the chip can measure.
    #[must_use]
    pub fn is_within(&self, value: f64) -> bool {
        self.range.0 <= value && value <= self.range.1
    }
}

/// Something that can be set.
#[derive(Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What holds unless it is set.
    pub default: f64,
    /// From the least to the most.
    pub bounds: (f64, f64),
    /// What it is, with its unit.
    pub meaning: &'static str,
}

/// What was set: names and values. What is not among them has its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(pub Vec<(String, f64)>);

impl Options {
    /// The value of a setting.
    fn of(&self, setting: &Setting) -> f64 {
        let set = self.0.iter().find(|(name, _)| name == setting.name);
        set.map_or(setting.default, |(_, value)| *value)
    }

    /// Whether a chip has all of these settings, and they are within their bounds.
    ///
    /// # Errors
    /// The first that is not, in words.
    pub fn fit(&self, chip: &Chip) -> Result<(), String> {
        for (name, value) in &self.0 {
            let Some(setting) = chip.options.iter().find(|setting| setting.name == name) else {
                let known = chip.options.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ");
                return Err(alloc::format!("{} has no option `{name}` (known: {known})", chip.name));
            };
            if !(setting.bounds.0 <= *value && *value <= setting.bounds.1) {
                let (Setting { bounds: (least, most), meaning, .. }, chip) = (setting, chip.name);
                return Err(alloc::format!("option {name} = {value} of {chip}: {least} to {most} ({meaning})"));
            }
        }
        Ok(())
    }
}

/// Where in a chip something went wrong: a register with its address, or what was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The datasheet's name.
    pub name: &'static str,
    /// Its address or command.
    pub address: Option<u16>,
}

impl Place {
    const fn register(name: &'static str, address: u16) -> Self {
        Self { name, address: Some(address) }
    }

    const fn step(name: &'static str) -> Self {
        Self { name, address: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "register {} ({address:#04x})", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// Why there is no measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The chip did not answer as the bus wants it.
    #[error("{at}: {what}")]
    Bus {
        /// Where.
        at: Place,
        /// What the bus says.
        what: &'static str,
    },
    /// It is another chip, or none.
    #[error("{at} holds {found:#06x}, not {expected:#06x}: is it another chip?")]
    Identity {
        /// Where it says who it is.
        at: Place,
        /// What this chip says.
        expected: u16,
        /// What this one says.
        found: u16,
    },
    /// What came does not have the checksum that came with it.
    #[error("{at}: the checksum is wrong")]
    Checksum {
        /// Where.
        at: Place,
    },
    /// It did not end its conversion.
    #[error("{at}: still busy after {after_ms} ms")]
    Busy {
        /// Where it says so.
        at: Place,
        /// How long it was waited for.
        after_ms: u32,
    },
    /// It does not hold any more what it was told.
    #[error("{at} does not hold what it was told: was the chip without power?")]
    Forgotten {
        /// Where.
        at: Place,
    },
    /// What it says cannot be.
    #[error("{at}: what it says cannot be: {what}")]
    Absurd {
        /// Where.
        at: Place,
        /// What.
        what: &'static str,
    },
}

impl Error {
    fn i2c(at: Place, error: &impl i2c::Error) -> Self {
        use i2c::{ErrorKind, NoAcknowledgeSource};
        let what = match error.kind() {
            ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address) => "no acknowledge of its address",
            ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data) => "no acknowledge of data",
            ErrorKind::NoAcknowledge(_) => "no acknowledge",
            ErrorKind::ArbitrationLoss => "arbitration was lost",
            ErrorKind::Bus => "the bus is stuck",
            ErrorKind::Overrun => "the bus was overrun",
            // Linux has no code of its own for it: the driver of a Raspberry Pi says EREMOTEIO.
            ErrorKind::Other | _ => "no answer",
        };
        Self::Bus { at, what }
    }

    fn spi(at: Place, error: &impl spi::Error) -> Self {
        let what = match error.kind() {
            spi::ErrorKind::Overrun => "the bus was overrun",
            spi::ErrorKind::ModeFault => "another master is on the bus",
            spi::ErrorKind::FrameFormat | spi::ErrorKind::ChipSelectFault | spi::ErrorKind::Other | _ => {
                "the bus failed"
            }
        };
        Self::Bus { at, what }
    }
}

#[cfg(test)]
mod tests;
