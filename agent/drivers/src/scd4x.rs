//! SCD40 and SCD41: carbon dioxide, temperature and humidity. Sensirion, "SCD4x" datasheet.
//!
//! It measures by itself every 5 seconds (section 3.6); asked more often it has no data. Calls take some milliseconds, `begin` half a second.

use alloc::{vec, vec::Vec};

use embedded_hal::{delay::DelayNs, i2c::I2c};

use crate::{Channel, Chip, Error, Options, Place, Sensor, Setting, Wiring};

const ALTITUDE: Setting =
    Setting { name: "altitude", default: 0.0, bounds: (0.0, 3_000.0), meaning: "metres above the sea (section 3.7)" };

/// Section 1, and section 2 for temperature and humidity. There is but one address.
pub(crate) const SCD4X: Chip = Chip {
    name: "scd4x",
    wiring: Wiring::I2c(&[0x62]),
    channels: &[
        Channel { name: "co2", unit: "ppm", range: (1.0, 40_000.0) },
        Channel { name: "temperature", unit: "Cel", range: (-10.0, 60.0) },
        Channel { name: "humidity", unit: "%RH", range: (0.0, 100.0) },
    ],
    options: &[ALTITUDE],
};

pub(crate) struct Scd4x<I, D> {
    driver: scd4x::Scd4x<I, D>,
    altitude: u16,
}

impl<I: I2c, D: DelayNs> Scd4x<I, D> {
    pub(crate) fn new(share: impl Fn() -> I, _: u8, delay: D, options: &Options) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within its bounds
        let altitude = options.of(&ALTITUDE) as u16;
        Self { driver: scd4x::Scd4x::new(share(), delay), altitude }
    }
}

fn failed<E: embedded_hal::i2c::Error>(at: Place) -> impl Fn(scd4x::Error<E>) -> Error {
    move |error| match error {
        scd4x::Error::I2c(error) => Error::i2c(at, &error),
        scd4x::Error::Crc => Error::Checksum { at },
        scd4x::Error::SelfTest | scd4x::Error::NotAllowed | scd4x::Error::Internal => {
            Error::Absurd { at, what: "it refuses what it was told" }
        }
    }
}

impl<I: I2c, D: DelayNs> Sensor for Scd4x<I, D> {
    fn begin(&mut self) -> Result<(), Error> {
        // It may still measure from before: then it takes nothing else (table 9).
        let stop = failed(Place::register("stop_periodic_measurement", 0x3f86));
        self.driver.stop_periodic_measurement().map_err(stop)?;
        self.driver.serial_number().map_err(failed(Place::register("get_serial_number", 0x3682)))?;
        let altitude = failed(Place::register("set_sensor_altitude", 0x2427));
        self.driver.set_altitude(self.altitude).map_err(altitude)?;
        let start = failed(Place::register("start_periodic_measurement", 0x21b1));
        self.driver.start_periodic_measurement().map_err(start)
    }

    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error> {
        let ready = failed(Place::register("get_data_ready_status", 0xe4b8));
        if !self.driver.data_ready_status().map_err(ready)? {
            return Ok(None);
        }
        let raw = self.driver.sensor_output().map_err(failed(Place::register("read_measurement", 0xec05)))?;
        // Section 3.6.2.
        let part = |raw: u16| f64::from(raw) / 65_535.0;
        Ok(Some(vec![raw.co2.into(), -45.0 + 175.0 * part(raw.temperature), 100.0 * part(raw.humidity)]))
    }
}
