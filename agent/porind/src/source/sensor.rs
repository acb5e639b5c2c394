//! Source `sensor`: chips on an I²C or SPI bus, each measured at its own rhythm. What they say is `porin-drivers`'.
//!
//! A bus is one thread, since its calls block: for a conversion, or (a chip that holds the bus) until the kernel gives up, which is
//! one second on most boards. Chips of one bus wait for each other that long; nobody else does.

use std::{cell::RefCell, rc::Rc};

use anyhow::{Context, anyhow};
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
use porin_drivers::{CHIPS, Chip, Error, Options, Sensor, Wiring, chip, open_i2c, open_spi};
use tokio::sync::watch;

use super::{
    Outlet,
    polled::{Answer, Part, Polled, Sample, Worker},
};

/// The source with its counters.
pub(crate) struct Sensors {
    config: Config,
    polled: Polled,
}

impl Sensors {
    pub(crate) fn new(config: Config, settled: watch::Receiver<u64>) -> Self {
        let parts = config.chips.iter().map(|wired| Part {
            name: name(&config.bus, wired),
            every_us: wired.every_us,
            streams: streams(wired).map(|(stream, _)| stream).collect(),
        });
        Self { polled: Polled::new(parts.collect(), settled), config }
    }

    /// Readings made so far.
    pub(crate) fn made(&self) -> u64 {
        self.polled.made()
    }

    /// Runs for ever.
    pub(crate) async fn run(&mut self, outlet: &Outlet) -> anyhow::Result<()> {
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
            Wiring::I2c(_) if is_spi => return Err(anyhow!("{} is on I²C, not on {}", chip.name, config.bus)),
            Wiring::Spi(_) if !is_spi => return Err(anyhow!("{} is on SPI, not on {}", chip.name, config.bus)),
            Wiring::I2c(addresses) => {
                if let Some(address) = wired.address.filter(|address| !addresses.contains(address)) {
                    let known = addresses.iter().map(|known| format!("{known:#04x}")).collect::<Vec<_>>().join(", ");
                    return Err(anyhow!("{} is never at address {address:#04x}; it can be at {known}", chip.name));
                }
            }
            Wiring::Spi(_) => {}
        }
        options(wired).fit(chip).map_err(anyhow::Error::msg)?;
        if chip.channels.len() > 1 && !wired.streams.contains("{channel}") {
            let channels = chip.channels.iter().map(|channel| channel.name).collect::<Vec<_>>().join(", ");
            return Err(anyhow!(
                "streams `{}`: {} measures {channels}: {{channel}} is missing",
                wired.streams,
                chip.name
            ));
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
    /// Opened when it is first needed, and again after it has failed to be opened.
    i2c: Option<Rc<RefCell<I2cdev>>>,
    chips: Vec<State>,
}

/// A chip: what is known of it, and how far it is.
#[derive(Default)]
struct State {
    sensor: Option<Box<dyn Sensor>>,
    is_ready: bool,
}

impl Bus {
    fn new(config: Config) -> Self {
        let chips = config.chips.iter().map(|_| State::default()).collect();
        Self { config, i2c: None, chips }
    }

    fn ask(&mut self, part: usize) -> Answer {
        let measured = self.measure(part);
        if measured.is_err() {
            // It may have been without power, and what it was told is gone.
            self.chips[part].is_ready = false;
        }
        let chip = chip(&self.config.chips[part].chip).ok_or("no such chip")?;
        let judge = |values: Vec<f64>| values.into_iter().zip(chip.channels).map(judge).collect();
        Ok(measured?.map(judge))
    }

    fn measure(&mut self, part: usize) -> Result<Option<Vec<f64>>, String> {
        if self.chips[part].sensor.is_none() {
            self.chips[part].sensor = Some(self.open(part).map_err(|error| format!("{error:#}"))?);
        }
        let State { sensor: Some(sensor), is_ready } = &mut self.chips[part] else { return Ok(None) };
        let said = |error: Error| error.to_string();
        if !*is_ready {
            sensor.begin().map_err(said)?;
            *is_ready = true;
        }
        sensor.measure().map_err(said)
    }

    fn open(&mut self, part: usize) -> anyhow::Result<Box<dyn Sensor>> {
        let (path, wired) = (&self.config.bus, &self.config.chips[part]);
        let chip: &Chip = chip(&wired.chip).context("no such chip")?;
        match chip.wiring {
            Wiring::I2c(_) => {
                let bus = match &self.i2c {
                    Some(bus) => bus.clone(),
                    None => {
                        let opened = I2cdev::new(path).with_context(|| format!("cannot open {path}"))?;
                        self.i2c.insert(Rc::new(RefCell::new(opened))).clone()
                    }
                };
                let share = move || RcDevice::new(bus.clone());
                Ok(open_i2c(chip.name, share, address(wired).unwrap_or_default(), Delay, &options(wired))?)
            }
            Wiring::Spi(max_hz) => {
                let mut device = SpidevDevice::open(path).with_context(|| format!("cannot open {path}"))?;
                let mode = SpidevOptions::new().max_speed_hz(max_hz).mode(SpiModeFlags::SPI_MODE_0).build();
                device.configure(&mode).with_context(|| format!("cannot set the clock of {path}"))?;
                Ok(open_spi(chip.name, device, &options(wired))?)
            }
        }
    }
}

fn judge((value, channel): (f64, &porin_drivers::Channel)) -> Sample {
    let quality = if channel.is_within(value) { Quality::GOOD } else { Quality::OUT_OF_RANGE };
    Sample { value, quality }
}
