//! Sources: what makes packets. One file per kind; the compiler asks for the arm.

mod gpio;
mod lines;
mod modbus;
mod mqtt;
mod polled;
mod replay;
mod sensor;
mod simulator;
mod sysfs;

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use porin_core::{
    clock::CertificateTime,
    config::{Source, SourceKind},
    packet::{Message, Reading},
};
use tokio::sync::{mpsc, watch};

use crate::inbox::{Doorbell, FromSource, SOURCE_WINDOW};

/// Readings in a batch at most: enough to make the call into a cell cheap, few enough to be quick.
pub(crate) const BATCH: usize = 64;

/// The first pause after a failure; each failure doubles it.
pub(crate) const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What the loop asks for when the configuration has changed.
#[derive(Debug)]
pub(crate) enum Order {
    /// Run this source, with its way to the loop and back.
    Start(Box<Source>, mpsc::Sender<FromSource>, watch::Receiver<u64>),
    /// End the source of this name. What it has not acknowledged it is given again.
    End(String),
}

/// A source's way to the loop, and how far it is. It outlives the failures of the source.
pub(crate) struct Outlet {
    queue: mpsc::Sender<FromSource>,
    doorbell: Doorbell,
    /// Packets that were handed over.
    made: u64,
    /// Up to which count they are decided about and durable.
    settled: watch::Receiver<u64>,
}

/// The loop takes nothing more: the agent is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the agent is stopping")]
pub(crate) struct Stopping;

impl Outlet {
    /// Waits while the queue is full: that is how a fast source is slowed down.
    pub(crate) async fn send(&self, message: FromSource) -> Result<(), Stopping> {
        self.queue.send(message).await.map_err(|_| Stopping)?;
        self.doorbell.ring();
        Ok(())
    }

    /// Hands packets over, and waits while too many are not settled.
    async fn hand_over(&mut self, readings: Vec<Reading>, messages: Vec<Message>) -> Result<(), Stopping> {
        if readings.is_empty() && messages.is_empty() {
            return Ok(());
        }
        self.made += (readings.len() + messages.len()) as u64;
        self.send(FromSource::Batch { readings, messages, upto: self.made }).await?;
        self.wait_until_settled(self.made.saturating_sub(SOURCE_WINDOW)).await
    }

    /// Waits until as many packets are decided about and durable.
    async fn wait_until_settled(&mut self, upto: u64) -> Result<(), Stopping> {
        self.settled.wait_for(|settled| *settled >= upto).await.map(drop).map_err(|_| Stopping)
    }
}

/// What a source has made and not settled at most, in its own counts. At half of it a commit is due.
pub(crate) fn window(kind: &SourceKind) -> u64 {
    match kind {
        SourceKind::Mqtt(config) if config.acknowledged => config.window.into(),
        SourceKind::Mqtt(_)
        | SourceKind::Replay(_)
        | SourceKind::Simulator(_)
        | SourceKind::Sensor(_)
        | SourceKind::Sysfs(_)
        | SourceKind::Lines(_)
        | SourceKind::Modbus(_)
        | SourceKind::Gpio(_) => SOURCE_WINDOW,
    }
}

/// Whether what the configuration says of a source can be: what only the source's own file knows.
///
/// # Errors
/// What cannot.
pub(crate) fn check(kind: &SourceKind) -> anyhow::Result<()> {
    match kind {
        SourceKind::Sensor(config) => sensor::check(config),
        SourceKind::Mqtt(_)
        | SourceKind::Replay(_)
        | SourceKind::Simulator(_)
        | SourceKind::Sysfs(_)
        | SourceKind::Lines(_)
        | SourceKind::Modbus(_)
        | SourceKind::Gpio(_) => Ok(()),
    }
}

/// What the source listens to. It tells of each by its place in this list.
pub(crate) fn inputs(kind: &SourceKind) -> Vec<String> {
    match kind {
        SourceKind::Mqtt(config) => config.topics.iter().map(|mapping| mapping.filter.mqtt()).collect(),
        SourceKind::Lines(config) => vec![lines::place(&config.from)],
        SourceKind::Replay(_)
        | SourceKind::Simulator(_)
        | SourceKind::Sensor(_)
        | SourceKind::Sysfs(_)
        | SourceKind::Modbus(_)
        | SourceKind::Gpio(_) => Vec::new(),
    }
}

