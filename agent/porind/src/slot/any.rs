//! A slot of any world: whatever it takes and gives, in the parts where that does not matter.

use porin_core::{
    config::{LogTo, Slot as Config},
    ids::StreamId,
    packet::{Message, Packet, Reading},
    setup::StreamInfo,
    status::SlotStatus,
    time::Now,
};

use super::{Slot, log::LogEntry};
use crate::store::Digest;

/// A slot of any world.
pub(crate) enum AnySlot {
    Filter(Slot<Reading, Reading>),
    MessageFilter(Slot<Message, Message>),
    Decoder(Slot<Message, Reading>),
}

/// Whatever a slot takes and gives, in the parts where that does not matter.
macro_rules! any {
    ($slot:expr, $inner:ident => $what:expr) => {
        match $slot {
            AnySlot::Filter($inner) => $what,
            AnySlot::MessageFilter($inner) => $what,
            AnySlot::Decoder($inner) => $what,
        }
    };
}

impl AnySlot {
    pub(crate) fn restore_stored(&mut self) {
        any!(self, slot => slot.restore_stored());
    }

    pub(crate) fn config(&self) -> &Config {
        any!(self, slot => &slot.config)
    }

    pub(crate) fn add_stream(&mut self, stream: StreamInfo, outputs: Vec<StreamInfo>) -> bool {
        any!(self, slot => slot.add_stream(stream, outputs))
    }

    pub(crate) fn refuse(&mut self, id: StreamId, stream: String, reason: &str) {
        any!(self, slot => slot.refuse(id, stream, reason));
    }

    pub(crate) fn next_tick_us(&mut self, clock_us: u64) -> Option<u64> {
        any!(self, slot => slot.next_tick_us(clock_us))
    }

    pub(crate) fn last_tick(&self) -> Option<u64> {
        any!(self, slot => slot.last_tick_us)
    }

    pub(crate) fn set_last_tick(&mut self, at: Option<u64>) {
        any!(self, slot => slot.last_tick_us = at);
    }

    pub(crate) fn save(&mut self) -> Option<(&str, Digest, &[u8])> {
        any!(self, slot => slot.save())
    }

    /// Its name, and what its cell has learnt until now.
    pub(crate) fn state(&mut self) -> Option<(String, Vec<u8>)> {
        any!(self, slot => slot.state())
    }

    pub(crate) fn is_unwritten(&self) -> bool {
        any!(self, slot => slot.unwritten)
    }

    pub(crate) fn commit_failed(&mut self) {
        any!(self, slot => slot.commit_failed());
    }

    pub(crate) fn is_called(&self, now: Now) -> bool {
        any!(self, slot => slot.is_called(now))
    }

    pub(crate) fn count_replayed(&mut self) {
        any!(self, slot => slot.count_replayed());
    }

    /// SHA-256 of its component.
    pub(crate) fn digest(&self) -> Digest {
        any!(self, slot => slot.digest)
    }

    pub(crate) fn has_dead(&self) -> bool {
        any!(self, slot => !slot.dead.is_empty())
    }

    pub(crate) fn take_dead(&mut self) -> std::vec::Drain<'_, (Packet, String)> {
        any!(self, slot => slot.take_dead())
    }

    pub(crate) fn take_log(&mut self, take: impl FnMut(&str, &LogTo, &LogEntry) -> bool) {
        any!(self, slot => slot.take_log(take));
    }

    pub(crate) fn faults(&self) -> u64 {
        any!(self, slot => slot.status.faults)
    }

    pub(crate) fn begin_counts(&mut self) {
        any!(self, slot => slot.begin_counts());
    }

    pub(crate) fn status(&self) -> SlotStatus {
        any!(self, slot => slot.status())
    }
}
