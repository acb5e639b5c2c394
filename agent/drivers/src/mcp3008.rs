//! MCP3008: eight analogue inputs of 10 bits on SPI. Microchip DS21295.
//!
//! It converts while it is asked, in some tens of microseconds. It cannot say who it is; a null bit that is not zero shows that nobody answers.

use alloc::vec::Vec;

use embedded_hal::spi::SpiDevice;

use crate::{Channel, Chip, Error, Options, Place, Sensor, Setting, Wiring};

const REFERENCE: Setting =
    Setting { name: "reference", default: 3.3, bounds: (0.25, 5.5), meaning: "voltage at VREF, in V" };

const fn input(name: &'static str) -> Channel {
    Channel { name, unit: "V", range: (0.0, 5.5) }
}

/// DS21295 section 1.0.
pub(crate) const MCP3008: Chip = Chip {
    name: "mcp3008",
    // At 2.7 V (DS21295 section 1.0); at 5 V more than twice as much.
    wiring: Wiring::Spi(1_350_000),
    channels: &[
        input("ch0"),
        input("ch1"),
        input("ch2"),
        input("ch3"),
        input("ch4"),
        input("ch5"),
        input("ch6"),
        input("ch7"),
    ],
    options: &[REFERENCE],
};

pub(crate) struct Mcp3008<S> {
    spi: S,
    reference: f64,
}

impl<S: SpiDevice> Mcp3008<S> {
    pub(crate) fn new(spi: S, options: &Options) -> Self {
        Self { spi, reference: options.of(&REFERENCE) }
    }

    /// DS21295 figure 6-1: a start bit, then SGL/DIFF and D2 to D0; a null bit comes back, and ten of data.
    fn input(&mut self, number: u8) -> Result<u16, Error> {
        const AT: Place = Place::step("conversion");
        let mut bytes = [0x01, 0x80 | number << 4, 0x00];
        self.spi.transfer_in_place(&mut bytes).map_err(|error| Error::spi(AT, &error))?;
        if bytes[1] & 0x04 != 0 {
            return Err(Error::Absurd { at: AT, what: "its null bit is one: no answer" });
        }
        Ok(u16::from(bytes[1] & 0x03) << 8 | u16::from(bytes[2]))
    }
}

impl<S: SpiDevice> Sensor for Mcp3008<S> {
    fn begin(&mut self) -> Result<(), Error> {
        self.input(0).map(drop)
    }

    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error> {
        let reference = self.reference;
        // DS21295 equation 4-2.
        let volts = (0..8).map(|number| self.input(number).map(|code| f64::from(code) * reference / 1024.0));
        volts.collect::<Result<_, _>>().map(Some)
    }
}
