//! What a porin cell is written with.
//!
//! A cell is a decision about the readings of one stream. Write the decision as a [`Cell`], test it on the host
//! like any Rust type, and end the file with [`export!`]: the macro maps it to the `filter` world of
//! `wit/filter.wit`, where one component decides about many streams.
//!
//! ```
//! use porin_sdk::{Cell, Malformed, Reading, StateReader, StateWriter, Stream};
//!
//! /// Forwards a reading when its value is not that of the reading before.
//! #[derive(Default)]
//! struct Changes { last: Option<f64> }
//!
//! impl Cell for Changes {
//!     const PARAMS: &'static [&'static str] = &[];
//!     fn new(_stream: &Stream) -> Result<Self, String> { Ok(Self::default()) }
//!     fn process(&mut self, reading: Reading, out: &mut Vec<Reading>) {
//!         if self.last.replace(reading.value) != Some(reading.value) { out.push(reading); }
//!     }
//!     fn save(&self, state: &mut StateWriter) { state.option(self.last, StateWriter::f64); }
//!     fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed> {
//!         self.last = state.option(StateReader::f64)?;
//!         Ok(())
//!     }
//! }
//! # porin_sdk::export!(Changes);
//! # fn main() {}
//! ```
//!
//! What it promises: no allocation of its own per reading, a state that survives updates of the SDK (it starts
//! with a version), one page of memory for hundreds of streams. What it does not do: decisions across streams.
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::{string::String, vec::Vec};

#[cfg(target_arch = "wasm32")]
mod arena;
#[rustfmt::skip]
#[allow(missing_docs, unsafe_code, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, clippy::restriction)]
#[doc(hidden)]
pub mod bindings;
#[rustfmt::skip]
#[allow(missing_docs, unsafe_code, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, clippy::restriction)]
#[doc(hidden)]
pub mod bindings_decoder;
#[rustfmt::skip]
#[allow(missing_docs, unsafe_code, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, clippy::restriction)]
#[doc(hidden)]
pub mod bindings_message_filter;
#[rustfmt::skip]
#[allow(missing_docs, unsafe_code, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, clippy::restriction)]
#[doc(hidden)]
pub mod bindings_processing_unit;
pub mod math;
#[doc(hidden)]
#[allow(unsafe_code)]
pub mod rt;
mod state;
mod stream;
mod streams;

pub use bindings::porin::cell::types::{Param, Reading, Setup, StreamInfo, Value};
pub use bindings_message_filter::porin::cell::messages::Message;
pub use state::{Malformed, StateReader, StateWriter};
pub use stream::Stream;
pub use streams::{Packet, Streams};

/// A decision about the packets of one stream: readings in and out, unless it says otherwise.
///
/// The SDK makes one value per stream and hands it that stream's packets in the order of the source. `Cell<Message, Message>`
/// is a filter of messages, `Cell<Message>` a decoder: messages in, readings out, on the stream's outputs.
pub trait Cell<I = Reading, O = Reading>: Sized {
    /// The slot parameters that this cell knows. Any other name refuses the configuration.
    const PARAMS: &'static [&'static str];

    /// The version of the layout that `save` writes. Raise it when the layout changes; `restore` sees only its own.
    const STATE_VERSION: u8 = 1;

    /// Makes the decision for one stream, or says in words for the operator what is wrong with the parameters.
    fn new(stream: &Stream) -> Result<Self, String>;

    /// Decides about one packet: pushes to `out` what goes on, which may be nothing, the packet, or others.
    fn process(&mut self, packet: I, out: &mut Vec<O>);

    /// Time has passed without regard to packets. `now_us`: microseconds since the Unix epoch.
    fn tick(&mut self, _now_us: u64, _out: &mut Vec<O>) {}

    /// The last word on this stream: the source has ended, or the cell is replaced by one that refuses its state.
    fn flush(&mut self, _out: &mut Vec<O>) {}

    /// Writes everything that later decisions depend on. At most 65,535 bytes a stream.
    fn save(&self, state: &mut StateWriter);

    /// Reads back what `save` wrote, in the same order.
    fn restore(&mut self, state: &mut StateReader) -> Result<(), Malformed>;
}

