//! Streams that a slot's cell does not take: their packets get the fault policy, and the cell's words are shown.

use std::collections::BTreeSet;

use porin_core::{dead::fault_text, fault::Fault, ids::StreamId, status::RefusedStream};

/// Streams whose names and reasons are kept. The others are counted.
const SHOWN: usize = 8;

/// The streams of a slot that its cell does not take.
#[derive(Debug, Default)]
pub(super) struct RefusedStreams {
    streams: BTreeSet<StreamId>,
    shown: Vec<(StreamId, RefusedStream)>,
}

impl RefusedStreams {
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub(super) fn contains(&self, stream: StreamId) -> bool {
        self.streams.contains(&stream)
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn add(&mut self, id: StreamId, stream: String, reason: &str) {
        self.streams.insert(id);
        if self.shown.len() < SHOWN {
            let reason = fault_text(&reason.replace(char::is_control, " "));
            self.shown.push((id, RefusedStream { stream, reason }));
        }
    }

    pub(super) fn shown(&self) -> Vec<RefusedStream> {
        self.shown.iter().map(|(_, refused)| refused.clone()).collect()
    }

    /// The fault that is kept with a packet of a stream.
    pub(super) fn fault(&self, stream: StreamId) -> Fault {
        let known = self.shown.iter().find(|(id, _)| *id == stream);
        Fault::Refused(known.map_or_else(|| "as it did others".into(), |(_, refused)| refused.reason.clone()))
    }
}
