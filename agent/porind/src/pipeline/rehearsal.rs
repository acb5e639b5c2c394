//! What entered routes lately, and trying cells on it before they see anything live.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use porin_core::{ids::StreamId, packet::PacketKind, status::SlotStatus};

use super::{Next, Pipeline, Recorder, Route};

/// For all of a rehearsal: live packets wait, and the watchdog is not fed.
const REHEARSAL: Duration = Duration::from_secs(2);

impl Pipeline {
    /// What has entered its routes lately, by route.
    pub(crate) fn recordings(&self) -> BTreeMap<&str, &Recorder> {
        self.routes.iter().map(|route| (route.config.name.as_str(), &route.recorder)).collect()
    }

    /// Streams that a route's first slot knows.
    fn declares(&self, route: usize, stream: StreamId) -> bool {
        self.routes[route].declared.contains(&stream)
    }

    /// Goes on with what another pipeline has recorded of routes with the same names.
    pub(crate) fn take_recordings(&mut self, other: &mut Self) {
        for route in &mut self.routes {
            let same = other
                .routes
                .iter_mut()
                .find(|old| old.config.name == route.config.name && old.config.input == route.config.input);
            if let (Some(old), Some(_)) = (same.filter(|old| !old.recorder.is_empty()), route.config.record) {
                route.recorder = std::mem::take(&mut old.recorder);
            }
        }
    }

    /// Tries its cells on what was recorded, and gives what they did. What they put out goes nowhere. A fault ends it for a route, and time for all of
    /// them: live packets wait meanwhile.
    pub(crate) fn rehearse(&mut self, recordings: &BTreeMap<&str, &Recorder>) -> Vec<SlotStatus> {
        let start = Instant::now();
        for index in 0..self.routes.len() {
            let Some(recorder) = recordings.get(self.routes[index].config.name.as_str()) else { continue };
            recorder.batches(|now, readings, messages| {
                // What the route wants now may be less than what it wanted then.
                let readings: Vec<_> =
                    readings.iter().filter(|packet| self.declares(index, packet.stream)).copied().collect();
                let messages: Vec<_> =
                    messages.iter().filter(|packet| self.declares(index, packet.stream)).cloned().collect();
                let Route { readings: flow, messages: others, config, .. } = &mut self.routes[index];
                match config.input {
                    PacketKind::Readings => flow.input.extend(readings),
                    PacketKind::Messages => others.input.extend(messages),
                }
                self.run(index, 0, now, &mut |_, _| {});
                let faulted = self.routes[index].slots.iter().any(|slot| slot.faults() > 0);
                if faulted || start.elapsed() > REHEARSAL { Next::Stop } else { Next::More }
            });
        }
        self.slot_status()
    }
}
