//! The loop's side of the link: what is sent when, and what its answers mean for the outbox.

use std::{collections::BTreeMap, sync::Arc};

use porin_core::{
    clock::Clock,
    config::TopicTemplate,
    ids::{Epoch, RouteId, Seq},
    outbox::{Outbox, Parcel, Publish as PublishRule, Rule, Ticket},
    packet::{Message, Packet, Quality, Reading},
    payload::{self, Encoding},
    record::Record,
    status::UplinkStatus,
    time::{Monotonic, Unix},
};
use tracing::{error, warn};

use super::{Agent, Core, Parts, recording::RECORDED};
use crate::{
    link::{FRAME_BYTES, LinkEvent, Publish, Request},
    pipeline::Pipeline,
};

/// Pieces of the backlog that are read in one step at most: others have something to do, too.
const LOADS: usize = 4;

/// A pause after the backlog could not be read.
const LOAD_RETRY_US: u64 = 5_000_000;

/// From a connection to the first numbers on it.
const TELL_AFTER_US: u64 = 3_000_000;

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
    /// Packets that the broker refused for good, by reason.
    pub(super) dead_letters: BTreeMap<String, u64>,
    /// By route: bytes that a packet took in its last payload, in 1/256.
    packet_bytes: BTreeMap<RouteId, usize>,
}

impl Agent {
    pub(super) fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Certificates(certificates) => {
                if certificates != self.link.status.certificates {
                    self.link.status.certificates = certificates;
                    self.warn_at = self.now.mono;
                }
            }
            LinkEvent::Up { connection, window, max_bytes } => {
                self.link.connection = Some(connection);
                (self.link.window, self.link.max_bytes) = (window, max_bytes);
                // Data first: it may be all that this gateway is allowed to publish.
                self.tell_at = self.now.mono.after(TELL_AFTER_US);
                self.begin_to_listen();
                self.link.status.connections += 1;
            }
            LinkEvent::NotSubscribed => self.listen_again_later(),
            LinkEvent::Acked(RECORDED) => self.send_recorded(),
            LinkEvent::Refused(RECORDED, reason) | LinkEvent::PutOff(RECORDED, reason) => {
                warn!(reason, "the broker refuses the recording");
                self.recorded.clear();
            }
            LinkEvent::Acked(ticket) => {
                self.core.outbox.ack(ticket);
            }
            LinkEvent::PutOff(ticket, reason) => self.put_off(ticket, reason),
            LinkEvent::Refused(ticket, reason) => {
                let packets = self.core.outbox.dead_letter(ticket);
                self.dead_lettered(packets, reason);
            }
            LinkEvent::Down(reason) => {
                self.link.connection = None;
                self.link.status.last_error = Some(reason);
                self.core.outbox.rewind();
                // Whoever asked asks again.
                self.recorded.clear();
            }
            LinkEvent::Closed => self.link.closed = true,
        }
    }

    /// A publish that the broker does not take now comes again after a pause, unless it was refused too often.
    fn put_off(&mut self, ticket: Ticket, reason: &str) {
        let packets = self.core.outbox.refuse(ticket, self.now.mono);
        if packets > 0 {
            self.dead_lettered(packets, reason);
            return;
        }
        self.link.status.put_off += 1;
        let all = self.link.status.put_off;
        if all.is_power_of_two() {
            warn!(all, reason, "the broker refuses a publish for now; it is sent again after a pause");
        }
        self.link.status.last_error = Some(reason.to_owned());
    }

    /// Packets of a publish that will never be taken: counted by reason, never as acknowledged.
    fn dead_lettered(&mut self, packets: u64, reason: &str) {
        let counted = self.link.dead_letters.entry(reason.to_owned()).or_default();
        *counted += packets;
        // A topic that is denied is denied again and again: the counter tells, the log only begins to.
        if counted.is_power_of_two() || *counted == packets {
            error!(packets, all = *counted, reason, "the broker refused a publish for good; its packets are lost");
        }
        self.link.status.last_error = Some(reason.to_owned());
    }

    /// Reads a piece of the backlog when most of the last one has left.
    pub(super) fn load(&mut self) {
        let now = self.now.mono;
        for _ in 0..LOADS {
            let Core { outbox, pipeline, .. } = &mut self.core;
            let Some(load) = outbox.wants().filter(|_| now >= self.link.load_after) else { return };
            match self.parts.store.load(load) {
                Ok(loaded) => {
                    let unreadable = loaded.unreadable;
                    outbox.loaded(load, loaded);
                    if unreadable > 0 {
                        *self.link.dead_letters.entry("unreadable".into()).or_default() += unreadable;
                    }
                }
                Err(error) => {
                    error!(error = format!("{error:#}"), "cannot read the outbox; nothing behind it can leave");
                    self.link.load_after = now.after(LOAD_RETRY_US);
                    return;
                }
            }
            outbox.expire(now, self.link.rules(pipeline, Patience::AsConfigured));
            // Sending needs one piece; an outbox over its bound is read until it is within, some pieces at a time.
            outbox.evict();
            if !outbox.is_over() {
                return;
            }
        }
    }

    /// Gives up what there is no room for.
    pub(super) fn make_room(&mut self) {
        let outbox = &mut self.core.outbox;
        if outbox.is_over() {
            outbox.evict();
        }
        if self.commit.is_failing() {
            outbox.evict_from_memory();
        }
        self.losses.tell(outbox.counts(), self.now.mono);
    }

    /// Gives up what is too old.
    pub(super) fn expire(&mut self) {
        let Core { outbox, pipeline, .. } = &mut self.core;
        if pipeline.expires() {
            outbox.expire(self.now.mono, self.link.rules(pipeline, Patience::AsConfigured));
        }
    }

    /// Sends what the window has room for.
    pub(super) fn send(&mut self) {
        let Some(connection) = self.link.connection else { return };
        let (now, patience) = (self.now.mono, self.patience());
        // No room: publishes for an earlier connection are still being thrown away. The acknowledgements wake us.
        while self.core.outbox.window() < self.link.window && self.parts.link.capacity() > 0 {
            let Core { outbox, pipeline, .. } = &mut self.core;
            let rules = self.link.rules(pipeline, patience);
            let Some(parcel) = outbox.take(now, rules) else { return };
            let Some(publish) = self.publish(parcel, connection) else { continue };
            self.link.status.publishes += 1;
            // There is room; when the link has ended, so has the run.
            let _ = self.parts.link.try_send(Request::Publish(publish));
        }
    }

    /// Makes a publish of a parcel, or of as much of it as is within the route's bytes. `None`: the broker takes none of it.
    pub(super) fn publish(&mut self, parcel: Parcel, connection: u64) -> Option<Publish> {
        let Parcel { ticket, route, start, mut records } = parcel;
        let Core { pipeline, outbox, route_names, clock, .. } = &mut self.core;
        let Parts { config, store, .. } = &self.parts;
        let gateway = &config.gateway.id;
        let epoch = Epoch { starts: start.start, ..store.epoch };
        let (encoding, goal) =
            pipeline.route(route).map_or((Encoding::Json, usize::MAX), |route| (route.encoding, route.batch_bytes));
        let most = self.link.max_payload();
        // A route that once carried the other kind may still have some of it waiting.
        let same = |record: &Record| {
            matches!(record.packet, Packet::Reading(_)) == matches!(records[0].1.packet, Packet::Reading(_))
        };
        let alike = records.iter().take_while(|(_, record)| same(record)).count();
        shorten(outbox, ticket, &mut records, alike);
        records.iter_mut().for_each(|(_, record)| put_right(clock, start.boot, record));
        let (content_type, payload) = loop {
            let (content_type, payload) = encode(pipeline, encoding, gateway, epoch, &records);
            let share = payload.len().saturating_sub(HEAD_BYTES).saturating_mul(256) / records.len();
            self.link.packet_bytes.insert(route, share.max(1));
            if payload.len() <= goal.min(most) || records.len() == 1 {
                break (content_type, payload);
            }
            // A little less than in proportion: columns grow by steps.
            let keep = records.len() * goal.min(most) / payload.len() * 31 / 32;
            shorten(outbox, ticket, &mut records, keep.max(1));
        };
        if payload.len() > most {
            let packets = self.core.outbox.dead_letter(ticket);
            self.dead_lettered(packets, &format!("more than the {most} bytes that the broker takes"));
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
        Some(Publish { connection, ticket: Some(ticket), topic, retain: false, content_type, payload })
    }
}

