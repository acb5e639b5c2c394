//! INA219: voltage, current and power. Texas Instruments SBOS448.
//!
//! It converts all the time, every 1.06 ms (table 5); a reading is the last one. It says who it is by what its configuration is after a reset.

use alloc::{boxed::Box, vec, vec::Vec};

use embedded_hal::{delay::DelayNs, i2c::I2c};
use ina219::{
    SyncIna219,
    address::Address,
    calibration::{Calibration, IntCalibration, MicroAmpere},
    errors::{InitializationErrorReason, MeasurementError},
};

use crate::{Channel, Chip, Error, Options, Place, Sensor, Setting, Wiring};

const CALIBRATION: Place = Place::register("calibration", 0x05);

const CONFIGURATION: Place = Place::register("configuration", 0x00);

/// What it holds after a reset (SBOS448 table 4).
const AFTER_RESET: u16 = 0x399f;

const SHUNT: Setting =
    Setting { name: "shunt", default: 0.1, bounds: (0.001, 10.0), meaning: "resistance of the shunt, in ohms" };

const CURRENT: Setting =
    Setting { name: "current", default: 3.2, bounds: (0.01, 320.0), meaning: "the most that is expected, in A" };

/// SBOS448 sections 7.3 and 7.5.
pub(crate) const INA219: Chip = Chip {
    name: "ina219",
    wiring: Wiring::I2c(&[
        0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f,
    ]),
    channels: &[
        Channel { name: "voltage", unit: "V", range: (0.0, 26.0) },
        Channel { name: "current", unit: "A", range: (-320.0, 320.0) },
        Channel { name: "power", unit: "W", range: (0.0, 8_320.0) },
    ],
    options: &[SHUNT, CURRENT],
};

pub(crate) struct Ina219<I> {
    share: Box<dyn Fn() -> I>,
    address: u8,
    shunt: f64,
    current: f64,
    /// With what the calibration register was told.
    driver: Option<(SyncIna219<I, IntCalibration>, u16)>,
}

impl<I: I2c> Ina219<I> {
    pub(crate) fn new<D: DelayNs>(share: impl Fn() -> I + 'static, address: u8, _: D, options: &Options) -> Self {
        Self { share: Box::new(share), address, shunt: options.of(&SHUNT), current: options.of(&CURRENT), driver: None }
    }
}

impl<I: I2c> Sensor for Ina219<I> {
    fn begin(&mut self) -> Result<(), Error> {
        let absurd = |what| Error::Absurd { at: CALIBRATION, what };
        // 15 bits of current (SBOS448 section 8.5.1), in whole µA.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // both are within their bounds
        let (lsb, shunt) = ((self.current * 1e6 / 32_768.0) as i64 + 1, (self.shunt * 1e6) as u32);
        let calibration = IntCalibration::new(MicroAmpere(lsb), shunt);
        let calibration = calibration.ok_or(absurd("shunt and current do not fit each other"))?;
        let address = Address::from_byte(self.address).map_err(|_| absurd("no INA219 has this address"))?;
        let driver = SyncIna219::new_calibrated((self.share)(), address, calibration);
        let driver = driver.map_err(|mut error| match error.reason {
            InitializationErrorReason::I2cError(error) => Error::i2c(CONFIGURATION, &error),
            InitializationErrorReason::ConfigurationNotDefaultAfterReset
            | InitializationErrorReason::RegisterNotZeroAfterReset(_)
            | InitializationErrorReason::ShuntVoltageOutOfRange
            | InitializationErrorReason::BusVoltageOutOfRange => {
                let mut found = [0; 2];
                let _ = error.device.write_read(self.address, &[0], &mut found);
                Error::Identity { at: CONFIGURATION, expected: AFTER_RESET, found: u16::from_be_bytes(found) }
            }
        })?;
        self.driver = Some((driver, calibration.register_bits()));
        Ok(())
    }

    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error> {
        const AT: Place = Place::register("bus voltage", 0x02);
        let (driver, told) = self.driver.as_mut().ok_or(Error::Absurd { at: AT, what: "it was not made ready" })?;
        // After a reset it computes no current, and says that none flows.
        let mut holds = [0; 2];
        let mut bus = (self.share)();
        bus.write_read(self.address, &[0x05], &mut holds).map_err(|error| Error::i2c(CALIBRATION, &error))?;
        if u16::from_be_bytes(holds) != *told {
            return Err(Error::Forgotten { at: CALIBRATION });
        }
        let measured = driver.next_measurement().map_err(|error| match error {
            MeasurementError::I2cError(error) => Error::i2c(AT, &error),
            MeasurementError::MathOverflow(_) => {
                Error::Absurd { at: AT, what: "more than `current` flows: its calculation overflowed" }
            }
            MeasurementError::ShuntVoltageReadError(_) | MeasurementError::BusVoltageReadError(_) => {
                Error::Absurd { at: AT, what: "a voltage beyond its range" }
            }
        })?;
        let Some(measured) = measured else { return Ok(None) };
        #[allow(clippy::cast_precision_loss)]
        let micro = |value: i64| value as f64 / 1e6;
        let volts = f64::from(measured.bus_voltage.voltage_mv()) / 1e3;
        let amperes = micro(measured.current.0);
        // As the chip does (section 8.5.1). Its register has no sign and 16 bits, where the driver takes one for the sign.
        Ok(Some(vec![volts, amperes, volts * amperes.abs()]))
    }
}
