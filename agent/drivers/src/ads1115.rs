//! ADS1115: four analogue inputs of 16 bits. Texas Instruments SBAS444.
//!
//! Each input is converted for itself, 128 times a second (section 8.1.6): all four take some 40 ms. It cannot say who it is.

use alloc::{vec, vec::Vec};

use ads1x1x::{Ads1x1x, FullScaleRange, TargetAddr, channel, ic, mode};
use embedded_hal::{delay::DelayNs, i2c::I2c};

use crate::{Channel, Chip, Error, Options, Place, Sensor, Setting, Wiring};

const CONFIG: Place = Place::register("Config", 0x01);

/// How long one conversion is waited for: four times as long as it takes.
const PATIENCE_MS: u32 = 32;

const FULL_SCALE: Setting = Setting {
    name: "full_scale",
    default: 4.096,
    bounds: (0.256, 6.144),
    meaning: "the largest voltage, in V: the next larger of 0.256, 0.512, 1.024, 2.048, 4.096, 6.144 (table 8-3)",
};

const fn input(name: &'static str) -> Channel {
    Channel { name, unit: "V", range: (-0.3, 5.8) }
}

/// SBAS444 section 6.
pub(crate) const ADS1115: Chip = Chip {
    name: "ads1115",
    wiring: Wiring::I2c(&[0x48, 0x49, 0x4a, 0x4b]),
    channels: &[input("a0"), input("a1"), input("a2"), input("a3")],
    options: &[FULL_SCALE],
};

const RANGES: [(FullScaleRange, f64); 6] = [
    (FullScaleRange::Within0_256V, 0.256),
    (FullScaleRange::Within0_512V, 0.512),
    (FullScaleRange::Within1_024V, 1.024),
    (FullScaleRange::Within2_048V, 2.048),
    (FullScaleRange::Within4_096V, 4.096),
    (FullScaleRange::Within6_144V, 6.144),
];

type Driver<I> = Ads1x1x<I, ic::Ads1115, ic::Resolution16Bit, mode::OneShot>;

pub(crate) struct Ads1115<I, D> {
    driver: Driver<I>,
    delay: D,
    range: (FullScaleRange, f64),
}

impl<I: I2c, D: DelayNs> Ads1115<I, D> {
    pub(crate) fn new(share: impl Fn() -> I, address: u8, delay: D, options: &Options) -> Self {
        let target = match address {
            0x49 => TargetAddr::Vdd,
            0x4a => TargetAddr::Sda,
            0x4b => TargetAddr::Scl,
            _ => TargetAddr::Gnd,
        };
        let wanted = options.of(&FULL_SCALE);
        let range = RANGES.into_iter().find(|(_, volts)| wanted <= *volts).unwrap_or(RANGES[5]);
        Self { driver: Ads1x1x::new_ads1115(share(), target), delay, range }
    }

    fn input(
        &mut self,
        read: impl Fn(&mut Driver<I>) -> nb::Result<i16, ads1x1x::Error<I::Error>>,
    ) -> Result<f64, Error> {
        for _ in 0..=PATIENCE_MS {
            match read(&mut self.driver) {
                // Table 8-3: full scale is 2^15 counts.
                Ok(count) => return Ok(f64::from(count) * self.range.1 / 32_768.0),
                Err(nb::Error::WouldBlock) => self.delay.delay_ms(1),
                Err(nb::Error::Other(error)) => return Err(failed(error)),
            }
        }
        Err(Error::Busy { at: CONFIG, after_ms: PATIENCE_MS })
    }
}

fn failed<E: embedded_hal::i2c::Error>(error: ads1x1x::Error<E>) -> Error {
    match error {
        ads1x1x::Error::I2C(error) => Error::i2c(CONFIG, &error),
        ads1x1x::Error::InvalidInputData => Error::Absurd { at: CONFIG, what: "it refuses what it was told" },
    }
}

impl<I: I2c, D: DelayNs> Sensor for Ads1115<I, D> {
    fn begin(&mut self) -> Result<(), Error> {
        self.driver.set_full_scale_range(self.range.0).map_err(failed)
    }

    fn measure(&mut self) -> Result<Option<Vec<f64>>, Error> {
        Ok(Some(vec![
            self.input(|driver| driver.read(channel::SingleA0))?,
            self.input(|driver| driver.read(channel::SingleA1))?,
            self.input(|driver| driver.read(channel::SingleA2))?,
            self.input(|driver| driver.read(channel::SingleA3))?,
        ]))
    }
}
