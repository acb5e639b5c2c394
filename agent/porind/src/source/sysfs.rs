//! Source `sysfs`: what the kernel measures itself (hwmon, IIO, 1-wire), and other files with a number.
//!
//! The kernel's own ABI says what a file's number means: `Documentation/hwmon/sysfs-interface.rst`,
//! `Documentation/ABI/testing/sysfs-bus-iio`, `Documentation/w1/slaves/w1_therm.rst`. Devices are found by their names. Reading may block (a
//! 1-wire thermometer converts for 750 ms), so it is done on a thread.

use std::{
    collections::BTreeSet,
    fs,
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
    regular_file,
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
    // A scale or an offset may be that of all channels of the type: in_voltage_scale for in_voltage0_raw, in_accel_scale for in_accel_x_raw,
    // in_voltage-voltage_scale for in_voltage0-voltage1_raw.
    let (direction, rest) = channel.split_once('_').unwrap_or(("in", channel));
    let kind_of_channel: String =
        rest.split('_').next().unwrap_or(rest).chars().filter(|c| !c.is_ascii_digit()).collect();
    let or_shared = |kind: &str| {
        let own = [file(kind), folder.join(format!("{direction}_{kind_of_channel}_{kind}"))];
        own.iter().find(|path| path.exists()).map(|path| number(path)).transpose()
    };
    let (raw, offset) = (number(&file("raw"))?, or_shared("offset")?.unwrap_or(0.0));
    match or_shared("scale")? {
        Some(scale) => Ok((raw + offset) * scale),
        None if iio(channel).is_none() => Ok(raw + offset),
        // It would pass for one in the unit.
        None => Err(format!(
            "{} has no {channel}_scale: what a count is, is not known (as a plain number: `file`)",
            folder.display()
        )),
    }
}

/// The device of this name, or of this name and parent: `bme280@1-0077`.
fn find(folder: &Path, device: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (wanted, at) = device.split_once('@').map_or((device, None), |(name, parent)| (name, Some(parent)));
    let (mut found, mut names) = (Vec::new(), BTreeSet::new());
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(name) = fs::read_to_string(path.join("name")) else { continue };
        if name.trim_end() == wanted && at.is_none_or(|at| parent(&path) == at) {
            found.push(path);
        } else {
            names.insert(name.trim_end().to_owned());
        }
    }
    let said = |what: &str, list: Vec<String>| Err(format!("{} {what} {}", folder.display(), list.join(", ")));
    match found.as_slice() {
        [path] => Ok(path.clone()),
        [] => said(&format!("has no device `{device}`; there are:"), names.into_iter().collect()),
        [..] => {
            let mut list: Vec<_> = found.iter().map(|path| format!("{wanted}@{}", parent(path))).collect();
            list.sort();
            said(&format!("has more than one device `{device}`: say which of"), list)
        }
    }
}

