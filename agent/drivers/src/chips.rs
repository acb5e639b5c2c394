//! The list of chips. A new one is a file and a line here.

use alloc::boxed::Box;

use embedded_hal::{delay::DelayNs, i2c::I2c, spi::SpiDevice};

use crate::{Chip, Options, Sensor, ads1115, bme280, ina219, lis3dh, mcp3008, scd4x, sht4x, tmp10x};

/// There is no such chip on this kind of bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such chip on this kind of bus")]
pub struct NoSuchChip;

macro_rules! chips {
    (i2c { $($i2c:path => $make_i2c:path,)* } spi { $($spi:path => $make_spi:path,)* }) => {
        /// Every chip.
        pub const CHIPS: &[&Chip] = &[$(&$i2c,)* $(&$spi,)*];

        /// A chip on I²C, of which `share` gives a further handle. Nothing is said on the bus before [`Sensor::begin`].
        ///
        /// # Errors
        /// If there is no such chip on I²C.
        pub fn open_i2c<I, D>(
            name: &str,
            share: impl Fn() -> I + 'static,
            address: u8,
            delay: D,
            options: &Options,
        ) -> Result<Box<dyn Sensor>, NoSuchChip>
        where
            I: I2c + 'static,
            D: DelayNs + 'static,
        {
            $(if name == $i2c.name {
                return Ok(Box::new($make_i2c(share, address, delay, options)));
            })*
            Err(NoSuchChip)
        }

        /// A chip on SPI. Nothing is said on the bus before [`Sensor::begin`].
        ///
        /// # Errors
        /// If there is no such chip on SPI.
        pub fn open_spi<S>(name: &str, spi: S, options: &Options) -> Result<Box<dyn Sensor>, NoSuchChip>
        where
            S: SpiDevice + 'static,
        {
            $(if name == $spi.name {
                return Ok(Box::new($make_spi(spi, options)));
            })*
            Err(NoSuchChip)
        }
    };
}

chips! {
    i2c {
        ads1115::ADS1115 => ads1115::Ads1115::new,
        bme280::BME280 => bme280::Bme280::new,
        ina219::INA219 => ina219::Ina219::new,
        lis3dh::LIS3DH => lis3dh::Lis3dh::new,
        tmp10x::LM75 => tmp10x::Tmp10x::lm75,
        scd4x::SCD4X => scd4x::Scd4x::new,
        sht4x::SHT4X => sht4x::Sht4x::new,
        tmp10x::TMP102 => tmp10x::Tmp10x::tmp102,
        tmp10x::TMP105 => tmp10x::Tmp10x::tmp105,
    }
    spi {
        mcp3008::MCP3008 => mcp3008::Mcp3008::new,
    }
}

/// A chip by its name.
#[must_use]
pub fn chip(name: &str) -> Option<&'static Chip> {
    CHIPS.iter().copied().find(|chip| chip.name == name)
}
