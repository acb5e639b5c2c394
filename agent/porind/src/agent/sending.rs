//! The loop's side of the link: what is sent when, and what its answers mean for the outbox.

use std::{collections::BTreeMap, time::Instant};

use porin_core::{
    config::TopicTemplate,
    ids::{Epoch, QueueId, RouteId, Seq},
    outbox::{BatchRule, Parcel, Publish as PublishRule, Queue, Ticket},
    packet::{Message, Packet, Reading},
    payload::{self, Encoding},
    record::Record,
    status::UplinkStatus,
    time::Monotonic,
};
use tracing::error;

use super::{Agent, Parts};
use crate::{
    pipeline::Pipeline,
    uplink::{LinkEvent, Publish},
};

/// A pause after the backlog could not be read.
const LOAD_RETRY_US: u64 = 5_000_000;

/// From a connection to the first numbers on it.
const TELL_AFTER_US: u64 = 3_000_000;

/// Bytes of a publish besides its packets: topic, properties, the payload's frame.
const FRAME_BYTES: usize = 1_024;

/// Bytes of a payload besides its packets, roughly: what a guess at the next batch's size leaves out.
const HEAD_BYTES: usize = 80;

/// What the loop knows of the connection.
#[derive(Default)]
pub(super) struct Link {
    pub(super) connection: Option<u64>,
    pub(super) window: usize,
    pub(super) max_bytes: usize,
    pub(super) closed: bool,
    /// After a failure, when the backlog is read again.
    pub(super) load_after: Monotonic,
    pub(super) status: UplinkStatus,
    /// By route: bytes that a packet took in its last payload, in 1/256.
    packet_bytes: BTreeMap<RouteId, usize>,
}

impl Agent {
    pub(super) fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { connection, window, max_bytes } => {
                self.link.connection = Some(connection);
                (self.link.window, self.link.max_bytes) = (window, max_bytes);
                // Data first: it may be all that this gateway is allowed to publish.
                self.tell_at = self.start_to(Instant::now()).after(TELL_AFTER_US);
                self.link.status.connections += 1;
            }
            LinkEvent::Acked(ticket) => {
                self.parts.queue.ack(ticket);
            }
            LinkEvent::Refused(ticket, reason) => {
                let packets = self.parts.queue.refuse(ticket);
                error!(packets, reason, "the broker refused a publish for good; its packets are lost");
                self.link.status.last_error = Some(reason);
            }
            LinkEvent::Down(reason) => {
                self.link.connection = None;
                self.link.status.last_error = Some(reason);
                self.parts.queue.rewind();
            }
            LinkEvent::Closed => self.link.closed = true,
        }
    }

    /// Reads a piece of the backlog when the broker has taken most of the last one.
    pub(super) fn load(&mut self) {
        let now = self.start_to(Instant::now());
        let Parts { queue, store, .. } = &mut self.parts;
        loop {
            queue.evict();
            let needed = self.link.connection.is_some() || queue.is_over();
            let Some(load) = queue.wants().filter(|_| needed && now >= self.link.load_after) else { return };
            match store.load(QueueId::UPLINK, load) {
                Ok(records) => queue.loaded(load, records, now),
                Err(error) => {
                    error!(error = format!("{error:#}"), "cannot read the outbox; nothing behind it can leave");
                    self.link.load_after = now.after(LOAD_RETRY_US);
                    return;
                }
            }
            // Sending needs one piece; a queue over its bound is read until it is within.
            if !queue.is_over() {
                return;
            }
        }
    }

    /// Sends what the window has room for.
    pub(super) fn send(&mut self) {
        let Some(connection) = self.link.connection else { return };
        let (now, patience) = (self.start_to(Instant::now()), self.patience());
        // No room: publishes for an earlier connection are still being thrown away. The acknowledgements wake us.
        while self.parts.queue.window() < self.link.window && self.parts.link.capacity() > 0 {
            let Parts { queue, pipeline, .. } = &mut self.parts;
            let rules = self.link.rules(pipeline, patience);
            let Some(parcel) = queue.take(now, rules) else { return };
            let Some(publish) = self.publish(parcel, connection) else { continue };
            self.link.status.publishes += 1;
            // There is room; when the link has ended, so has the run.
            let _ = self.parts.link.try_send(publish);
        }
    }

    /// Makes a publish of a parcel, or of as much of it as is within the route's bytes. `None`: the broker takes none of it.
    pub(super) fn publish(&mut self, parcel: Parcel, connection: u64) -> Option<Publish> {
        let Parcel { ticket, route, start, mut records } = parcel;
        let Parts { pipeline, config, store, queue, route_names, .. } = &mut self.parts;
        let gateway = &config.gateway.id;
        let epoch = Epoch { starts: start, ..store.epoch };
        let (encoding, goal) =
            pipeline.route(route).map_or((Encoding::Json, usize::MAX), |route| (route.encoding, route.batch_bytes));
        let most = self.link.max_payload();
        // A route that once carried the other kind may still have some of it waiting.
        let same = |record: &Record| {
            matches!(record.packet, Packet::Reading(_)) == matches!(records[0].1.packet, Packet::Reading(_))
        };
        let alike = records.iter().take_while(|(_, record)| same(record)).count();
        shorten(queue, ticket, &mut records, alike);
        let (content_type, payload) = loop {
            let (content_type, payload) = encode(pipeline, encoding, gateway, epoch, &records);
            let share = payload.len().saturating_sub(HEAD_BYTES).saturating_mul(256) / records.len();
            self.link.packet_bytes.insert(route, share.max(1));
            if payload.len() <= goal.min(most) || records.len() == 1 {
                break (content_type, payload);
            }
            // A little less than in proportion: columns grow by steps.
            let keep = records.len() * goal.min(most) / payload.len() * 31 / 32;
            shorten(queue, ticket, &mut records, keep.max(1));
        };
        if payload.len() > most {
            let packets = queue.refuse(ticket);
            let reason = format!("a packet of {} bytes is more than the broker takes ({most})", payload.len());
            error!(packets, reason, "the packet is lost");
            self.link.status.last_error = Some(reason);
            return None;
        }
        let stream = records.first().map_or("", |(_, record)| pipeline.name(record.packet.stream()));
        let topic = match pipeline.route(route) {
            Some(route) => route.topic.fill(gateway, &route.name, stream),
            // Kept under a configuration that had another route.
            None => {
                let name = route_names.get(route.0 as usize).map_or("unknown", String::as_str);
                TopicTemplate::default().fill(gateway, name, stream)
            }
        };
        self.link.status.bytes += payload.len() as u64;
        Some(Publish { connection, ticket: Some(ticket), topic, content_type, payload })
    }
}

