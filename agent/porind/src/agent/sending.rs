//! The loop's side of the link: what is sent when, and what its answers mean for the outbox.

use std::{collections::BTreeMap, time::Instant};

use porin_core::{
    config::TopicTemplate,
    ids::{Epoch, QueueId, RouteId, Seq},
    outbox::{BatchRule, Parcel, Publish as PublishRule},
    packet::Reading,
    payload::{self, Encoding, Packet},
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
            let publish = self.publish(parcel, connection);
            self.link.status.publishes += 1;
            // There is room; when the link has ended, so has the run.
            let _ = self.parts.link.try_send(publish);
        }
    }

    /// Makes a publish of a parcel, or of as much of it as is within the route's bytes.
    pub(super) fn publish(&mut self, parcel: Parcel, connection: u64) -> Publish {
        let Parcel { ticket, route, start, mut records } = parcel;
        let Parts { pipeline, config, store, queue, route_names, .. } = &mut self.parts;
        let gateway = &config.gateway.id;
        let epoch = Epoch { starts: start, ..store.epoch };
        let (encoding, goal) =
            pipeline.route(route).map_or((Encoding::Json, usize::MAX), |route| (route.encoding, route.batch_bytes));
        let goal = goal.min(self.link.max_bytes.saturating_sub(FRAME_BYTES));
        let payload = loop {
            let packets: Vec<_> = records.iter().map(|(seq, record)| packet(pipeline, *seq, record)).collect();
            let payload = payload::encode(encoding, gateway, epoch, &packets);
            let share = payload.len().saturating_sub(HEAD_BYTES) * 256 / records.len();
            self.link.packet_bytes.insert(route, share.max(1));
            if payload.len() <= goal || records.len() == 1 {
                break payload;
            }
            // A little less than in proportion: columns grow by steps.
            let keep = (records.len() * goal / payload.len() * 31 / 32).max(1);
            records.truncate(keep);
            queue.shorten(ticket, keep);
        };
        let stream = records.first().map_or("", |(_, record)| pipeline.name(record.reading.stream));
        let topic = match pipeline.route(route) {
            Some(route) => route.topic.fill(gateway, &route.name, stream),
            // Kept under a configuration that had another route.
            None => {
                let name = route_names.get(route.0 as usize).map_or("unknown", String::as_str);
                TopicTemplate::default().fill(gateway, name, stream)
            }
        };
        Publish { connection, ticket, topic, content_type: encoding.content_type(), payload }
    }
}

fn packet<'a>(pipeline: &'a Pipeline, seq: Seq, record: &Record) -> Packet<'a> {
    let Reading { time, value, stream, quality } = record.reading;
    let (stream, unit) = (pipeline.name(stream), pipeline.unit(stream));
    Packet { seq, stream, unit, time_us: time.0, value, quality: quality.0 }
}

impl Link {
    /// When records of a route become a publish.
    pub(super) fn rules<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        patience: Patience,
    ) -> impl Fn(RouteId) -> BatchRule + 'a {
        move |id| {
            let Some(route) = pipeline.route(id) else {
                return BatchRule { packets: 1, wait_us: 0, publish: PublishRule::AtOnce, by_stream: true };
            };
            let each = self.packet_bytes.get(&id).copied();
            let each = each.unwrap_or_else(|| route.encoding.usual_packet_bytes() * 256);
            let expected = route.batch_bytes.saturating_sub(HEAD_BYTES) * 256 / each;
            BatchRule {
                packets: route.batch_packets.min(expected).max(1),
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
