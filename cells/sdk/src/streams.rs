//! One component, many streams: the exports of a world over one [`Cell`] value per stream.
//!
//! State, version 2: the byte of this frame's version, the byte of [`Cell::STATE_VERSION`], the name of the cell's
//! package (u8 length, text), then for each stream its id (u32), a length (u16) and the bytes that the cell wrote. Version 1 had
//! lengths of one byte, and is still read.

use alloc::{string::String, vec::Vec};
use core::marker::PhantomData;

use crate::{Cell, Malformed, Message, Param, Reading, Setup, StateReader, StateWriter, Stream, StreamInfo, rt};

const FRAME_VERSION: u8 = 2;

/// What a cell takes: a reading or a message.
pub trait Packet {
    /// The id of its stream.
    fn stream(&self) -> u32;
}

impl Packet for Reading {
    fn stream(&self) -> u32 {
        self.stream
    }
}

impl Packet for Message {
    fn stream(&self) -> u32 {
        self.stream
    }
}

/// The cell values of all streams that the route feeds in.
#[derive(Debug)]
pub struct Streams<C, I, O> {
    /// Of the cell's package: a state of another cell is not taken for ours.
    name: &'static str,
    params: Vec<Param>,
    /// Sorted by id. Hundreds of streams in one page: no map, no gaps.
    cells: Vec<(u32, C)>,
    /// Where the next reading is likely to belong: sources cycle through their streams.
    guess: usize,
    packets: PhantomData<fn(I) -> O>,
}

impl<C: Cell<I, O>, I: Packet, O> Streams<C, I, O> {
    /// No streams yet. `name` is that of the cell's package, at most 255 bytes.
    pub const fn new(name: &'static str) -> Self {
        Self { name, params: Vec::new(), cells: Vec::new(), guess: 0, packets: PhantomData }
    }

    /// See `init` in `wit/filter.wit`.
    pub fn init(&mut self, setup: Setup) -> Result<(), String> {
        if let Some(param) = setup.params.iter().find(|param| !C::PARAMS.contains(&param.name.as_str())) {
            return Err(["unknown parameter `", &param.name, "`; known: ", &C::PARAMS.join(", ")].concat());
        }
        self.params = setup.params;
        self.cells.clear();
        self.add(&setup.streams, &setup.outputs)
    }

    /// See `streams-added` in `wit/filter.wit`. A stream whose parameters do not fit traps: there is nobody to tell.
    pub fn streams_added(&mut self, streams: &[StreamInfo], outputs: &[StreamInfo]) {
        if self.add(streams, outputs).is_err() {
            rt::trap();
        }
    }

    fn add(&mut self, streams: &[StreamInfo], outputs: &[StreamInfo]) -> Result<(), String> {
        let per_stream = outputs.len().checked_div(streams.len()).unwrap_or(0);
        for (index, info) in streams.iter().enumerate() {
            let outputs = &outputs[index * per_stream..][..per_stream];
            let cell = C::new(&Stream { info, params: &self.params, outputs })?;
            match self.position(info.id) {
                Ok(at) => self.cells[at].1 = cell,
                Err(at) => self.cells.insert(at, (info.id, cell)),
            }
        }
        Ok(())
    }

    /// See `process` in `wit/filter.wit`. The host feeds declared streams only.
    pub fn process(&mut self, batch: Vec<I>) -> Vec<O> {
        let mut out = Vec::with_capacity(batch.len());
        for packet in batch {
            let stream = packet.stream();
            if self.cells.get(self.guess).is_none_or(|(id, _)| *id != stream) {
                let Ok(at) = self.position(stream) else { continue };
                self.guess = at;
            }
            self.cells[self.guess].1.process(packet, &mut out);
            self.guess += 1;
            if self.guess == self.cells.len() {
                self.guess = 0;
            }
        }
        out
    }

    /// See `tick` in `wit/filter.wit`.
    pub fn tick(&mut self, now_us: u64) -> Vec<O> {
        let mut out = Vec::new();
        self.cells.iter_mut().for_each(|(_, cell)| cell.tick(now_us, &mut out));
        out
    }

    /// See `flush` in `wit/filter.wit`.
    pub fn flush(&mut self) -> Vec<O> {
        let mut out = Vec::new();
        self.cells.iter_mut().for_each(|(_, cell)| cell.flush(&mut out));
        out
    }

    /// See `save` in `wit/filter.wit`. More than 65,535 bytes for one stream trap.
    pub fn save(&self) -> Vec<u8> {
        let mut state = StateWriter::default();
        state.0.extend_from_slice(&self.head());
        state.0.extend_from_slice(self.name.as_bytes());
        for (id, cell) in &self.cells {
            state.u32(*id);
            let length_at = state.0.len();
            state.0.extend_from_slice(&[0; 2]);
            cell.save(&mut state);
            let length = u16::try_from(state.0.len() - length_at - 2).unwrap_or_else(|_| rt::trap());
            state.0[length_at..length_at + 2].copy_from_slice(&length.to_le_bytes());
        }
        state.0
    }

    /// See `restore` in `wit/filter.wit`. What is saved of a stream that this route no longer feeds in is dropped.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut state = StateReader(bytes);
        let frame = state.u8().unwrap_or(0);
        let known = matches!(frame, 1 | FRAME_VERSION);
        if !known || state.take(2) != Ok(&self.head()[1..]) || state.take(self.name.len()) != Ok(self.name.as_bytes()) {
            return Err("the state is of another cell or version".into());
        }
        // The frame is checked whole before any stream takes its part.
        let skip = |_: &mut C, fields: &mut StateReader| fields.take(fields.0.len()).map(|_| ());
        self.read_streams(frame, StateReader(state.0), skip)
            .and_then(|()| self.read_streams(frame, state, Cell::restore))
            .map_err(|Malformed| String::from("the state is cut short or damaged"))
    }

    fn read_streams(
        &mut self,
        frame: u8,
        mut state: StateReader,
        mut each: impl FnMut(&mut C, &mut StateReader) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        while !state.0.is_empty() {
            let id = state.u32()?;
            let length = if frame == 1 { state.u8()?.into() } else { state.length()? };
            let mut fields = StateReader(state.take(length)?);
            if let Ok(at) = self.position(id) {
                each(&mut self.cells[at].1, &mut fields)?;
                if !fields.0.is_empty() {
                    return Err(Malformed);
                }
            }
        }
        Ok(())
    }

    /// What a state begins with.
    fn head(&self) -> [u8; 3] {
        [FRAME_VERSION, C::STATE_VERSION, u8::try_from(self.name.len()).unwrap_or(u8::MAX)]
    }

    fn position(&self, stream: u32) -> Result<usize, usize> {
        self.cells.binary_search_by_key(&stream, |(id, _)| *id)
    }
}