/// The decision of the world `processing-unit` (`wit/cloud-demo`): a text in, a text out. An example; no gateway runs it.
pub trait ProcessingUnit {
    /// Answers one request.
    fn handle_request(input: &str) -> String;
}

/// Makes a component of a [`Cell`], on wasm32 only: `export!(Deadband)` of the world `filter`, `export!(Topics as
/// message_filter)` and `export!(Lht65 as decoder)` of those in `wit/messages.wit`; and of a [`ProcessingUnit`]:
/// `export!(CloudDemo as processing_unit)`.
#[macro_export]
macro_rules! export {
    ($cell:ty) => {
        $crate::export!($cell, bindings, $crate::Reading, $crate::Reading);
    };
    ($cell:ty as message_filter) => {
        $crate::export!($cell, bindings_message_filter, $crate::Message, $crate::Message);
    };
    ($cell:ty as decoder) => {
        $crate::export!($cell, bindings_decoder, $crate::Message, $crate::Reading);
    };
    ($unit:ty as processing_unit) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            #[allow(unsafe_code)]
            impl $crate::bindings_processing_unit::Guest for Component {
                fn handle_request(input: $crate::rt::String) -> $crate::rt::String {
                    <$unit as $crate::ProcessingUnit>::handle_request(&input)
                }
            }
    $crate::bindings_processing_unit::export!(Component with_types_in $crate::bindings_processing_unit);
        };
    };
    ($cell:ty, $bindings:ident, $input:ty, $output:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static CELL: $crate::rt::Single<$crate::Streams<$cell, $input, $output>> =
                $crate::rt::Single::new($crate::Streams::new(env!("CARGO_PKG_NAME")));

            struct Component;
            #[allow(unsafe_code)]
            impl $crate::$bindings::Guest for Component {
                fn init(setup: $crate::Setup) -> Result<(), $crate::rt::String> {
                    CELL.with(|cell| cell.init(setup))
                }
                fn streams_added(
                    streams: $crate::rt::Vec<$crate::StreamInfo>,
                    outputs: $crate::rt::Vec<$crate::StreamInfo>,
                ) {
                    CELL.with(|cell| cell.streams_added(&streams, &outputs))
                }
                fn process(batch: $crate::rt::Vec<$input>) -> $crate::rt::Vec<$output> {
                    CELL.with(|cell| cell.process(batch))
                }
                fn tick(now_us: u64) -> $crate::rt::Vec<$output> {
                    CELL.with(|cell| cell.tick(now_us))
                }
                fn flush() -> $crate::rt::Vec<$output> {
                    CELL.with(|cell| cell.flush())
                }
                fn save() -> $crate::rt::Vec<u8> {
                    CELL.with(|cell| cell.save())
                }
                fn restore(state: $crate::rt::Vec<u8>) -> Result<(), $crate::rt::String> {
                    CELL.with(|cell| cell.restore(&state))
                }
            }
    $crate::$bindings::export!(Component with_types_in $crate::$bindings);
        };
    };
}

/// Capability `log`: lines for the operator. Needs `grants = ["log"]` in the slot. Silent in tests on the host.
pub mod log {
    #[cfg(target_arch = "wasm32")]
    pub use crate::bindings::porin::cell::log::{Level, log};

    #[cfg(not(target_arch = "wasm32"))]
    pub use self::host::*;
    #[cfg(not(target_arch = "wasm32"))]
    mod host {
        pub use crate::bindings::porin::cell::log::Level;
        /// Writes one line: its level, where in the cell, what happened.
        pub fn log(_level: Level, _context: &str, _message: &str) {}
    }
}

/// The `logger` of the world `processing-unit`. Silent in tests on the host.
pub mod logger {
    #[cfg(target_arch = "wasm32")]
    pub use crate::bindings_processing_unit::techsheet::cloud_demo::logger::log;

    /// Writes one line.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn log(_message: &str) {}
}
