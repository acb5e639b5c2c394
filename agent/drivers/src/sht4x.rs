//! SHT40, SHT41, SHT45: temperature and humidity. Sensirion, "Datasheet SHT4x".
//!
//! A measurement of high precision takes up to 8.3 ms (table 5). It says who it is by a serial number with a checksum.

use alloc::{vec, vec::Vec};

use embedded_hal::{delay::DelayNs, i2c::I2c};
use sht4x::{Address, Precision};

use crate::{Channel, Chip, Error, Options, Place, Sensor, Wiring};

/// Sections 3.1 and 3.2.
pub(crate) const SHT4X: Chip = Chip {
    name: "sht4x",
    wiring: Wiring::I2c(&[0x44, 0x45, 0x46]),
    channels: &[
        Channel { name: "temperature", unit: "Cel", range: (-40.0, 125.0) },
        Channel { name: "humidity", unit: "%RH", range: (0.0, 100.0) },
    ],
    options: &[],
};

pub(crate) struct Sht4x<I, D> {
    driver: sht4x::Sht4x<I, D>,
    delay: D,
}

impl<I: I2c, D: DelayNs> Sht4x<I, D> {
    pub(crate) fn new(share: impl Fn() -> I, address: u8, delay: D, _: &Options) -> Self {
        let address = match address {
            0x45 => Address::Address0x45,
            0x46 => Address::Address0x46,
            _ => Address::Address0x44,
        };
        Self { driver: sht4x::Sht4x::new_with_address(share(), address), delay }
    }
}

fn failed<E: embedded_hal::i2c::Error>(at: Place) -> impl Fn(sht4x::Error<E>) -> Error {
    move |error| match error {
        sht4x::Error::I2c(error) => Error::i2c(at, &error),
        sht4x::Error::Crc => Error::Checksum { at },
        _ => Error::Absurd { at, what: "the driver refuses it" },
    }
}

impl<I: I2c, D: DelayNs> Sensor for Sht4x<I, D> {
    fn begin(&mut self) -> Result<(), Error> {
        self.driver.serial_number(&mut self.delay).map(drop).map_err(failed(Place::register("serial number", 0x89)))
    }

    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error> {
        const AT: Place = Place::register("measure, high precision", 0xfd);
        let measured = self.driver.measure_raw(Precision::High, &mut self.delay).map_err(failed(AT))?;
        // Section 4.6. Humidity beyond 0 and 100 can come at the ends, and is cut off there.
        let part = |raw: u16| f64::from(raw) / 65_535.0;
        let temperature = -45.0 + 175.0 * part(measured.temperature);
        let humidity = (-6.0 + 125.0 * part(measured.humidity)).clamp(0.0, 100.0);
        Ok(Some(vec![temperature, humidity]))
    }
}
