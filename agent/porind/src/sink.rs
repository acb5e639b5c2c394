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
    clock::CertificateTime,
    config::{CellSet, Config, Route, Sink, SinkKind},
    ids::RouteId,
    packet::Packet,
    status::SinkStatus,
    time::Monotonic,
};
use tokio::sync::watch;

use crate::files::Files;

/// Time for what sinks have to leave, at the end of the agent; and at a reload, for which the loop waits.
pub(crate) const LAST_DRAIN: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(1);

/// A packet on its way, with what a sink may want to say of it.
pub(crate) struct Delivery<'a> {
    pub(crate) packet: &'a Packet,
    pub(crate) id: RouteId,
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
    kind: End,
}

enum End {
    File(file::Lines),
    Gpio(gpio::HeldLine),
    Mqtt(mqtt::Broker),
}

impl Sinks {
    /// Keeps those that stay the same, ends the others once what they have has left, and starts what is new.
    pub(crate) fn exchange(
        &mut self,
        sinks: &[Sink],
        certificate_time: &watch::Sender<CertificateTime>,
        files: &mut Files,
    ) {
        let (stay, go) = std::mem::take(&mut self.0).into_iter().partition(|running| sinks.contains(&running.config));
        self.0 = stay;
        // The end comes first: another may want the same line, or be the same client of a broker.
        let mut go = Self(go);
        go.stop_lines();
        go.drain(files, DRAIN);
        go.hang_up();
        for config in sinks {
            if !self.0.iter().any(|running| running.config == *config) {
                self.0.push(Running { kind: End::start(config, certificate_time), config: config.clone() });
            }
        }
        self.0.sort_by_key(|running| sinks.iter().position(|config| *config == running.config));
    }

    /// Hands a packet over.
    pub(crate) fn give(&mut self, sink: &str, delivery: &Delivery<'_>, files: &mut Files) {
        let Some(running) = self.0.iter_mut().find(|running| running.config.name == sink) else { return };
        match &mut running.kind {
            End::File(lines) => lines.add(delivery, files),
            End::Gpio(line) => line.decide(delivery),
            End::Mqtt(broker) => broker.publish(delivery),
        }
    }

    /// Others decide from now on about the sinks of which this is so. Output lines among them are safe until they have: what was decided may be the
    /// last thing to hear of a stream that is no more, and what the new ones said to nobody is not said again.
    pub(crate) fn forget_decisions(&self, others_decide: impl Fn(&str) -> bool) {
        for Running { config, kind } in &self.0 {
            if let End::Gpio(line) = kind
                && others_decide(&config.name)
            {
                line.forget();
            }
        }
    }

    /// Nothing is decided any more: output lines take their safe levels, before anything else is waited for.
    pub(crate) fn stop_lines(&self) {
        for running in &self.0 {
            if let End::Gpio(line) = &running.kind {
                line.stop();
            }
        }
    }

