//! BME280: temperature, pressure and humidity. Bosch BST-BME280-DS002.
//!
//! One conversion at a time (forced mode, section 3.3.3), each quantity once, no filter: "weather monitoring" of section 3.5.1. It takes 40 ms,
//! of which the chip needs 9.3 (section 9.1).

use alloc::{vec, vec::Vec};

use bme280::{Configuration, i2c::BME280 as Driver};
use embedded_hal::{delay::DelayNs, i2c::I2c};

use crate::{Channel, Chip, Error, Options, Place, Sensor, Wiring};

const CTRL: Place = Place::register("ctrl_hum", 0xf2);

/// Each quantity once, asleep between two conversions (sections 5.4.3 and 5.4.5).
const CTRL_HUM: u8 = 0x01;
const CTRL_MEAS: u8 = 0x24;

const ID: Place = Place::register("id", 0xd0);

/// What `id` holds (section 5.4.1). A BMP280 has 0x58, and no humidity.
const CHIP_ID: u8 = 0x60;

/// Section 1, tables 2 to 4. The driver stops at the ends of the range of the chip: what stands there is beyond it.
pub(crate) const BME280: Chip = Chip {
    name: "bme280",
    wiring: Wiring::I2c(&[0x76, 0x77]),
    channels: &[
        Channel { name: "temperature", unit: "Cel", range: (-39.99, 84.99) },
        Channel { name: "pressure", unit: "Pa", range: (30_001.0, 109_999.0) },
        Channel { name: "humidity", unit: "%RH", range: (0.0, 100.0) },
    ],
    options: &[],
};

pub(crate) struct Bme280<I, D> {
    i2c: I,
    address: u8,
    driver: Driver<I>,
    delay: D,
}

impl<I: I2c, D: DelayNs> Bme280<I, D> {
    pub(crate) fn new(share: impl Fn() -> I, address: u8, delay: D, _: &Options) -> Self {
        Self { driver: Driver::new(share(), address), i2c: share(), address, delay }
    }
}

fn failed<E: embedded_hal::i2c::Error>(at: Place) -> impl Fn(bme280::Error<E>) -> Error {
    move |error| match error {
        bme280::Error::Bus(error) => Error::i2c(at, &error),
        bme280::Error::CompensationFailed
        | bme280::Error::InvalidData
        | bme280::Error::NoCalibrationData
        | bme280::Error::UnsupportedChip
        | bme280::Error::Delay => Error::Absurd { at, what: "no calibration fits it" },
    }
}

impl<I: I2c, D: DelayNs> Sensor for Bme280<I, D> {
    fn begin(&mut self) -> Result<(), Error> {
        let mut found = [0];
        self.i2c.write_read(self.address, &[0xd0], &mut found).map_err(|error| Error::i2c(ID, &error))?;
        if found[0] != CHIP_ID {
            return Err(Error::Identity { at: ID, expected: CHIP_ID.into(), found: found[0].into() });
        }
        let calibration = failed(Place::register("calib00", 0x88));
        self.driver.init_with_config(&mut self.delay, Configuration::default()).map_err(calibration)
    }

    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error> {
        // After a reset it would measure nothing, and say what looks like a warm room: ctrl_hum, status, ctrl_meas.
        let mut told = [0; 3];
        self.i2c.write_read(self.address, &[0xf2], &mut told).map_err(|error| Error::i2c(CTRL, &error))?;
        if told[0] & 0x07 != CTRL_HUM || told[2] != CTRL_MEAS {
            return Err(Error::Forgotten { at: CTRL });
        }
        let measured = self.driver.measure(&mut self.delay).map_err(failed(Place::register("press_msb", 0xf7)))?;
        let of = |value: f32| f64::from(value);
        Ok(Some(vec![of(measured.temperature), of(measured.pressure), of(measured.humidity)]))
    }
}
