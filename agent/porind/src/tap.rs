//! Taps: packets as they pass, for whoever looks, as lines of JSON.
//!
//! `docs/status.md` describes the lines. Nobody looks most of the time, and then a tap costs the packets nothing.

use porin_core::{
    ids::RouteId,
    packet::{Message, Packet, Reading},
    payload,
    stream::Pattern,
};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::pipeline::Pipeline;

/// Lines that wait for a slow looker; beyond it they are counted and left out.
pub(crate) const TAP_QUEUE: usize = 1_024;

/// Looks at the streams that a pattern chooses.
#[derive(Debug)]
pub(crate) struct Tap {
    pattern: Pattern,
    lines: mpsc::Sender<String>,
    /// Lines left out since the last one that went through.
    missed: u64,
}

/// A packet on its way in, or kept by a route.
#[derive(Serialize)]
struct TappedPacket<'a> {
    at: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    stream: &'a str,
    time_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    quality: u32,
}

impl<'a> TappedPacket<'a> {
    fn new(pipeline: &'a Pipeline, route: Option<RouteId>, stream: &'a str, time_us: u64, quality: u32) -> Self {
        let at = if route.is_some() { "out" } else { "in" };
        let route = route.map(|route| pipeline.route(route).map_or("", |route| &route.name));
        Self { at, route, stream, time_us, value: None, topic: None, bytes: None, quality }
    }
}

impl Tap {
    pub(crate) fn new(pattern: Pattern, lines: mpsc::Sender<String>) -> Self {
        Self { pattern, lines, missed: 0 }
    }

    /// Says that it looks from now on.
    pub(crate) fn begin(&mut self) {
        // The queue is empty yet.
        let _ = self.lines.try_send("{\"looking\":true}\n".into());
    }

    /// Whether nobody looks any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lines.is_closed()
    }

    /// Shows a reading: as a source made it, or with the route that keeps it.
    pub(crate) fn reading(&mut self, pipeline: &Pipeline, route: Option<RouteId>, reading: &Reading) {
        let Reading { time, value, stream, quality } = reading;
        if !self.has_room_for(pipeline.name(*stream)) {
            return;
        }
        let value = RawValue::from_string(payload::value_as_json(*value)).ok();
        let (time_us, quality, stream) = (time.0, quality.0, pipeline.name(*stream));
        self.line(&TappedPacket { value, ..TappedPacket::new(pipeline, route, stream, time_us, quality) });
    }

    /// Shows a message likewise.
    pub(crate) fn message(&mut self, pipeline: &Pipeline, route: Option<RouteId>, message: &Message) {
        let Message { time, stream, quality, topic, payload } = message;
        if !self.has_room_for(pipeline.name(*stream)) {
            return;
        }
        let (time_us, quality, stream) = (time.0, quality.0, pipeline.name(*stream));
        let (topic, bytes) = (Some(&**topic), Some(payload.len()));
        self.line(&TappedPacket { topic, bytes, ..TappedPacket::new(pipeline, route, stream, time_us, quality) });
    }

    /// Shows a packet that a route keeps.
    pub(crate) fn kept(&mut self, pipeline: &Pipeline, route: RouteId, packet: &Packet) {
        match packet {
            Packet::Reading(reading) => self.reading(pipeline, Some(route), reading),
            Packet::Message(message) => self.message(pipeline, Some(route), message),
        }
    }

    /// Whether the stream is looked at and a line would go through; one that would not is counted. Before any text is made.
    fn has_room_for(&mut self, stream: &str) -> bool {
        if !self.pattern.matches(stream) {
            return false;
        }
        // Two: there may be a line about those missed.
        let room = self.lines.capacity() >= 2;
        self.missed += u64::from(!room);
        room
    }

    fn line(&mut self, line: &TappedPacket<'_>) {
        if self.missed > 0 && self.lines.try_send(format!("{{\"missed\":{}}}\n", self.missed)).is_ok() {
            self.missed = 0;
        }
        let sent = serde_json::to_string(line).is_ok_and(|text| self.lines.try_send(text + "\n").is_ok());
        self.missed += u64::from(!sent);
    }
}
