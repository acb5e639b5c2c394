//! What a cell learns when it is made: its parameters, the streams that it is fed, those it may emit on.
//!
//! The shapes are those of `interface types` in `wit/filter.wit`.

use alloc::{string::String, vec::Vec};

use crate::{ids::StreamId, packet::PacketKind};

/// The interface that a component speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum World {
    /// `porin:cell/filter@0.1.0`: readings in, readings out.
    #[default]
    Filter,
    /// `porin:cell/message-filter@0.1.0`: messages in, messages out.
    MessageFilter,
    /// `porin:cell/decoder@0.1.0`: messages in, readings out.
    Decoder,
}

impl World {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Filter, Self::MessageFilter, Self::Decoder];

    /// Its name in `wit/` and in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::MessageFilter => "message-filter",
            Self::Decoder => "decoder",
        }
    }

    /// What it takes.
    #[must_use]
    pub fn input(self) -> PacketKind {
        match self {
            Self::Filter => PacketKind::Readings,
            Self::MessageFilter | Self::Decoder => PacketKind::Messages,
        }
    }

    /// What it gives.
    #[must_use]
    pub fn output(self) -> PacketKind {
        match self {
            Self::Filter | Self::Decoder => PacketKind::Readings,
            Self::MessageFilter => PacketKind::Messages,
        }
    }
}

/// A parameter from the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its key.
    pub name: String,
    /// Its value, typed: a cell never parses text.
    pub value: Value,
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Flag(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

/// A stream as a cell learns of it.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamInfo {
    /// By which its readings go.
    pub id: StreamId,
    /// `boiler/temp`.
    pub name: String,
    /// SenML unit symbol, or empty.
    pub unit: String,
    /// Its own parameters, such as `span`.
    pub params: Vec<Param>,
}

/// What a cell is made with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Setup {
    /// The slot's parameters.
    pub params: Vec<Param>,
    /// What the route feeds in.
    pub streams: Vec<StreamInfo>,
    /// What the cell may emit on besides: for each stream in turn, one for each of the slot's `outputs`.
    pub outputs: Vec<StreamInfo>,
}
