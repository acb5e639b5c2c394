//! Sources that are asked (chips, what the kernel measures), and what corrects what they say.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};

use toml::Spanned;

use super::{Checked, Parser, raw};
use crate::{
    calibration::{Calibration, MAX_COEFFICIENTS},
    config::{SensorSource, SysfsInput, SysfsPlace, SysfsSource, WiredChip},
    stream::check_name,
};

/// What a bus bears, and more than anything that is measured on one changes.
const MIN_EVERY_US: u64 = 10_000;

/// Longer than a day is never.
const MAX_EVERY_US: u64 = 86_400_000_000;

impl Parser<'_> {
    pub(super) fn sensor(&self, name: &Spanned<String>, raw: raw::Sensor) -> Checked<SensorSource> {
        let bus = raw.bus.get_ref();
        if !bus.starts_with("/dev/i2c-") && !bus.starts_with("/dev/spidev") {
            return self.fail(raw.bus.span(), format!("bus `{bus}`: /dev/i2c-N or /dev/spidevN.M"));
        }
        if raw.chips.is_empty() {
            return self.fail(name.span(), format!("source `{}` names no chips", name.get_ref()));
        }
        let is_spi = bus.starts_with("/dev/spidev");
        let mut seen = BTreeSet::new();
        let mut chips = Vec::new();
        for raw::Chip { chip, address, every, streams, options } in raw.chips {
            if let (true, Some(address)) = (is_spi, &address) {
                return self.fail(address.span(), "address: a chip on SPI has none, its bus is its own".into());
            }
            if let Some(address) = &address
                && !(0x08..=0x77).contains(address.get_ref())
            {
                return self.fail(address.span(), format!("address {:#04x}: 0x08 to 0x77", address.get_ref()));
            }
            let template = streams.get_ref();
            if let Err(error) = check_name(&template.replace("{channel}", "c")) {
                return self.fail(streams.span(), format!("streams `{template}`: it has {error}"));
            }
            if !seen.insert(template.clone()) {
                return self.fail(streams.span(), format!("streams `{template}`: another chip has them"));
            }
            chips.push(WiredChip {
                every_us: self.every(every.as_ref())?,
                chip: chip.into_inner(),
                address: address.map(Spanned::into_inner),
                streams: streams.into_inner(),
                options: options.into_iter().collect(),
            });
        }
        Ok(SensorSource { bus: raw.bus.into_inner(), chips })
    }

    pub(super) fn sysfs(&self, name: &Spanned<String>, raw: raw::Sysfs) -> Checked<SysfsSource> {
        if raw.inputs.is_empty() {
            return self.fail(name.span(), format!("source `{}` names no inputs", name.get_ref()));
        }
        let mut seen = BTreeSet::new();
        let mut inputs = Vec::new();
        for raw::SysfsInput { hwmon, iio, w1, file, every, stream } in raw.inputs {
            let place = match (hwmon, iio, w1, file) {
                (Some(hwmon), None, None, None) => {
                    let (device, channel) = self.device_and_channel("hwmon", "cpu_thermal/temp1", &hwmon)?;
                    SysfsPlace::Hwmon(device, channel)
                }
                (None, Some(iio), None, None) => {
                    let (device, channel) = self.device_and_channel("iio", "bme280/in_temp", &iio)?;
                    SysfsPlace::Iio(device, channel)
                }
                (None, None, Some(w1), None) if is_file_name(w1.get_ref()) => SysfsPlace::OneWire(w1.into_inner()),
                (None, None, Some(w1), None) => {
                    return self.fail(w1.span(), format!("w1 `{}`: an id such as 28-0316a4b2d9ff", w1.get_ref()));
                }
                (None, None, None, Some(file)) if file.get_ref().starts_with('/') => {
                    SysfsPlace::File(file.into_inner())
                }
                (None, None, None, Some(file)) => {
                    return self.fail(file.span(), format!("file `{}`: an absolute path", file.get_ref()));
                }
                _ => return self.fail(stream.span(), "an input is one of `hwmon`, `iio`, `w1` and `file`".into()),
            };
            if let Err(error) = check_name(stream.get_ref()) {
                return self.fail(stream.span(), format!("stream `{}`: it has {error}", stream.get_ref()));
            }
            if !seen.insert(stream.get_ref().clone()) {
                return self.fail(stream.span(), format!("stream `{}`: another input has it", stream.get_ref()));
            }
            inputs.push(SysfsInput { place, every_us: self.every(every.as_ref())?, stream: stream.into_inner() });
        }
        Ok(SysfsSource { inputs })
    }

    /// `DEVICE/CHANNEL`: two names of files, so that nothing leads elsewhere.
    fn device_and_channel(&self, what: &str, example: &str, raw: &Spanned<String>) -> Checked<(String, String)> {
        match raw.get_ref().split_once('/') {
            Some((device, channel)) if is_file_name(device) && is_file_name(channel) => {
                Ok((device.into(), channel.into()))
            }
            _ => self.fail(raw.span(), format!("{what} `{}`: DEVICE/CHANNEL, such as {example}", raw.get_ref())),
        }
    }

    pub(super) fn every(&self, raw: Option<&Spanned<String>>) -> Checked<u64> {
        match self.time(raw, "1s")? {
            every_us @ MIN_EVERY_US..=MAX_EVERY_US => Ok(every_us),
            _ => self.fail(raw.map_or(0..0, Spanned::span), "every: 10ms to 1d".into()),
        }
    }

    pub(super) fn calibration(&self, raw: Spanned<raw::Calibration>) -> Checked<Calibration> {
        let span = raw.span();
        let raw::Calibration { scale, offset, polynomial } = raw.into_inner();
        let (scale, offset) = (scale.unwrap_or(1.0), offset.unwrap_or(0.0));
        if polynomial.len() > MAX_COEFFICIENTS {
            return self.fail(span, format!("polynomial: at most {MAX_COEFFICIENTS} coefficients"));
        }
        if ![scale, offset].iter().chain(&polynomial).all(|number| number.is_finite()) {
            return self.fail(span, "calibration: every number must be finite".into());
        }
        Ok(Calibration { scale, offset, polynomial })
    }
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0'])
}
