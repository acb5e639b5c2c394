//! Sinks: where routes end besides the uplink. One file per kind; the compiler asks for the arm.
//!
//! The loop hands packets over and goes on: what blocks is done on threads. What becomes of each packet is counted.

mod file;
mod gpio;
mod mqtt;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use porin_core::{
    config::{Sink, SinkKind},
    packet::Packet,
    status::SinkStatus,
    time::{Monotonic, Unix},
};
use tokio::sync::watch;

use crate::files::Files;

/// Time for what a sink has to leave when it goes.
const DRAIN: Duration = Duration::from_secs(5);

/// A packet on its way, with what a sink may want to say of it.
pub(crate) struct Delivery<'a> {
    pub(crate) packet: &'a Packet,
    pub(crate) route: &'a str,
    pub(crate) stream: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) age: Age,
}

/// When a packet was decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Now,
    /// It was a dead letter: nothing acts on it any more.
    Late,
}

/// The status of a sink, which its thread shares with the loop. Held for moments only.
type Shared = Arc<Mutex<SinkStatus>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn since(start: Instant) -> Monotonic {
    Monotonic(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// The sinks of a configuration, running.
#[derive(Default)]
pub(crate) struct Sinks(Vec<Running>);

struct Running {
    config: Sink,
    kind: Kind,
}

enum Kind {
    File(file::Lines),
    Gpio(gpio::Line),
    Mqtt(mqtt::Broker),
}

impl Sinks {
    /// Keeps those that stay the same, ends the others once what they have has left, and starts what is new.
    pub(crate) fn exchange(&mut self, sinks: &[Sink], time_floor: &watch::Sender<Unix>, files: &mut Files) {
        let (stay, go) = std::mem::take(&mut self.0).into_iter().partition(|running| sinks.contains(&running.config));
        self.0 = stay;
        // The end comes first: another may want the same line, or be the same client of a broker.
        let mut go = Self(go);
        go.drain(files);
        drop(go);
        for config in sinks {
            if !self.0.iter().any(|running| running.config == *config) {
                self.0.push(Running { kind: Kind::start(config, time_floor), config: config.clone() });
            }
        }
        self.0.sort_by_key(|running| sinks.iter().position(|config| *config == running.config));
    }

    /// Hands a packet over.
    pub(crate) fn give(&mut self, sink: &str, delivery: &Delivery<'_>, files: &mut Files) {
        let Some(running) = self.0.iter_mut().find(|running| running.config.name == sink) else { return };
        match &mut running.kind {
            Kind::File(lines) => lines.add(delivery, files),
            Kind::Gpio(line) => line.decide(delivery),
            Kind::Mqtt(broker) => broker.publish(delivery),
        }
    }

    /// Waits until all that can leave has left, but not for ever.
    pub(crate) fn drain(&mut self, files: &mut Files) {
        let start = Instant::now();
        while !self.write(files) && start.elapsed() < DRAIN {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The batch is over: what was gathered of it is written together. Whether nothing is left that could leave.
    pub(crate) fn write(&mut self, files: &mut Files) -> bool {
        self.0.iter_mut().fold(true, |all, running| match &mut running.kind {
            Kind::File(lines) => lines.write(files) && all,
            Kind::Gpio(_) => all,
            Kind::Mqtt(broker) => broker.is_idle() && all,
        })
    }

    pub(crate) fn status(&self) -> Vec<SinkStatus> {
        let status = |running: &Running| match &running.kind {
            Kind::File(lines) => lines.status(),
            Kind::Gpio(line) => line.status(),
            Kind::Mqtt(broker) => broker.status(),
        };
        self.0.iter().map(status).collect()
    }
}

impl Kind {
    fn start(Sink { name, kind }: &Sink, time_floor: &watch::Sender<Unix>) -> Self {
        let status = SinkStatus { name: name.clone(), ok: true, ..SinkStatus::default() };
        match kind {
            SinkKind::File(file) => Self::File(file::Lines::new(file.clone(), status)),
            SinkKind::Gpio(line) => Self::Gpio(gpio::Line::start(line.clone(), status)),
            SinkKind::Mqtt(local) => Self::Mqtt(mqtt::Broker::start(local, status, time_floor.subscribe())),
        }
    }
}