/// Units of streams that the source itself knows. What the configuration says of a stream wins.
pub(crate) fn units(kind: &SourceKind) -> Vec<(String, &'static str)> {
    match kind {
        SourceKind::Sensor(config) => config.chips.iter().flat_map(sensor::streams).collect(),
        SourceKind::Sysfs(config) => config.inputs.iter().filter_map(sysfs::unit).collect(),
        SourceKind::Gpio(config) => config.inputs.iter().flat_map(gpio::units).collect(),
        SourceKind::Mqtt(_)
        | SourceKind::Replay(_)
        | SourceKind::Simulator(_)
        | SourceKind::Lines(_)
        | SourceKind::Modbus(_) => Vec::new(),
    }
}

/// Runs a source to its end; after a failure, again from where it was. `settled`: up to which count its packets are
/// decided about and durable.
pub(crate) async fn run(
    source: Source,
    queue: mpsc::Sender<FromSource>,
    doorbell: Doorbell,
    settled: watch::Receiver<u64>,
    certificate_time: watch::Receiver<CertificateTime>,
) {
    let mut outlet = Outlet { queue, doorbell, made: 0, settled };
    let mut pause = MIN_PAUSE;
    let mut running = match source.kind {
        SourceKind::Replay(config) => Running::Replay(replay::Replay::new(config)),
        SourceKind::Mqtt(config) => Running::Mqtt(mqtt::Mqtt::new(config, certificate_time)),
        SourceKind::Simulator(config) => Running::Simulated(simulator::Simulated::new(config)),
        SourceKind::Sensor(config) => Running::Sensors(sensor::Sensors::new(config)),
        SourceKind::Sysfs(config) => Running::Sysfs(sysfs::Sysfs::new(config)),
        SourceKind::Lines(config) => Running::Lines(Box::new(lines::Lines::new(config))),
        SourceKind::Modbus(config) => Running::Modbus(modbus::Modbus::new(config)),
        SourceKind::Gpio(config) => Running::Gpio(gpio::Gpio::new(config)),
    };
    loop {
        let made_before = outlet.made;
        match running.run(&mut outlet).await {
            Ok(()) => break,
            Err(error) if error.is::<Stopping>() => return,
            Err(error) => {
                if outlet.made > made_before {
                    pause = MIN_PAUSE;
                }
                tracing::warn!(
                    source = source.name,
                    error = format!("{error:#}"),
                    ?pause,
                    "the source failed and starts again"
                );
                if outlet.send(FromSource::Restart(format!("{error:#}"))).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
    // Stopping is the only way to fail, and then nobody waits for it.
    let _ = outlet.send(FromSource::Ended).await;
}

/// A source with its position, which outlives its failures.
enum Running {
    Replay(replay::Replay),
    Mqtt(mqtt::Mqtt),
    Simulated(simulator::Simulated),
    Sensors(sensor::Sensors),
    Sysfs(sysfs::Sysfs),
    Lines(Box<lines::Lines>),
    Modbus(modbus::Modbus),
    Gpio(gpio::Gpio),
}

impl Running {
    async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        match self {
            Self::Replay(replay) => replay.run(outlet).await,
            Self::Mqtt(mqtt) => mqtt.run(outlet).await,
            Self::Simulated(simulated) => simulated.run(outlet).await,
            Self::Sensors(sensors) => sensors.run(outlet).await,
            Self::Sysfs(sysfs) => sysfs.run(outlet).await,
            Self::Lines(lines) => lines.run(outlet).await,
            Self::Modbus(modbus) => modbus.run(outlet).await,
            Self::Gpio(gpio) => gpio.run(outlet).await,
        }
    }
}

/// Opens a file that is read, and nothing else: a pipe that nobody writes to would be waited for without end.
fn regular_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}