    /// Waits until all that can leave has left, but no longer than this.
    pub(crate) fn drain(&mut self, files: &mut Files, time: Duration) {
        let start = Instant::now();
        while !self.write(files) && start.elapsed() < time {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends them all as they are. Brokers are told together, since each may take its time for the farewell.
    pub(crate) fn hang_up(self) {
        for running in &self.0 {
            if let End::Mqtt(broker) = &running.kind {
                broker.stop();
            }
        }
    }

    /// The batch is over: what was gathered of it is written together. Whether nothing is left that could leave.
    pub(crate) fn write(&mut self, files: &mut Files) -> bool {
        self.0.iter_mut().fold(true, |all, running| match &mut running.kind {
            End::File(lines) => lines.write(files) && all,
            End::Gpio(_) => all,
            End::Mqtt(broker) => broker.is_idle() && all,
        })
    }

    pub(crate) fn status(&self) -> Vec<SinkStatus> {
        let status = |running: &Running| match &running.kind {
            End::File(lines) => lines.status(),
            End::Gpio(line) => line.status(),
            End::Mqtt(broker) => broker.status(),
        };
        self.0.iter().map(status).collect()
    }
}

/// Whether after a change of the configuration others decide about a sink.
pub(crate) fn others_decide(sink: &str, before: &Config, after: &Config) -> bool {
    before.gateway.sources != after.gateway.sources || has_other_routes(sink, &before.cells, &after.cells)
}

/// Whether other routes, or routes with other cells, end at a sink.
pub(crate) fn has_other_routes(sink: &str, before: &CellSet, after: &CellSet) -> bool {
    let ends_here = |route: &&Route| route.sinks.iter().any(|end| end == sink);
    !before.routes.iter().filter(ends_here).eq(after.routes.iter().filter(ends_here))
}

impl End {
    fn start(Sink { name, kind }: &Sink, certificate_time: &watch::Sender<CertificateTime>) -> Self {
        let status = SinkStatus { name: name.clone(), ok: true, ..SinkStatus::default() };
        match kind {
            SinkKind::File(file) => Self::File(file::Lines::new(file.clone(), status)),
            SinkKind::Gpio(line) => Self::Gpio(gpio::HeldLine::start(line.clone(), status)),
            SinkKind::Mqtt(local) => Self::Mqtt(mqtt::Broker::start(local, status, certificate_time.subscribe())),
        }
    }
}

#[cfg(test)]
mod tests {
    use porin_core::{
        config::Level,
        ids::StreamId,
        packet::{Quality, Reading},
        time::Unix,
    };

    use super::*;

    const TEXT: &str = "[gateway]\nid = \"x\"\n[uplink]\nbroker = \"mqtt://localhost\"\n[sinks.siren.gpio]\nline = \"NOBODY\"\nsafe = \"low\"\n\
                        [routes.alarm]\nstreams = [\"boiler/#\"]\nsinks = [\"siren\"]\n[routes.all]\nstreams = [\"#\"]\n";

    #[test]
    fn a_line_is_safe_when_others_decide_about_it_and_stays_as_it_is_when_they_do_not() {
        let parse = |good: &str, other: &str| Config::parse(&TEXT.replace(good, other)).expect("it is good");
        let config = parse("", "");
        let (floor, mut files) = (watch::channel(CertificateTime::Clock(Unix(0))).0, Files::default());
        let mut sinks = Sinks::default();
        sinks.exchange(&config.gateway.sinks, &floor, &mut files);
        let packet =
            Packet::Reading(Reading { time: Unix(0), value: 1.0, stream: StreamId(0), quality: Quality::GOOD });
        let delivery =
            Delivery { packet: &packet, id: RouteId(0), route: "alarm", stream: "s", unit: "", age: Age::Now };
        sinks.give("siren", &delivery, &mut files);
        let is_on = |sinks: &Sinks| match &sinks.0[0].kind {
            End::Gpio(line) => line.level() == Level::High,
            End::File(_) | End::Mqtt(_) => false,
        };
        assert!(is_on(&sinks));
        let forget = |sinks: &Sinks, now: &Config| {
            sinks.forget_decisions(|sink| others_decide(sink, &config, now));
        };
        forget(&sinks, &parse("streams = [\"#\"]", "streams = [\"a/#\"]"));
        assert!(is_on(&sinks), "the other route is none of its business");
        forget(&sinks, &parse("boiler/#", "kettle/#"));
        assert!(!is_on(&sinks));
        sinks.give("siren", &delivery, &mut files);
        forget(&sinks, &parse("[routes.alarm]", "[sources.s.simulator]\nstreams = \"s/{n}\"\n[routes.alarm]"));
        assert!(!is_on(&sinks), "a stream of a source that is no more would never be heard of again");
        // The same, but nothing decides any more.
        sinks.give("siren", &delivery, &mut files);
        assert!(is_on(&sinks));
        sinks.stop_lines();
        assert!(!is_on(&sinks));
        sinks.give("siren", &delivery, &mut files);
        assert!(!is_on(&sinks));
    }
}