/// What a device is part of: `1-0077` is address 0x77 on bus 1.
fn parent(device: &Path) -> String {
    // hwmon says it; of IIO it is the folder above.
    let above = || Some(fs::canonicalize(device).ok()?.parent()?.to_owned());
    let place = fs::canonicalize(device.join("device")).ok().or_else(above).unwrap_or_default();
    place.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn number(path: &Path) -> Result<f64, String> {
    let said = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let mut text = String::new();
    let file = regular_file(path).map_err(|error| said(&error))?;
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| said(&error))?;
    if text.len() as u64 >= MAX_BYTES {
        return Err(said(&format!("it has {MAX_BYTES} bytes or more: no number")));
    }
    let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| said(&format!("`{}` is not a number", text.trim().escape_debug())))
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
    // in_temp, in_voltage0, in_voltage0-voltage1, in_accel_x, in_concentration_co2.
    match name.split(['_', '-']).next().unwrap_or(name).trim_end_matches(|c: char| c.is_ascii_digit()) {
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
    use std::os::unix::fs::symlink;

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
        // An accelerometer, whose scale is that of its three axes, and an object's temperature with an offset.
        write("bus/iio/devices/iio:device2/name", "mma8452\n");
        write("bus/iio/devices/iio:device2/in_accel_x_raw", "-1024\n");
        write("bus/iio/devices/iio:device2/in_accel_scale", "0.009576\n");
        write("bus/iio/devices/iio:device3/name", "mlx90614\n");
        write("bus/iio/devices/iio:device3/in_temp_object_raw", "14958\n");
        write("bus/iio/devices/iio:device3/in_temp_offset", "-13657.500000\n");
        write("bus/iio/devices/iio:device3/in_temp_scale", "20\n");
        write("bus/iio/devices/iio:device1/in_voltage0-voltage1_raw", "-500\n");
        write("bus/iio/devices/iio:device1/in_voltage-voltage_scale", "3.000000000\n");
        write("bus/iio/devices/iio:device1/in_current0_raw", "7\n");
        write("bus/iio/devices/iio:device1/in_proximity_raw", "7\n");
        // Two of a kind, as the kernel has them: links into the tree of devices.
        for address in ["0076", "0077"] {
            let device = format!("devices/i2c-1/1-{address}");
            write(&format!("{device}/iio:device9{address}/name"), "twin\n");
            write(&format!("{device}/iio:device9{address}/in_temp_input"), &format!("2{address}\n"));
            let link = sys.path().join(format!("bus/iio/devices/iio:device9{address}"));
            symlink(sys.path().join(format!("{device}/iio:device9{address}")), link).expect("linked");
            write(&format!("{device}/hwmon/hwmon9{address}/name"), "twin\n");
            write(&format!("{device}/hwmon/hwmon9{address}/temp1_input"), &format!("3{address}\n"));
            symlink("../..", sys.path().join(format!("{device}/hwmon/hwmon9{address}/device"))).expect("linked");
            let link = sys.path().join(format!("class/hwmon/hwmon9{address}"));
            symlink(sys.path().join(format!("{device}/hwmon/hwmon9{address}")), link).expect("linked");
        }
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
        check(SysfsPlace::Iio("ads1015".into(), "in_voltage0-voltage1".into()), -1.5);
        check(SysfsPlace::Iio("ads1015".into(), "in_proximity".into()), 7.0);
        check(SysfsPlace::Iio("mma8452".into(), "in_accel_x".into()), -9.805_824);
        check(SysfsPlace::Iio("mlx90614".into(), "in_temp_object".into()), 26.01);
        check(SysfsPlace::Iio("twin@1-0076".into(), "in_temp".into()), 20.076);
        check(SysfsPlace::Iio("twin@1-0077".into(), "in_temp".into()), 20.077);
        check(SysfsPlace::Hwmon("twin@1-0077".into(), "temp1".into()), 30.077);
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
        says(
            SysfsPlace::Hwmon("cpu".into(), "temp1".into()),
            "no device `cpu`; there are: cpu_thermal, rpi_volt, twin",
        );
        says(
            SysfsPlace::Iio("twin".into(), "in_temp".into()),
            "more than one device `twin`: say which of twin@1-0076, twin@1-0077",
        );
        says(SysfsPlace::Iio("twin@1-0078".into(), "in_temp".into()), "no device `twin@1-0078`");
        says(SysfsPlace::Iio("ads1015".into(), "in_current0".into()), "has no in_current0_scale");
        says(SysfsPlace::Hwmon("rpi_volt".into(), "in0".into()), "in0_input: `garbage` is not a number");
        says(SysfsPlace::OneWire("28-1".into()), "28-1/temperature: No such file");
        let file = sys.path().join("value");
        let path = |path: &Path| SysfsPlace::File(path.to_str().expect("text").into());
        assert!(answer(sys.path(), &path(&file)).is_ok());
        says(path(sys.path()), "it is not a regular file");
        fs::write(&file, "1".repeat(1_000)).expect("written");
        says(path(&file), "128 bytes or more");
        fs::write(&file, "nan").expect("written");
        says(path(&file), "`nan` is not a number");
    }
}
