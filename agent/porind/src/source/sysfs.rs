//! Source `sysfs`: what the kernel measures itself (hwmon, IIO, 1-wire), and other files with a number.
//!
//! The kernel's own ABI says what a file's number means: `Documentation/hwmon/sysfs-interface.rst`,
//! `Documentation/ABI/testing/sysfs-bus-iio`, `Documentation/w1/slaves/w1_therm.rst`. Devices are found by their names. Reading may block (a
//! 1-wire thermometer converts for 750 ms), so it is done on a thread.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use porin_core::{
    config::{SysfsInput, SysfsPlace, SysfsSource as Config},
    packet::Quality,
};

use super::{
    Outlet,
    polled::{Answer, Part, Polled, Sample, Worker},
};

/// Bytes of a file: a number has some tens.
const MAX_BYTES: u64 = 128;

/// The source with its counters.
pub(crate) struct Sysfs {
    config: Config,
    polled: Polled,
}

impl Sysfs {
    pub(crate) fn new(config: Config) -> Self {
        let parts = config.inputs.iter().map(|input| Part {
            name: name(&input.place),
            every_us: input.every_us,
            streams: vec![input.stream.clone()],
        });
        Self { polled: Polled::new(parts.collect()), config }
    }

    /// Runs for ever.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        let places: Vec<_> = self.config.inputs.iter().map(|input| input.place.clone()).collect();
        let mut worker = Worker::start(move || move |part: usize| answer(Path::new("/sys"), &places[part]))?;
        self.polled.run(outlet, async |part| worker.ask(part).await).await
    }
}

/// The unit of an input, where the kernel says what it measures.
pub(crate) fn unit(input: &SysfsInput) -> Option<(String, &'static str)> {
    let quantity = match &input.place {
        SysfsPlace::Hwmon(_, channel) => hwmon(channel),
        SysfsPlace::Iio(_, channel) => iio(channel),
        SysfsPlace::OneWire(_) => Some(("Cel", 1e-3)),
        SysfsPlace::File(_) => None,
    };
    quantity.map(|(unit, _)| (input.stream.clone(), unit))
}

fn name(place: &SysfsPlace) -> String {
    match place {
        SysfsPlace::Hwmon(device, channel) => format!("hwmon {device}/{channel}"),
        SysfsPlace::Iio(device, channel) => format!("iio {device}/{channel}"),
        SysfsPlace::OneWire(id) => format!("w1 {id}"),
        SysfsPlace::File(path) => path.clone(),
    }
}

fn answer(sys: &Path, place: &SysfsPlace) -> Answer {
    let value = match place {
        SysfsPlace::Hwmon(device, channel) => {
            let folder = find(&sys.join("class/hwmon"), device)?;
            number(&folder.join(format!("{channel}_input")))? * hwmon(channel).map_or(1.0, |(_, factor)| factor)
        }
        SysfsPlace::Iio(device, channel) => {
            let folder = find(&sys.join("bus/iio/devices"), device)?;
            processed(&folder, channel)? * iio(channel).map_or(1.0, |(_, factor)| factor)
        }
        SysfsPlace::OneWire(id) => number(&sys.join("bus/w1/devices").join(id).join("temperature"))? * 1e-3,
        SysfsPlace::File(path) => number(Path::new(path))?,
    };
    Ok(Some(vec![Sample { value, quality: Quality::GOOD }]))
}

/// `NAME_input`, or else (`NAME_raw` + `NAME_offset`) × `NAME_scale`.
fn processed(folder: &Path, channel: &str) -> Result<f64, String> {
    let file = |kind: &str| folder.join(format!("{channel}_{kind}"));
    if file("input").exists() {
        return number(&file("input"));
    }
    // A scale or an offset may be that of all channels of the type: in_voltage_scale for in_voltage0_raw.
    let shared = channel.trim_end_matches(|c: char| c.is_ascii_digit());
    let or_shared = |kind: &str, otherwise: f64| {
        let own = [file(kind), folder.join(format!("{shared}_{kind}"))];
        own.iter().find(|path| path.exists()).map_or(Ok(otherwise), |path| number(path))
    };
    Ok((number(&file("raw"))? + or_shared("offset", 0.0)?) * or_shared("scale", 1.0)?)
}

/// The device of this name.
fn find(folder: &Path, device: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(name) = fs::read_to_string(path.join("name")) else { continue };
        if name.trim_end() == device {
            return Ok(path);
        }
        names.push(name.trim_end().to_owned());
    }
    names.sort();
    Err(format!("{} has no device `{device}` (there are: {})", folder.display(), names.join(", ")))
}

fn number(path: &Path) -> Result<f64, String> {
    let said = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let mut text = String::new();
    let file = File::open(path).map_err(|error| said(&error))?;
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| said(&error))?;
    if text.len() as u64 >= MAX_BYTES {
        return Err(said(&format!("it has {MAX_BYTES} bytes or more: no number")));
    }
    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| said(&format!("`{}` is no number", text.trim().escape_debug())))
}

