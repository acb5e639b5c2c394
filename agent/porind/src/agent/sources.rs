//! The agent's side towards its sources: what each has announced, what of it is refused, its end.

use porin_core::{
    config,
    ids::{Seq, StreamId},
    packet::Kind,
    status::SourceStatus,
};
use tracing::{error, info, warn};

use super::Agent;
use crate::source;

#[derive(Default)]
pub(super) struct Source {
    pub(super) status: SourceStatus,
    /// By the source's own number.
    pub(super) streams: Vec<Option<(StreamId, Kind)>>,
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
        let status = SourceStatus { name: config.name.clone(), ..SourceStatus::default() };
        Self { status, window: source::window(&config.kind), ..Self::default() }
    }
}

impl Agent {
    pub(super) fn admit(&mut self, source: usize, local: u32, name: &str, kind: Kind) {
        let stream = self.core.pipeline.admit(name, kind).ok();
        if let Some(trial) = &mut self.trial {
            // It has an id already, if there is room for one.
            let _known = trial.with_other(&mut self.core.pipeline, |other| other.admit(name, kind));
        }
        let may_block = stream.is_some_and(|stream| self.core.pipeline.may_block(stream, kind));
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
        source.streams[index] = stream.map(|stream| (stream, kind));
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

/// Replaces a source's own number of a stream by the durable one; `false` if it was refused one.
pub(super) fn admitted(streams: &[Option<(StreamId, Kind)>], stream: &mut StreamId) -> bool {
    let durable = streams.get(stream.0 as usize).copied().flatten().map(|(stream, _)| stream);
    *stream = durable.unwrap_or_default();
    durable.is_some()
}
