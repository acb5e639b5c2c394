//! Answers whoever may ask for what a route has recorded: in pieces, each after the one before was acknowledged, so that packets of routes go on.

use porin_core::{
    ids::{RouteId, Seq},
    outbox::Ticket,
    packet::Packet,
    payload::Encoding,
    record::Record,
    time::Monotonic,
    topic::Topic,
};
use std::sync::Arc;

use super::{Agent, sending::encode};
use crate::{link::Publish, pipeline::Next};

/// The ticket of a piece: the outbox never gives this one.
pub(super) const RECORDED: Ticket = Ticket(u64::MAX);

/// Packets of a piece: 10 KB of readings, or a message, which may be as large as a publish. One that is larger is left out.
const READINGS: usize = 500;
const MESSAGES: usize = 1;

impl Agent {
    /// Begins to publish what was recorded of a route on `record/<seq>/<number>/<of how many>`. Nothing at all is a piece, too.
    pub(super) fn answer_with_recording(&mut self, seq: u64, route: &str, us: u64) {
        let Some(connection) = self.link.connection else { return };
        let under_way = !self.recorded.is_empty();
        let (gateway, epoch) = (&self.parts.config.gateway.id, self.parts.store.epoch);
        let (mut readings, mut messages) = (Vec::new(), Vec::new());
        let recordings = self.core.pipeline.recordings();
        if let Some(recorder) = recordings.get(route) {
            recorder.batches(|now, batch, others| {
                if self.now.mono.since(now.mono) <= us {
                    readings.extend(batch.iter().map(|reading| Packet::Reading(*reading)));
                    messages.extend(others.iter().map(|message| Packet::Message(Arc::new(message.clone()))));
                }
                Next::More
            });
        }
        let record =
            |(number, packet): (u64, Packet)| (Seq(number), Record { route: RouteId(0), packet, at: Monotonic(0) });
        let number = |packets: Vec<Packet>| (0..).zip(packets).map(record).collect::<Vec<_>>();
        let (readings, messages) = (number(readings), number(messages));
        let pieces = readings.chunks(READINGS).chain(messages.chunks(MESSAGES));
        let piece = |records| encode(&self.core.pipeline, Encoding::Compact, gateway, epoch, records);
        let max_payload = self.link.max_payload();
        let mut payloads: Vec<_> = pieces.map(piece).filter(|(_, payload)| payload.len() <= max_payload).collect();
        let all = payloads.len();
        if all == 0 {
            payloads.push(piece(&[]));
        }
        let publish = |(index, (content_type, payload))| {
            let topic = Topic::Record { gateway, request: seq, part: index, parts: all }.to_string();
            Publish { connection, ticket: Some(RECORDED), topic, retain: false, content_type, payload }
        };
        self.recorded = payloads.into_iter().enumerate().map(publish).collect();
        // The one that is on its way brings the first of these.
        if !under_way {
            self.send_recorded();
        }
    }

    /// The piece before was acknowledged: the next one, if there is one.
    pub(super) fn send_recorded(&mut self) {
        if self.link.connection.is_some()
            && self.parts.link.capacity() > 0
            && let Some(publish) = self.recorded.pop_front()
        {
            self.publish_unkept(publish);
        }
    }
}