/// What a channel of hwmon measures: its unit, and what one count is in it.
fn hwmon(channel: &str) -> Option<(&'static str, f64)> {
    match channel.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "temp" => Some(("Cel", 1e-3)),
        "in" => Some(("V", 1e-3)),
        "curr" => Some(("A", 1e-3)),
        "power" => Some(("W", 1e-6)),
        "energy" => Some(("J", 1e-6)),
        "humidity" => Some(("%RH", 1e-3)),
        "fan" => Some(("1/min", 1.0)),
        _ => None,
    }
}

/// What a channel of IIO measures: its unit, and what one count is in it.
fn iio(channel: &str) -> Option<(&'static str, f64)> {
    let name = channel.strip_prefix("in_").unwrap_or(channel);
    // in_temp, in_voltage0, in_accel_x, in_concentration_co2.
    match name.split('_').next().unwrap_or(name).trim_end_matches(|c: char| c.is_ascii_digit()) {
        "temp" => Some(("Cel", 1e-3)),
        "humidityrelative" => Some(("%RH", 1e-3)),
        "pressure" => Some(("Pa", 1e3)),
        "voltage" => Some(("V", 1e-3)),
        "current" => Some(("A", 1e-3)),
        "power" => Some(("W", 1e-3)),
        "resistance" => Some(("Ohm", 1.0)),
        "accel" => Some(("m/s2", 1.0)),
        "illuminance" => Some(("lx", 1.0)),
        "distance" => Some(("m", 1.0)),
        "concentration" => Some(("ppm", 1e4)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as a Pi 4 with a BME280 (IIO), an ADS1015 (IIO) and a DS18B20 (1-wire) has it.
    fn tree() -> tempfile::TempDir {
        let sys = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("class/hwmon/hwmon0/name", "cpu_thermal\n");
        write("class/hwmon/hwmon0/temp1_input", "48686\n");
        write("class/hwmon/hwmon1/name", "rpi_volt\n");
        write("class/hwmon/hwmon1/in0_input", "garbage\n");
        write("bus/iio/devices/iio:device0/name", "bme280\n");
        write("bus/iio/devices/iio:device0/in_temp_input", "22340\n");
        write("bus/iio/devices/iio:device0/in_pressure_input", "101.325039062\n");
        write("bus/iio/devices/iio:device0/in_humidityrelative_input", "41253\n");
        write("bus/iio/devices/iio:device1/name", "ads1015\n");
        write("bus/iio/devices/iio:device1/in_voltage0_raw", "1000\n");
        write("bus/iio/devices/iio:device1/in_voltage_scale", "2.000000000\n");
        write("bus/w1/devices/28-0316a4b2d9ff/temperature", "-1250\n");
        write("value", "17.5\n");
        sys
    }

    fn check(place: SysfsPlace, expected: f64) {
        let sys = tree();
        let samples = answer(sys.path(), &place).expect("it answers").expect("it has data");
        assert!((samples[0].value - expected).abs() < 1e-9, "{place:?}: {samples:?}");
    }

    #[test]
    fn the_kernels_numbers_become_values_in_their_units() {
        check(SysfsPlace::Hwmon("cpu_thermal".into(), "temp1".into()), 48.686);
        check(SysfsPlace::Iio("bme280".into(), "in_temp".into()), 22.34);
        check(SysfsPlace::Iio("bme280".into(), "in_pressure".into()), 101_325.039_062);
        check(SysfsPlace::Iio("bme280".into(), "in_humidityrelative".into()), 41.253);
        check(SysfsPlace::Iio("ads1015".into(), "in_voltage0".into()), 2.0);
        check(SysfsPlace::OneWire("28-0316a4b2d9ff".into()), -1.25);
        assert_eq!(hwmon("fan1"), Some(("1/min", 1.0)));
        assert_eq!(iio("in_concentration_co2"), Some(("ppm", 1e4)));
        assert_eq!((hwmon("pwm1"), iio("in_anglvel_x")), (None, None));
    }

    #[test]
    fn what_is_missing_or_no_number_is_said_with_its_place() {
        let sys = tree();
        let says = |place: SysfsPlace, expected: &str| {
            let error = answer(sys.path(), &place).expect_err("no number");
            assert!(error.contains(expected), "{error}");
        };
        says(SysfsPlace::Hwmon("cpu".into(), "temp1".into()), "no device `cpu` (there are: cpu_thermal, rpi_volt)");
        says(SysfsPlace::Hwmon("rpi_volt".into(), "in0".into()), "in0_input: `garbage` is no number");
        says(SysfsPlace::OneWire("28-1".into()), "28-1/temperature: No such file");
        let file = sys.path().join("value");
        let path = |path: &Path| SysfsPlace::File(path.to_str().expect("text").into());
        assert!(answer(sys.path(), &path(&file)).is_ok());
        says(path(sys.path()), "Is a directory");
        fs::write(&file, "1".repeat(1_000)).expect("written");
        says(path(&file), "128 bytes or more");
        fs::write(&file, "nan").expect("written");
        says(path(&file), "`nan` is no number");
    }
}
