//! How packets cross: readings as one block, messages field by field.

use std::sync::Arc;

use bytemuck::Zeroable;
use porin_core::{
    fault::{BadOutput, Fault},
    ids::StreamId,
    limits::CellLimits,
    packet::{MAX_PAYLOAD, MAX_TOPIC, Message, Quality, Reading},
    time::Unix,
};

use crate::{abi, guest::Guest};

/// What a cell takes or gives: a reading or a message.
pub trait CellPacket: Clone + private::Crosses {
    /// Its series.
    fn stream(&self) -> StreamId;
    /// Bytes that it holds besides its fixed size.
    fn bytes(&self) -> usize;
}

impl CellPacket for Reading {
    fn stream(&self) -> StreamId {
        self.stream
    }

    fn bytes(&self) -> usize {
        0
    }
}

impl CellPacket for Message {
    fn stream(&self) -> StreamId {
        self.stream
    }

    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

pub(crate) mod private {
    use super::{Fault, Guest};

    /// Into a cell's memory and out of it.
    pub trait Crosses: Sized {
        /// Lays a batch out and gives pointer and length.
        fn lower(guest: &mut Guest, batch: &[Self]) -> Result<[u32; 2], Fault>;
        /// Reads `len` packets at `pointer` and appends them.
        fn lift(memory: &[u8], pointer: u32, len: u32, out: &mut Vec<Self>) -> Result<(), Fault>;
    }
}

impl private::Crosses for Reading {
    fn lower(guest: &mut Guest, batch: &[Self]) -> Result<[u32; 2], Fault> {
        let [pointer, _] = abi::lower_bytes(guest, bytemuck::cast_slice(batch), 8)?;
        Ok([pointer, u32::try_from(batch.len()).unwrap_or(u32::MAX)])
    }

    fn lift(memory: &[u8], pointer: u32, len: u32, out: &mut Vec<Self>) -> Result<(), Fault> {
        let pointer = abi::aligned("readings", pointer, 8)?;
        let bytes = abi::bytes(memory, "readings", pointer, u64::from(len) * size_of::<Reading>() as u64)?;
        let before = out.len();
        out.resize(before + len as usize, Self::zeroed());
        bytemuck::cast_slice_mut(&mut out[before..]).copy_from_slice(bytes);
        Ok(())
    }
}

/// Bytes of `record message` in `wit/messages.wit`: time u64, stream u32, quality u32, topic and payload as pointer and length.
const MESSAGE: usize = 32;

impl private::Crosses for Message {
    fn lower(guest: &mut Guest, batch: &[Self]) -> Result<[u32; 2], Fault> {
        abi::lower_list(guest, batch, 8, |guest, message| {
            let mut record = [0; MESSAGE];
            record[..8].copy_from_slice(&message.time.0.to_le_bytes());
            record[8..12].copy_from_slice(&message.stream.0.to_le_bytes());
            record[12..16].copy_from_slice(&message.quality.0.to_le_bytes());
            abi::put(&mut record, 16, abi::lower_string(guest, &message.topic)?);
            abi::put(&mut record, 24, abi::lower_bytes(guest, &message.payload, 1)?);
            Ok(record)
        })
    }

    fn lift(memory: &[u8], pointer: u32, len: u32, out: &mut Vec<Self>) -> Result<(), Fault> {
        let pointer = abi::aligned("messages", pointer, 8)?;
        let records = abi::bytes(memory, "messages", pointer, u64::from(len) * MESSAGE as u64)?;
        // A cell may point to the same bytes again and again; what is copied out is bounded by what it could have.
        let mut copied = 0;
        for record in records.chunks_exact(MESSAGE) {
            let word = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
            let topic = abi::text(memory, "topic", word(16), word(20), MAX_TOPIC)?;
            let payload = abi::bytes(memory, "payload", word(24), word(28).into())?;
            if payload.len() > MAX_PAYLOAD {
                let (what, len) = ("bytes of payload", payload.len());
                return Err(Fault::BadOutput(BadOutput::TooMany { what, len, limit: MAX_PAYLOAD }));
            }
            copied += topic.len() + payload.len();
            if copied > memory.len() {
                let what = "bytes of messages";
                return Err(Fault::BadOutput(BadOutput::TooMany { what, len: copied, limit: memory.len() }));
            }
            out.push(Self {
                time: Unix(u64::from(word(0)) | u64::from(word(4)) << 32),
                stream: StreamId(word(8)),
                quality: Quality(word(12)),
                topic: Arc::from(topic),
                payload: Arc::from(payload),
            });
        }
        Ok(())
    }
}

/// The fuel that a batch adds to a call.
pub(crate) fn fuel<P: CellPacket>(batch: &[P], limits: &CellLimits) -> u64 {
    let bytes: usize = batch.iter().map(CellPacket::bytes).sum();
    let packets = limits.fuel_per_packet.saturating_mul(batch.len() as u64);
    packets.saturating_add(limits.fuel_per_byte.saturating_mul(bytes as u64))
}
