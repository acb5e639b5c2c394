//! The agent's side towards its sources: what each has announced, what of it is refused, its end.

use porin_core::{
    calibration::Calibration,
    config,
    ids::{Seq, StreamId},
    packet::{Message, PacketKind, Reading},
    status::{InputStatus, PartStatus, SourceStatus},
};
use tracing::{error, info, warn};

use super::Agent;
use crate::source;

/// A stream of a source that has an id.
#[derive(Clone)]
pub(super) struct Admitted {
    pub(super) stream: StreamId,
    pub(super) kind: PacketKind,
    /// What corrects its readings.
    pub(super) calibration: Option<Calibration>,
}

#[derive(Default)]
pub(super) struct Source {
    pub(super) status: SourceStatus,
    /// By the source's own number.
    pub(super) streams: Vec<Option<Admitted>>,
    /// Decided about, and what the next commit settles.
    pub(super) decided: u64,
    pub(super) settled: u64,
    /// How much may be unsettled, in the source's own counts.
    pub(super) window: u64,
    /// Without a disk: what is settled once everything before a seq has left.
    pub(super) leaving: Option<(u64, Seq)>,
    /// Whether a route that gives up nothing has packets of it: it waits when the outbox is full.
    pub(super) may_block: bool,
}

impl Source {
    pub(super) fn new(config: &config::Source) -> Self {
        let inputs = source::inputs(&config.kind).into_iter();
        let inputs = inputs.map(|name| InputStatus { name, ..InputStatus::default() }).collect();
        let status = SourceStatus { name: config.name.clone(), inputs, ..SourceStatus::default() };
        Self { status, window: source::window(&config.kind), ..Self::default() }
    }
}

impl Agent {
    pub(super) fn admit(&mut self, source: usize, local: u32, name: &str, kind: PacketKind) {
        let stream = self.core.pipeline.admit(name, kind).ok();
        if let Some(trial) = &mut self.trial {
            // It has an id already, if there is room for one.
            let _known = trial.with_other(&mut self.core.pipeline, |other| other.admit(name, kind));
        }
        let may_block = stream.is_some_and(|stream| self.core.pipeline.may_block(stream, kind));
        let calibration = self.calibration(name);
        let source = &mut self.sources[source];
        source.may_block |= may_block;
        if stream.is_none() {
            error!(
                source = source.status.name,
                stream = name,
                "no room for the stream: `max_streams` is reached; its packets are refused"
            );
        }
        // A source counts its streams from 0 without gaps.
        let index = local as usize;
        source.streams.resize(source.streams.len().max(index + 1), None);
        source.streams[index] = stream.map(|stream| Admitted { stream, kind, calibration });
    }

    /// What corrects a stream, by the configuration that counts now.
    pub(super) fn calibration(&self, stream: &str) -> Option<Calibration> {
        self.parts.config.gateway.streams.get(stream).and_then(|stream| stream.calibration.clone())
    }

    pub(super) fn input(&mut self, source: usize, index: usize, status: InputStatus) {
        let source = &mut self.sources[source].status;
        let before = source.inputs[index].empty;
        if status.empty > before && (before == 0 || before.ilog2() < status.empty.ilog2()) {
            let sample = status.last_empty.as_deref().unwrap_or_default();
            warn!(source = source.name, input = status.name, empty = status.empty, sample, "the input gave no packet");
        }
        source.inputs[index] = status;
    }

    pub(super) fn part(&mut self, source: usize, index: usize, status: PartStatus) {
        let source = &mut self.sources[source].status;
        let before = source.parts.get(index).is_none_or(|before| before.ok);
        match (before, status.ok) {
            (true, false) => {
                let error = status.last_error.as_deref().unwrap_or_default();
                warn!(source = source.name, part = status.name, error, "no data");
            }
            (false, true) => info!(source = source.name, part = status.name, "data again"),
            (true, true) | (false, false) => {}
        }
        // A source counts its parts from 0 without gaps.
        source.parts.resize_with(source.parts.len().max(index + 1), PartStatus::default);
        source.parts[index] = status;
    }

    pub(super) fn bad_row(&mut self, source: usize, place: String) {
        let status = &mut self.sources[source].status;
        status.bad_rows += 1;
        if status.bad_rows.is_power_of_two() {
            warn!(source = status.name, bad_rows = status.bad_rows, "{place}");
        }
        status.last_bad_row = Some(place);
    }

    pub(super) fn restarted(&mut self, source: usize, reason: String) {
        let status = &mut self.sources[source].status;
        status.restarts += 1;
        status.last_error = Some(reason);
    }

    pub(super) fn ended(&mut self, source: usize) {
        self.sources[source].status.ended = true;
        info!(
            source = self.sources[source].status.name,
            packets = self.sources[source].status.received,
            "the source has ended"
        );
        if self.sources.iter().all(|source| source.status.ended) {
            let now = self.now;
            self.mark_dirty();
            let from = self.core.outbox.next_seq();
            self.through(|pipeline, keep| pipeline.flush(now, keep));
            self.show_kept(from);
        }
    }
}

/// What became of the stream to which a source has given this number; `None` if it was refused an id.
fn admitted(streams: &[Option<Admitted>], own: StreamId) -> Option<&Admitted> {
    streams.get(own.0 as usize)?.as_ref()
}

/// Replaces a source's own number of a stream by the durable one, and corrects the value; `false` if it was refused an id.
pub(super) fn admit_reading(streams: &[Option<Admitted>], reading: &mut Reading) -> bool {
    let Some(Admitted { stream, calibration, .. }) = admitted(streams, reading.stream) else { return false };
    reading.stream = *stream;
    if let Some(calibration) = calibration {
        reading.value = calibration.apply(reading.value);
    }
    true
}

/// Replaces a source's own number of a stream by the durable one; `false` if it was refused an id.
pub(super) fn admit_message(streams: &[Option<Admitted>], message: &mut Message) -> bool {
    let Some(Admitted { stream, .. }) = admitted(streams, message.stream) else { return false };
    message.stream = *stream;
    true
}
