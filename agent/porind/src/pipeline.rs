//! The pipeline: from a batch of a source to the packets that the outbox keeps.
//!
//! Owns the cells and the table of streams. No I/O; called by the loop on its own thread, so there is no lock. In
//! steady state a numeric packet costs no allocation: every buffer is kept and used again.

mod counts;
mod declare;
mod recorder;
mod rehearsal;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use porin_core::{
    config::{LogTo, Route as RouteConfig, StreamConfig},
    dead::DeadLetter,
    ids::{QueueId, RouteId, StreamId},
    packet::{Message, Packet, PacketKind, Reading},
    stream::NameTable,
    time::{Now, Unix},
};

pub(crate) use self::{
    declare::Unfit,
    recorder::{Next, Recorder},
};
use crate::{
    slot::{AnySlot, LogEntry},
    store::Digest,
};

/// Routes with their slots, and what is known of each stream.
pub struct Pipeline {
    names: NameTable,
    known: BTreeMap<String, StreamConfig>,
    /// By stream id.
    streams: Vec<Stream>,
    routes: Vec<Route>,
    /// What streams have had, in the order in which that was found out.
    kinds: Vec<(StreamId, PacketKind)>,
    seen: BTreeSet<(StreamId, PacketKind)>,
    /// Routes that the batch at hand has packets for.
    touched: Vec<usize>,
}

#[derive(Default)]
struct Stream {
    received: u64,
    forwarded: u64,
    /// The routes that want its readings, and those that want its messages, once they have been found out.
    routes: ByKind<Option<Box<[usize]>>>,
}

/// Something for readings and something for messages.
#[derive(Default)]
struct ByKind<T> {
    readings: T,
    messages: T,
}

impl<T> ByKind<T> {
    fn of(&mut self, kind: PacketKind) -> &mut T {
        match kind {
            PacketKind::Readings => &mut self.readings,
            PacketKind::Messages => &mut self.messages,
        }
    }
}

/// Where packets of a route go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    /// The route.
    pub route: RouteId,
    /// The queue of its priority and overflow; `None`: it does not end at the uplink.
    pub queue: Option<QueueId>,
    /// How many sinks it ends at.
    pub sinks: usize,
}

/// What a route keeps of a batch.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Forwarded<'a> {
    Readings(&'a [Reading]),
    Messages(&'a [Message]),
}

impl Forwarded<'_> {
    /// Packets in it.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // what is empty is not kept
    pub fn len(&self) -> usize {
        match self {
            Self::Readings(readings) => readings.len(),
            Self::Messages(messages) => messages.len(),
        }
    }
}

/// What became of a dead letter that was to be given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replayed {
    Done,
    /// There is no such slot any more, or it takes packets of the other kind.
    NoSlot,
    /// Its cell is in quarantine, or cannot be made again yet.
    NotCalled,
}

struct Route {
    id: RouteId,
    config: RouteConfig,
    slots: Vec<AnySlot>,
    /// The streams that its first slot knows.
    declared: BTreeSet<StreamId>,
    received: u64,
    forwarded: u64,
    recorder: Recorder,
    /// What is on its way through the slots, and where the next slot puts it.
    readings: Flow<Reading>,
    messages: Flow<Message>,
}

/// Packets between two slots. Both buffers are used again and again.
struct Flow<P> {
    input: Vec<P>,
    output: Vec<P>,
}

impl<P> Default for Flow<P> {
    fn default() -> Self {
        Self { input: Vec::new(), output: Vec::new() }
    }
}

impl<P> Flow<P> {
    /// Takes the input through a slot: what it puts out is the input of the next.
    fn through(&mut self, process: impl FnOnce(&[P], &mut Vec<P>)) {
        self.output.clear();
        process(&self.input, &mut self.output);
        std::mem::swap(&mut self.input, &mut self.output);
    }
}

/// What became of the packets of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// Packets that at least one route wanted.
    pub routed: u64,
    /// Packets that no route wanted.
    pub unrouted: u64,
}

impl std::ops::AddAssign for Routed {
    fn add_assign(&mut self, other: Self) {
        self.routed += other.routed;
        self.unrouted += other.unrouted;
    }
}

