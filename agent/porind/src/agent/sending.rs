//! The loop's side of the link: what is sent when, and what its answers mean for the outbox.

use std::time::Instant;

use porin_core::{
    config::TopicTemplate,
    ids::{Epoch, QueueId, RouteId, Seq},
    outbox::{BatchRule, Parcel, Publish as PublishRule},
    packet::Reading,
    payload::{self, Packet},
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

/// Bytes that one packet takes in a JSON payload at most: a name of 100 bytes, all of them escaped, and four numbers.
const MAX_PACKET_BYTES: usize = 320;

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
            let max_packets = (self.link.max_bytes.saturating_sub(FRAME_BYTES) / MAX_PACKET_BYTES).max(1);
            let Some(parcel) = queue.take(now, |route| rule(pipeline, route, max_packets, patience)) else { return };
            let (topic, payload) = self.publish(&parcel);
            self.link.status.publishes += 1;
            // There is room; when the link has ended, so has the run.
            let _ = self.parts.link.try_send(Publish { connection, ticket: parcel.ticket, topic, payload });
        }
    }

    /// Topic and payload of a parcel.
    pub(super) fn publish(&self, parcel: &Parcel) -> (String, Vec<u8>) {
        let Parts { pipeline, config, store, .. } = &self.parts;
        let packet = |(seq, record): &(Seq, Record)| {
            let Reading { time, value, stream, quality } = record.reading;
            Packet { seq: *seq, stream: pipeline.name(stream), time_us: time.0, value, quality: quality.0 }
        };
        let packets: Vec<_> = parcel.records.iter().map(packet).collect();
        let gateway = &config.gateway.id;
        let stream = packets.first().map_or("", |packet| packet.stream);
        let topic = match pipeline.route(parcel.route) {
            Some(route) => route.topic.fill(gateway, &route.name, stream),
            // Kept under a configuration that had another route.
            None => {
                let name = self.parts.route_names.get(parcel.route.0 as usize).map_or("unknown", String::as_str);
                TopicTemplate::default().fill(gateway, name, stream)
            }
        };
        let epoch = Epoch { starts: parcel.start, ..store.epoch };
        (topic, payload::encode(gateway, epoch, &packets))
    }
}

/// Whether incomplete publishes wait for more packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    AsConfigured,
    /// Nothing more will come.
    None,
}

/// When records of a route become a publish.
pub(super) fn rule(pipeline: &Pipeline, route: RouteId, max_packets: usize, patience: Patience) -> BatchRule {
    match pipeline.route(route) {
        Some(route) => BatchRule {
            packets: route.batch_packets.min(max_packets),
            wait_us: match patience {
                Patience::AsConfigured => route.batch_wait_us,
                Patience::None => 0,
            },
            publish: route.publish,
            by_stream: route.topic.by_stream(),
        },
        None => BatchRule { packets: 1, wait_us: 0, publish: PublishRule::AtOnce, by_stream: true },
    }
}
