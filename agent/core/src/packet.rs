//! What travels the data path.

use alloc::sync::Arc;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::{ids::StreamId, time::Unix};

/// One numeric observation.
///
/// The layout is that of `record reading` in `wit/filter.wit` (24 bytes, little-endian, no padding), so that a batch
/// enters and leaves a cell as one block copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Reading {
    /// When it was observed, by the source's clock.
    pub time: Unix,
    /// In the stream's unit. Any bit pattern of a float, NaN included.
    pub value: f64,
    /// The series it belongs to.
    pub stream: StreamId,
    /// How far it can be trusted.
    pub quality: Quality,
}

#[cfg(target_endian = "big")]
compile_error!("readings cross into cells as little-endian bytes");

/// How far a reading can be trusted: bits. 0 is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Quality(pub u32);

impl Quality {
    /// Nothing is known against it.
    pub const GOOD: Self = Self(0);
    /// Its time is that of a clock that had not been set, and nobody knows by how much it was wrong.
    pub const TIME_UNCERTAIN: Self = Self(1);
    /// It is known to be wrong.
    pub const BAD: Self = Self(2);
    /// It is the last one there was, repeated.
    pub const STALE: Self = Self(4);
    /// It is beyond what the sensor can measure.
    pub const OUT_OF_RANGE: Self = Self(8);
    /// Between a source and the pipeline only: its time is that of this machine's clock.
    pub const OWN_CLOCK: Self = Self(1 << 31);

    /// Whether all of these bits are set.
    #[must_use]
    pub fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// With these bits set.
    #[must_use]
    pub fn with(self, bits: Self) -> Self {
        Self(self.0 | bits.0)
    }

    /// With these bits cleared.
    #[must_use]
    pub fn without(self, bits: Self) -> Self {
        Self(self.0 & !bits.0)
    }
}

/// One payload of bytes with its topic, before or instead of becoming readings. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// When it was made, or came, by the source's clock.
    pub time: Unix,
    /// The series it belongs to.
    pub stream: StreamId,
    /// How far it can be trusted.
    pub quality: Quality,
    /// Where it was published.
    pub topic: Arc<str>,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Arc<[u8]>,
}

/// Bytes of a message's payload. A sensor's has some hundreds.
pub const MAX_PAYLOAD: usize = 65_536;

/// Bytes of a message's topic: MQTT allows 65,535, brokers in the cloud 256.
pub const MAX_TOPIC: usize = 1_024;

/// What packets of a stream, a route's beginning or end, a cell's input or output are. Never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum PacketKind {
    Readings,
    Messages,
}

impl PacketKind {
    /// The word for it in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Messages => "messages",
        }
    }
}

/// What travels the data path.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Packet {
    Reading(Reading),
    Message(Arc<Message>),
}

impl From<Reading> for Packet {
    fn from(reading: Reading) -> Self {
        Self::Reading(reading)
    }
}

impl From<Message> for Packet {
    fn from(message: Message) -> Self {
        Self::Message(Arc::new(message))
    }
}

impl Packet {
    /// The series it belongs to.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Reading(reading) => reading.stream,
            Self::Message(message) => message.stream,
        }
    }

    /// Bytes that it holds besides its fixed size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Reading(_) => 0,
            Self::Message(message) => message.topic.len() + message.payload.len(),
        }
    }
}

/// Goes with a batch and comes back to its source after the commit that contains what became of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckToken {
    /// The source, by its place in the configuration.
    pub source: usize,
    /// Everything that the source has made up to this count is settled.
    pub upto: u64,
}