fn shorten(queue: &mut Queue, ticket: Ticket, records: &mut Vec<(Seq, Record)>, keep: usize) {
    if keep < records.len() {
        records.truncate(keep);
        queue.shorten(ticket, keep);
    }
}

/// Content type and payload of records of one kind. Messages are JSON whatever the route says: it may have carried readings.
fn encode(
    pipeline: &Pipeline,
    encoding: Encoding,
    gateway: &str,
    epoch: Epoch,
    records: &[(Seq, Record)],
) -> (&'static str, Vec<u8>) {
    let (mut readings, mut messages) = (Vec::with_capacity(records.len()), Vec::new());
    for (seq, record) in records {
        let (seq, stream, unit) = (*seq, pipeline.name(record.packet.stream()), pipeline.unit(record.packet.stream()));
        match &record.packet {
            Packet::Reading(Reading { time, value, quality, .. }) => {
                let (time_us, value, quality) = (time.0, *value, quality.0);
                readings.push(payload::Packet { seq, stream, unit, time_us, value, quality });
            }
            Packet::Message(message) => {
                let Message { time, quality, topic, payload, .. } = &**message;
                let (time_us, quality) = (time.0, quality.0);
                messages.push(payload::MessagePacket { seq, stream, time_us, topic, payload, quality });
            }
        }
    }
    if messages.is_empty() {
        (encoding.content_type(), payload::encode(encoding, gateway, epoch, &readings))
    } else {
        (Encoding::Json.content_type(), payload::json::encode_messages(gateway, epoch, &messages))
    }
}

impl Link {
    /// Bytes of a payload that the broker takes.
    pub(super) fn max_payload(&self) -> usize {
        self.max_bytes.saturating_sub(FRAME_BYTES)
    }

    /// When records of a route become a publish.
    pub(super) fn rules<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        patience: Patience,
    ) -> impl Fn(RouteId) -> BatchRule + 'a {
        move |id| {
            let Some(route) = pipeline.route(id) else {
                return BatchRule { packets: 1, bytes: 0, wait_us: 0, publish: PublishRule::AtOnce, by_stream: true };
            };
            let each = self.packet_bytes.get(&id).copied();
            let each = each.unwrap_or_else(|| route.encoding.usual_packet_bytes() * 256);
            let expected = route.batch_bytes.saturating_sub(HEAD_BYTES) * 256 / each;
            BatchRule {
                packets: route.batch_packets.min(expected).max(1),
                bytes: route.batch_bytes,
                wait_us: match patience {
                    Patience::AsConfigured => route.batch_wait_us,
                    Patience::None => 0,
                },
                publish: route.publish,
                by_stream: route.topic.by_stream(),
            }
        }
    }
}

/// Whether incomplete publishes wait for more packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    AsConfigured,
    /// Nothing more will come.
    None,
}
