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
            self.own_stream(&stream, "input", &mut seen)?;
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

    /// A stream of one part of a source, and of no other of its parts.
    pub(super) fn own_stream(&self, raw: &Spanned<String>, part: &str, seen: &mut BTreeSet<String>) -> Checked<()> {
        let stream = raw.get_ref();
        if let Err(error) = check_name(stream) {
            return self.fail(raw.span(), format!("stream `{stream}`: it has {error}"));
        }
        match seen.insert(stream.clone()) {
            true => Ok(()),
            false => self.fail(raw.span(), format!("stream `{stream}`: another {part} has it")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, SourceKind, tests::refuses};

    const ASKED: &str = r##"
[gateway]
id = "kitchen"

[uplink]
broker = "mqtt://localhost"

[sources.box.sensor]
bus = "/dev/i2c-1"
[[sources.box.sensor.chips]]
chip = "bme280"
address = 0x77
every = "10s"
streams = "box/{channel}"
options = { altitude = 300 }

[sources.kernel.sysfs]
inputs = [
    { hwmon = "cpu_thermal/temp1", stream = "cpu" },
    { iio = "bme280/in_temp", stream = "roof" },
    { w1 = "28-0316a4b2d9ff", stream = "boiler", every = "1min" },
    { file = "/sys/x", stream = "other" },
]

[streams.boiler]
calibration = { scale = 1.01, offset = -0.5, polynomial = [0.0, 1.0] }
"##;

    #[test]
    fn what_is_asked_has_a_place_a_rhythm_and_a_stream() {
        let config = Config::parse(ASKED).expect("it is good");
        let SourceKind::Sensor(sensor) = &config.gateway.sources[0].kind else { panic!("{config:?}") };
        let chip = WiredChip {
            chip: "bme280".into(),
            address: Some(0x77),
            every_us: 10_000_000,
            streams: "box/{channel}".into(),
            options: vec![("altitude".into(), 300.0)],
        };
        assert_eq!((sensor.bus.as_str(), &sensor.chips), ("/dev/i2c-1", &vec![chip]));
        let SourceKind::Sysfs(sysfs) = &config.gateway.sources[1].kind else { panic!("{config:?}") };
        let places: Vec<_> = sysfs.inputs.iter().map(|input| (input.place.clone(), input.every_us)).collect();
        assert_eq!(places[0], (SysfsPlace::Hwmon("cpu_thermal".into(), "temp1".into()), 1_000_000));
        assert_eq!(places[2], (SysfsPlace::OneWire("28-0316a4b2d9ff".into()), 60_000_000));
        let calibration = Calibration { scale: 1.01, offset: -0.5, polynomial: vec![0.0, 1.0] };
        assert_eq!(config.gateway.streams["boiler"].calibration, Some(calibration));

        let check = |old: &str, new: &str, expected: &str| refuses(ASKED, old, new, expected);
        check("/dev/i2c-1", "i2c-1", "line 9: bus `i2c-1`: /dev/i2c-N or /dev/spidevN.M");
        check("/dev/i2c-1", "/dev/spidev0.0", "line 12: address: a chip on SPI has none");
        check("0x77", "0x78", "line 12: address 0x78: 0x08 to 0x77");
        check("0x77", "300", "line 12");
        check("10s", "1ms", "line 13: every: 10ms to 1d");
        check("box/{channel}", "a/b/c/{channel}", "line 14: streams `a/b/c/{channel}`");
        check("options =", "option =", "did you mean `options`?");
        check("cpu_thermal/temp1", "cpu_thermal", "line 19: hwmon `cpu_thermal`: DEVICE/CHANNEL, such as");
        check("bme280/in_temp", "../in_temp", "line 20: iio `../in_temp`");
        check("28-0316a4b2d9ff", "../../etc/x", "line 21: w1 `../../etc/x`");
        check("/sys/x", "sys/x", "line 22: file `sys/x`: an absolute path");
        check("file = \"/sys/x\",", "", "line 22: an input is one of `hwmon`, `iio`, `w1` and `file`");
        check("stream = \"other\"", "stream = \"cpu\"", "line 22: stream `cpu`: another input has it");
        check("offset = -0.5", "offset = nan", "line 26: calibration: every number must be finite");
        check("[0.0, 1.0]", "[0, 0, 0, 0, 0, 0, 0, 0, 1]", "line 26: polynomial: at most 8 coefficients");
    }
}