fn shorten(outbox: &mut Outbox, ticket: Ticket, records: &mut Vec<(Seq, Record)>, keep: usize) {
    if keep < records.len() {
        records.truncate(keep);
        outbox.shorten(ticket, keep);
    }
}

/// A time that this machine's clock gave before it was set.
fn put_right(clock: &Clock, boot: u32, record: &mut Record) {
    let at = record.at;
    let right = |time: &mut Unix, quality: &mut Quality| {
        if quality.has(Quality::TIME_UNCERTAIN)
            && let Some(right) = clock.put_right(boot, at, *time)
        {
            (*time, *quality) = (right, quality.without(Quality::TIME_UNCERTAIN));
        }
    };
    match &mut record.packet {
        Packet::Reading(Reading { time, quality, .. }) => right(time, quality),
        Packet::Message(message) if message.quality.has(Quality::TIME_UNCERTAIN) => {
            let Message { time, quality, .. } = Arc::make_mut(message);
            right(time, quality);
        }
        Packet::Message(_) => {}
    }
}

/// Content type and payload of records of one kind. Messages are JSON whatever the route says: it may have carried readings.
pub(super) fn encode(
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
    pub(super) fn rules<'a>(&'a self, pipeline: &'a Pipeline, patience: Patience) -> impl Fn(RouteId) -> Rule + 'a {
        move |id| {
            let Some(route) = pipeline.route(id) else {
                let (publish, expire_us) = (PublishRule::AtOnce, u64::MAX);
                return Rule { packets: 1, bytes: 0, wait_us: 0, publish, by_stream: true, expire_us };
            };
            let each = self.packet_bytes.get(&id).copied();
            let each = each.unwrap_or_else(|| route.encoding.usual_packet_bytes() * 256);
            let expected = route.batch_bytes.saturating_sub(HEAD_BYTES) * 256 / each;
            Rule {
                packets: route.batch_packets.min(expected).max(1),
                bytes: route.batch_bytes,
                wait_us: match patience {
                    Patience::AsConfigured => route.batch_wait_us,
                    Patience::None => 0,
                },
                publish: route.publish,
                by_stream: route.topic.by_stream(),
                expire_us: route.expire_us,
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
