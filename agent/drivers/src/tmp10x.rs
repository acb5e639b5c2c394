//! TMP102, TMP105 and LM75: thermometers that differ in what they can be told.
//!
//! Texas Instruments SBOS397 (TMP102), SBOS648 (TMP105), SNOS808 (LM75). They convert all the time; a reading is the last one,
//! at most 300 ms old. None of them says who it is: bits of the configuration that cannot be written stand for it.

use alloc::{vec, vec::Vec};

use embedded_hal::{delay::DelayNs, i2c::I2c};

use crate::{Channel, Chip, Error, Options, Place, Sensor, Wiring};

const TEMPERATURE: Place = Place::register("TEMPERATURE", 0x00);
const CONFIGURATION: Place = Place::register("CONFIGURATION", 0x01);

const CHANNELS: &[Channel] = &[Channel { name: "temperature", unit: "Cel", range: (-55.0, 128.0) }];

/// SBOS397 table 6-4.
pub(crate) const TMP102: Chip =
    Chip { name: "tmp102", wiring: Wiring::I2c(&[0x48, 0x49, 0x4a, 0x4b]), channels: CHANNELS, options: &[] };

/// SBOS648 table 12.
pub(crate) const TMP105: Chip = Chip {
    name: "tmp105",
    wiring: Wiring::I2c(&[0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f]),
    channels: CHANNELS,
    options: &[],
};

/// SNOS808 section 7.5.
pub(crate) const LM75: Chip = Chip {
    name: "lm75",
    wiring: Wiring::I2c(&[0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f]),
    channels: CHANNELS,
    options: &[],
};

/// What one of the family is told, and what it then says of itself.
#[derive(Clone, Copy)]
struct Model {
    /// Written to the configuration.
    configuration: &'static [u8],
    /// Bits of its first byte that say who it is.
    mask: u8,
    /// What they are.
    expected: u8,
}

pub(crate) struct Tmp10x<I> {
    i2c: I,
    address: u8,
    kind: Model,
}

impl<I: I2c> Tmp10x<I> {
    /// 12 bits, four conversions a second; R1 and R0 (bits 6 and 5) read as ones (SBOS397 section 6.5.3.5).
    pub(crate) fn tmp102<D: DelayNs>(share: impl Fn() -> I, address: u8, _: D, _: &Options) -> Self {
        Self { i2c: share(), address, kind: Model { configuration: &[0x60, 0xa0], mask: 0x60, expected: 0x60 } }
    }

    /// 12 bits rather than the 9 it starts with: R1 and R0 are bits 6 and 5 (SBOS648 table 8), and can be read back.
    pub(crate) fn tmp105<D: DelayNs>(share: impl Fn() -> I, address: u8, _: D, _: &Options) -> Self {
        Self { i2c: share(), address, kind: Model { configuration: &[0x60], mask: 0x7f, expected: 0x60 } }
    }

    /// Not shut down, a comparator; bits 7 to 5 are always zero (SNOS808 section 7.6.3).
    pub(crate) fn lm75<D: DelayNs>(share: impl Fn() -> I, address: u8, _: D, _: &Options) -> Self {
        Self { i2c: share(), address, kind: Model { configuration: &[0x00], mask: 0xff, expected: 0x00 } }
    }
}

impl<I: I2c> Sensor for Tmp10x<I> {
    fn begin(&mut self) -> Result<(), Error> {
        let Model { configuration, mask, expected } = self.kind;
        let failed = |error: I::Error| Error::i2c(CONFIGURATION, &error);
        let mut bytes = [1; 3];
        let bytes = &mut bytes[..=configuration.len()];
        bytes[1..].copy_from_slice(configuration);
        self.i2c.write(self.address, bytes).map_err(failed)?;
        let mut found = [0];
        self.i2c.write_read(self.address, &[0x01], &mut found).map_err(failed)?;
        if found[0] & mask != expected {
            return Err(Error::Identity { at: CONFIGURATION, expected: expected.into(), found: found[0].into() });
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error> {
        let mut bytes = [0; 2];
        let read = self.i2c.write_read(self.address, &[0x00], &mut bytes);
        read.map_err(|error| Error::i2c(TEMPERATURE, &error))?;
        Ok(Some(vec![celsius(bytes)]))
    }
}

/// Two's complement from the left, whatever the number of bits: 256 counts are 1 °C (SBOS397 table 6-2).
fn celsius(bytes: [u8; 2]) -> f64 {
    f64::from(i16::from_be_bytes(bytes)) / 256.0
}

#[cfg(test)]
mod tests {
    use super::celsius;

    #[test]
    fn the_datasheets_table_of_temperatures() {
        // SBOS397 table 6-2: 12 bits in hex.
        let table = [
            (0x7ff_u16, 127.9375),
            (0x640, 100.0),
            (0x500, 80.0),
            (0x4b0, 75.0),
            (0x320, 50.0),
            (0x190, 25.0),
            (0x004, 0.25),
            (0x000, 0.0),
            (0xffc, -0.25),
            (0xe70, -25.0),
            (0xc90, -55.0),
        ];
        for (bits, expected) in table {
            let bytes = (bits << 4).to_be_bytes();
            assert!((celsius(bytes) - expected).abs() < 1e-9, "{bits:#x}");
        }
    }
}
