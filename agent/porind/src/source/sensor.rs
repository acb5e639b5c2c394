//! Source `sensor`: chips on an I²C or SPI bus, each measured at its own rhythm. What they say is `porin-drivers`'.
//!
//! A bus is one thread, since its calls block: for a conversion, or (a chip that holds the bus) until the kernel gives up, which is
//! one second on most boards. Chips of one bus wait for each other that long; nobody else does.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use embedded_hal_bus::i2c::RcDevice;
use linux_embedded_hal::{
    Delay, I2cdev, SpidevDevice,
    spidev::{SpiModeFlags, SpidevOptions},
};
use porin_core::{
    config::{SensorSource as Config, WiredChip, nearest},
    packet::Quality,
    stream::check_name,
};
use porin_drivers::{CHIPS, Channel, Chip, Options, Sensor, Wiring, chip, open_i2c, open_spi};

use super::{
    Outlet,
    polled::{Answer, Part, Polled, Sample, Worker},
};

/// The slowest chip has data every 5 seconds. One that has none for so long has forgotten what it was told.
const SILENCE: Duration = Duration::from_secs(15);

/// The source with its counters.
pub(crate) struct Sensors {
    config: Config,
    polled: Polled,
}

impl Sensors {
    pub(crate) fn new(config: Config) -> Self {
        let parts = config.chips.iter().map(|wired| Part {
            name: name(&config.bus, wired),
            every_us: wired.every_us,
            streams: streams(wired).map(|(stream, _)| stream).collect(),
        });
        Self { polled: Polled::new(parts.collect()), config }
    }

    /// Runs for ever.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        let config = self.config.clone();
        let mut worker = Worker::start(move || {
            let mut bus = Bus::new(config);
            move |part| bus.ask(part)
        })?;
        self.polled.run(outlet, async |part| worker.ask(part).await).await
    }
}

/// Whether there are such chips, on such a bus, with such options.
///
/// # Errors
/// What does not fit.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    let is_spi = config.bus.starts_with("/dev/spidev");
    for wired in &config.chips {
        let chip = chip(&wired.chip).ok_or_else(|| no_such_chip(&wired.chip))?;
        match chip.wiring {
            Wiring::I2c(_) if is_spi => bail!("{} is on I²C, not on {}", chip.name, config.bus),
            Wiring::Spi(_) if !is_spi => bail!("{} is on SPI, not on {}", chip.name, config.bus),
            Wiring::I2c(addresses) => {
                if let Some(address) = wired.address.filter(|address| !addresses.contains(address)) {
                    let known = addresses.iter().map(|known| format!("{known:#04x}")).collect::<Vec<_>>().join(", ");
                    bail!("{} is never at address {address:#04x}; it can be at {known}", chip.name);
                }
            }
            Wiring::Spi(_) => {}
        }
        options(wired).fit(chip).map_err(anyhow::Error::msg)?;
        if chip.channels.len() > 1 && !wired.streams.contains("{channel}") {
            let channels = chip.channels.iter().map(|channel| channel.name).collect::<Vec<_>>().join(", ");
            bail!("streams `{}`: {} measures {channels}: {{channel}} is missing", wired.streams, chip.name);
        }
        for (stream, _) in streams(wired) {
            check_name(&stream).with_context(|| format!("stream `{stream}`"))?;
        }
    }
    Ok(())
}

fn no_such_chip(name: &str) -> anyhow::Error {
    let known = || CHIPS.iter().map(|chip| chip.name);
    match nearest(name, known()) {
        Some(meant) => anyhow!("there is no chip `{name}`; did you mean `{meant}`?"),
        None => anyhow!("there is no chip `{name}`; known: {}", known().collect::<Vec<_>>().join(", ")),
    }
}

/// The streams of a chip, with their units.
pub(crate) fn streams(wired: &WiredChip) -> impl Iterator<Item = (String, &'static str)> {
    let channels = chip(&wired.chip).map_or(&[][..], |chip| chip.channels);
    channels.iter().map(|channel| (wired.streams.replace("{channel}", channel.name), channel.unit))
}

fn name(bus: &str, wired: &WiredChip) -> String {
    match address(wired) {
        Some(address) => format!("{} at {address:#04x} on {bus}", wired.chip),
        None => format!("{} on {bus}", wired.chip),
    }
}

/// Where it is said to be, or where it is unless it is wired otherwise. None on SPI.
fn address(wired: &WiredChip) -> Option<u8> {
    match chip(&wired.chip)?.wiring {
        Wiring::I2c(addresses) => wired.address.or(addresses.first().copied()),
        Wiring::Spi(_) => None,
    }
}

fn options(wired: &WiredChip) -> Options {
    Options(wired.options.clone())
}