impl Routed {
    fn packet(&mut self, routes: &[usize]) {
        *(if routes.is_empty() { &mut self.unrouted } else { &mut self.routed }) += 1;
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// The stream's name, or nothing for an id that was never given out.
    pub(crate) fn name(&self, id: StreamId) -> &str {
        self.names.name(id).unwrap_or_default()
    }

    /// The stream's SenML unit symbol, or nothing.
    pub(crate) fn unit(&self, id: StreamId) -> &str {
        self.known.get(self.name(id)).map_or("", |stream| &stream.unit)
    }

    /// Decides about readings whose streams were admitted: calls `keep` with what each route keeps of them.
    pub fn process(&mut self, batch: &[Reading], now: Now, keep: impl FnMut(To, Forwarded<'_>)) -> Routed {
        let mut count = Routed::default();
        for reading in batch {
            let stream = &mut self.streams[reading.stream.0 as usize];
            stream.received += 1;
            let routes = stream.routes.readings.as_deref().unwrap_or_default();
            count.packet(routes);
            for route in routes {
                let input = &mut self.routes[*route].readings.input;
                if input.is_empty() {
                    self.touched.push(*route);
                }
                input.push(*reading);
            }
        }
        self.run_touched(now, keep);
        count
    }

    /// The same for messages.
    pub fn process_messages(&mut self, batch: &[Message], now: Now, keep: impl FnMut(To, Forwarded<'_>)) -> Routed {
        let mut count = Routed::default();
        for message in batch {
            let stream = &mut self.streams[message.stream.0 as usize];
            stream.received += 1;
            let routes = stream.routes.messages.as_deref().unwrap_or_default();
            count.packet(routes);
            for route in routes {
                let input = &mut self.routes[*route].messages.input;
                if input.is_empty() {
                    self.touched.push(*route);
                }
                input.push(message.clone());
            }
        }
        self.run_touched(now, keep);
        count
    }

    fn run_touched(&mut self, now: Now, mut keep: impl FnMut(To, Forwarded<'_>)) {
        while let Some(route) = self.touched.pop() {
            let Route { received, readings, messages, config, recorder, .. } = &mut self.routes[route];
            *received += (readings.input.len() + messages.input.len()) as u64;
            if let Some(rule) = config.record {
                recorder.keep(rule, now, &readings.input, &messages.input);
            }
            self.run(route, 0, now, &mut keep);
        }
    }

    /// The sources have ended: every cell has the last word, and what it says goes on through the slots after it.
    pub fn flush(&mut self, now: Now, mut keep: impl FnMut(To, Forwarded<'_>)) {
        for route in 0..self.routes.len() {
            for slot in 0..self.routes[route].slots.len() {
                let Route { slots, readings, messages, .. } = &mut self.routes[route];
                match &mut slots[slot] {
                    AnySlot::Filter(slot) => slot.flush(now, &mut readings.input),
                    AnySlot::MessageFilter(slot) => slot.flush(now, &mut messages.input),
                    AnySlot::Decoder(slot) => slot.flush(now, &mut readings.input),
                }
                self.run(route, slot + 1, now, &mut keep);
            }
        }
    }

    /// Tells the cells whose interval has passed that time has. `clock_us` is the clock that ticks go by.
    pub fn tick(&mut self, clock_us: u64, now: Now, mut keep: impl FnMut(To, Forwarded<'_>)) {
        for route in 0..self.routes.len() {
            for slot in 0..self.routes[route].slots.len() {
                let Route { slots, readings, messages, .. } = &mut self.routes[route];
                match &mut slots[slot] {
                    AnySlot::Filter(slot) => slot.tick(clock_us, now, &mut readings.input),
                    AnySlot::MessageFilter(slot) => slot.tick(clock_us, now, &mut messages.input),
                    AnySlot::Decoder(slot) => slot.tick(clock_us, now, &mut readings.input),
                }
                self.run(route, slot + 1, now, &mut keep);
            }
        }
    }

    /// Gives a dead letter to its slot again, and what the cell makes of it to the slots after it.
    pub(crate) fn replay(
        &mut self,
        route: RouteId,
        slot: &str,
        packet: Packet,
        now: Now,
        mut keep: impl FnMut(To, Forwarded<'_>),
    ) -> Replayed {
        let Some(index) = self.routes.iter().position(|other| other.id == route) else { return Replayed::NoSlot };
        let Route { slots, readings, messages, .. } = &mut self.routes[index];
        let Some(first) = slots.iter().position(|other| other.config().name == slot) else { return Replayed::NoSlot };
        if !slots[first].is_called(now) {
            return Replayed::NotCalled;
        }
        match (packet, slots[first].config().world.input()) {
            (Packet::Reading(reading), PacketKind::Readings) => readings.input.push(reading),
            (Packet::Message(message), PacketKind::Messages) => messages.input.push(Arc::unwrap_or_clone(message)),
            (Packet::Reading(_) | Packet::Message(_), PacketKind::Readings | PacketKind::Messages) => {
                return Replayed::NoSlot;
            }
        }
        slots[first].count_replayed();
        self.run(index, first, now, &mut keep);
        Replayed::Done
    }

    /// Gives packets on which cells faulted and that are to be kept.
    pub(crate) fn take_dead(&mut self, at: Unix, mut bury: impl FnMut(DeadLetter)) {
        for Route { id, slots, .. } in &mut self.routes {
            for slot in slots.iter_mut().filter(|slot| slot.has_dead()) {
                let (name, digest) = (slot.config().name.clone(), slot.digest());
                for (packet, fault) in slot.take_dead() {
                    bury(DeadLetter { at, route: *id, slot: name.clone(), digest, fault, packet });
                }
            }
        }
    }

    /// Gives what cells have logged and is not for the journal, in order for each slot, until a line is not taken.
    pub(crate) fn take_log(&mut self, mut take: impl FnMut(&str, &LogTo, &LogEntry) -> bool) {
        for slot in self.routes.iter_mut().flat_map(|route| &mut route.slots) {
            slot.take_log(&mut take);
        }
    }

    /// Whether any route gives up what is too old.
    pub(crate) fn expires(&self) -> bool {
        self.routes.iter().any(|route| route.config.expire_us != u64::MAX)
    }

    /// Whether a cell has a state that the store has not.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.routes.iter().flat_map(|route| &route.slots).any(AnySlot::is_unwritten)
    }

    /// When the next tick is due, by the clock that ticks go by.
    pub(crate) fn next_tick_us(&mut self, clock_us: u64) -> Option<u64> {
        self.routes.iter_mut().flat_map(|route| &mut route.slots).filter_map(|slot| slot.next_tick_us(clock_us)).min()
    }

    /// Takes what a route has through its slots from `first` on.
    fn run(&mut self, route: usize, first: usize, now: Now, keep: &mut impl FnMut(To, Forwarded<'_>)) {
        let Route { id, config, slots, forwarded, readings, messages, .. } = &mut self.routes[route];
        for slot in &mut slots[first..] {
            if readings.input.is_empty() && messages.input.is_empty() {
                return;
            }
            match slot {
                AnySlot::Filter(slot) => readings.through(|input, output| slot.process(input, now, output)),
                AnySlot::MessageFilter(slot) => messages.through(|input, output| slot.process(input, now, output)),
                AnySlot::Decoder(slot) => {
                    slot.process(&messages.input, now, &mut readings.input);
                    messages.input.clear();
                }
            }
        }
        let to = To { route: *id, queue: config.uplink.then_some(config.queue), sinks: config.sinks.len() };
        // A route ends in one kind: the other's buffer is empty.
        let out = readings.input.iter().map(|reading| reading.stream);
        for stream in out.chain(messages.input.iter().map(|message| message.stream)) {
            let index = stream.0 as usize;
            if index >= self.streams.len() {
                self.streams.resize_with(index + 1, Stream::default);
            }
            self.streams[index].forwarded += 1;
            *forwarded += 1;
        }
        if !readings.input.is_empty() {
            keep(to, Forwarded::Readings(&readings.input));
            readings.input.clear();
        }
        if !messages.input.is_empty() {
            keep(to, Forwarded::Messages(&messages.input));
            messages.input.clear();
        }
    }

    /// Gives what is known of streams to another pipeline, and takes what that one knows: of two that run, one knows all of it.
    pub(crate) fn exchange_names(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.names, &mut other.names);
        std::mem::swap(&mut self.kinds, &mut other.kinds);
        std::mem::swap(&mut self.seen, &mut other.seen);
    }

    /// Goes on with the ticks of another pipeline, in slots with the same name and interval: windows end where they would have ended.
    pub(crate) fn take_ticks(&mut self, other: &Self) {
        let old: Vec<_> = other.routes.iter().flat_map(|route| &route.slots).collect();
        for slot in self.routes.iter_mut().flat_map(|route| &mut route.slots) {
            let config = slot.config();
            let same = old.iter().find(|old| {
                let before = old.config();
                before.name == config.name && before.tick_us == config.tick_us
            });
            if let Some(same) = same {
                slot.set_last_tick(same.last_tick());
            }
        }
    }

    /// Saves every cell and gives all states, by slot.
    pub(crate) fn states(&mut self) -> BTreeMap<String, Vec<u8>> {
        self.routes.iter_mut().flat_map(|route| &mut route.slots).filter_map(AnySlot::state).collect()
    }

    /// Names of the routes by their durable ids, as far as this configuration has them.
    pub(crate) fn route_names(&self) -> impl Iterator<Item = (RouteId, &str)> {
        self.routes.iter().map(|route| (route.id, route.config.name.as_str()))
    }

    /// Saves every cell and gives the states that have changed, by slot.
    pub(crate) fn save(&mut self) -> Vec<(String, Digest, Vec<u8>)> {
        let slots = self.routes.iter_mut().flat_map(|route| &mut route.slots);
        slots.filter_map(AnySlot::save).map(|(name, digest, state)| (name.to_owned(), digest, state.to_vec())).collect()
    }

    /// Nothing was written: the next `save` gives every state again.
    pub(crate) fn commit_failed(&mut self) {
        self.routes.iter_mut().flat_map(|route| &mut route.slots).for_each(AnySlot::commit_failed);
    }

    /// All stream names; the position is the id.
    pub(crate) fn names(&self) -> &[String] {
        self.names.names()
    }

    /// What streams have had; later finds are added at the end.
    pub(crate) fn kinds(&self) -> &[(StreamId, PacketKind)] {
        &self.kinds
    }

    /// The route's configuration, if it is one of today's.
    pub(crate) fn route(&self, id: RouteId) -> Option<&RouteConfig> {
        self.routes.iter().find(|route| route.id == id).map(|route| &route.config)
    }
}
