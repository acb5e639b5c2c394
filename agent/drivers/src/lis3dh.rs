//! LIS3DH: acceleration on three axes. STMicroelectronics DocID17530.
//!
//! It measures all the time, 100 times a second, with 12 bits (high-resolution mode, section 3.2.1); a reading is the last one.

use alloc::{boxed::Box, vec, vec::Vec};
use core::convert::Infallible;

use embedded_hal::{delay::DelayNs, i2c::I2c};
use lis3dh::{
    Configuration, DataRate, Error as DriverError, Lis3dh as Driver, Lis3dhI2C, Range, SlaveAddr,
    accelerometer::RawAccelerometer,
};

use crate::{Channel, Chip, Error, Options, Place, Sensor, Setting, Wiring};

const WHO_AM_I: Place = Place::register("WHO_AM_I", 0x0f);

/// What it holds (section 8.6).
const ITS_NAME: u8 = 0x33;

const STATUS: Place = Place::register("STATUS_REG", 0x27);

const OUT: Place = Place::register("OUT_X_L", 0x28);

const CTRL: Place = Place::register("CTRL_REG4", 0x23);

const FULL_SCALE: Setting = Setting {
    name: "full_scale",
    default: 2.0,
    bounds: (0.0, 16.0),
    meaning: "the largest acceleration, in g: the next larger of 2, 4, 8, 16 (table 35)",
};

/// Full scale in g, and what a count is in thousandths of one (table 4, high-resolution mode).
const RANGES: [(f64, Range, f64); 4] =
    [(2.0, Range::G2, 1.0), (4.0, Range::G4, 2.0), (8.0, Range::G8, 4.0), (16.0, Range::G16, 12.0)];

/// Metres per second squared (3rd CGPM, 1901).
const STANDARD_GRAVITY: f64 = 9.806_65;

const fn axis(name: &'static str) -> Channel {
    // 16 g, where 12 bits of 12 mg reach 24.6.
    Channel { name, unit: "m/s2", range: (-157.0, 157.0) }
}

/// DocID17530 sections 2.1 and 6.1.1.
pub(crate) const LIS3DH: Chip = Chip {
    name: "lis3dh",
    wiring: Wiring::I2c(&[0x18, 0x19]),
    channels: &[axis("x"), axis("y"), axis("z")],
    options: &[FULL_SCALE],
};

pub(crate) struct Lis3dh<I> {
    share: Box<dyn Fn() -> I>,
    address: u8,
    range: (f64, Range, f64),
    driver: Option<Driver<Lis3dhI2C<I>>>,
}

impl<I: I2c> Lis3dh<I> {
    pub(crate) fn new<D: DelayNs>(share: impl Fn() -> I + 'static, address: u8, _: D, options: &Options) -> Self {
        let wanted = options.of(&FULL_SCALE);
        let range = RANGES.into_iter().find(|(most, ..)| wanted <= *most).unwrap_or(RANGES[3]);
        Self { share: Box::new(share), address, range, driver: None }
    }
}

fn failed<E: embedded_hal::i2c::Error>(at: Place) -> impl Fn(DriverError<E, Infallible>) -> Error {
    move |error| match error {
        DriverError::Bus(error) => Error::i2c(at, &error),
        DriverError::Pin(never) => match never {},
        DriverError::InvalidDataRate
        | DriverError::InvalidMode
        | DriverError::InvalidRange
        | DriverError::WriteToReadOnly
        | DriverError::WrongAddress => Error::Absurd { at, what: "it holds what it was never told" },
    }
}

impl<I: I2c> Sensor for Lis3dh<I> {
    fn begin(&mut self) -> Result<(), Error> {
        let mut found = [0];
        let mut bus = (self.share)();
        bus.write_read(self.address, &[0x0f], &mut found).map_err(|error| Error::i2c(WHO_AM_I, &error))?;
        if found[0] != ITS_NAME {
            return Err(Error::Identity { at: WHO_AM_I, expected: ITS_NAME.into(), found: found[0].into() });
        }
        let address = if self.address == 0x19 { SlaveAddr::Alternate } else { SlaveAddr::Default };
        let setting = Configuration { datarate: DataRate::Hz_100, ..Configuration::default() };
        let mut driver = Driver::new_i2c_with_config(bus, address, setting).map_err(failed(CTRL))?;
        driver.set_range(self.range.1).map_err(failed(CTRL))?;
        self.driver = Some(driver);
        Ok(())
    }

    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error> {
        let driver = self.driver.as_mut().ok_or(Error::Absurd { at: OUT, what: "it was not made ready" })?;
        if !driver.is_data_ready().map_err(failed(STATUS))? {
            return Ok(None);
        }
        let axes = driver.accel_raw().map_err(|error| match error.cause() {
            Some(DriverError::Bus(error)) => Error::i2c(OUT, error),
            Some(_) | None => Error::Absurd { at: OUT, what: "no axes" },
        })?;
        // 12 bits, at the upper end of 16.
        let metres = |raw: i16| f64::from(raw >> 4) * self.range.2 / 1_000.0 * STANDARD_GRAVITY;
        Ok(Some(vec![metres(axes.x), metres(axes.y), metres(axes.z)]))
    }
}