/// A bus and its chips, on their thread.
struct Bus {
    config: Config,
    /// Opened when it is first needed.
    i2c: Option<Rc<RefCell<I2cdev>>>,
    /// Those that have begun.
    chips: Vec<Option<Begun>>,
}

/// A chip that was made ready.
struct Begun {
    chip: &'static Chip,
    sensor: Box<dyn Sensor>,
    /// When it was, or had data since.
    heard: Instant,
}

impl Bus {
    fn new(config: Config) -> Self {
        let chips = config.chips.iter().map(|_| None).collect();
        Self { config, i2c: None, chips }
    }

    fn ask(&mut self, part: usize) -> Answer {
        self.measure(part).map_err(|error| {
            // The chip may have been without power, and what it was told is gone; the bus may have been unplugged.
            self.chips[part] = None;
            self.i2c = None;
            format!("{error:#}")
        })
    }

    fn measure(&mut self, part: usize) -> anyhow::Result<Option<Vec<Sample>>> {
        let begun = match &mut self.chips[part] {
            Some(begun) => begun,
            None => {
                let (chip, mut sensor) = self.open(part)?;
                sensor.begin()?;
                self.chips[part].insert(Begun { chip, sensor, heard: Instant::now() })
            }
        };
        match begun.sensor.measure()? {
            Some(values) => {
                begun.heard = Instant::now();
                Ok(Some(values.into_iter().zip(begun.chip.channels).map(judge).collect()))
            }
            None if begun.heard.elapsed() > SILENCE => {
                bail!("no data for more than {SILENCE:?}: was it without power?")
            }
            None => Ok(None),
        }
    }

    fn open(&mut self, part: usize) -> anyhow::Result<(&'static Chip, Box<dyn Sensor>)> {
        let (path, wired) = (&self.config.bus, &self.config.chips[part]);
        let chip = chip(&wired.chip).context("no such chip")?;
        let sensor = match chip.wiring {
            Wiring::I2c(_) => {
                let bus = match &self.i2c {
                    Some(bus) => bus.clone(),
                    None => {
                        let opened = I2cdev::new(path).with_context(|| format!("cannot open {path}"))?;
                        self.i2c.insert(Rc::new(RefCell::new(opened))).clone()
                    }
                };
                let share = move || RcDevice::new(bus.clone());
                open_i2c(chip.name, share, address(wired).unwrap_or_default(), Delay, &options(wired))?
            }
            Wiring::Spi(max_hz) => {
                let mut device = SpidevDevice::open(path).with_context(|| format!("cannot open {path}"))?;
                let mode = SpidevOptions::new().max_speed_hz(max_hz).mode(SpiModeFlags::SPI_MODE_0).build();
                device.configure(&mode).with_context(|| format!("cannot set the clock of {path}"))?;
                open_spi(chip.name, device, &options(wired))?
            }
        };
        Ok((chip, sensor))
    }
}

fn judge((value, channel): (f64, &Channel)) -> Sample {
    let quality = if channel.is_within(value) { Quality::GOOD } else { Quality::OUT_OF_RANGE };
    Sample { value, quality }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chip that has no data, as one that is not told to measure.
    struct Mute;

    impl Sensor for Mute {
        fn begin(&mut self) -> Result<(), porin_drivers::Error> {
            Ok(())
        }

        fn measure(&mut self) -> Result<Option<Vec<f64>>, porin_drivers::Error> {
            Ok(None)
        }
    }

    #[test]
    fn a_chip_that_has_no_data_for_long_is_made_ready_anew_and_said_to_fail() {
        let wired = WiredChip {
            chip: "lis3dh".into(),
            address: None,
            every_us: 1_000_000,
            streams: "a/{channel}".into(),
            options: Vec::default(),
        };
        let mut bus = Bus::new(Config { bus: "/dev/no-bus".into(), chips: vec![wired] });
        let heard =
            |ago: u64| Instant::now().checked_sub(Duration::from_secs(ago)).expect("this machine is not that new");
        let chip = chip("lis3dh").expect("there is one");
        bus.chips[0] = Some(Begun { chip, sensor: Box::new(Mute), heard: heard(10) });
        assert_eq!(bus.ask(0), Ok(None));
        bus.chips[0] = Some(Begun { chip, sensor: Box::new(Mute), heard: heard(16) });
        let error = bus.ask(0).expect_err("it fails");
        assert_eq!(error, "no data for more than 15s: was it without power?");
        assert!(bus.chips[0].is_none());
    }

    #[test]
    fn a_value_beyond_what_a_chip_can_measure_is_told_to_be_so() {
        let channel = chip("tmp102").expect("there is one").channels.first().expect("it measures something");
        assert_eq!(judge((21.5, channel)).quality, Quality::GOOD);
        for beyond in [-300.0, 1e6, f64::NAN] {
            assert_eq!(judge((beyond, channel)).quality, Quality::OUT_OF_RANGE, "{beyond}");
        }
    }
}
