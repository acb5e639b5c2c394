//! What travels the data path.

use alloc::vec::Vec;

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
}

/// What a source made: readings in its own order, on streams by the source's own numbers.
///
/// A source does not know the durable [`StreamId`]s; the loop translates in place when it takes the batch.
pub type Batch = Vec<Reading>;

/// Goes with a batch and comes back to its source after the commit that contains what became of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckToken {
    /// The source, by its place in the configuration.
    pub source: usize,
    /// Everything that the source has made up to this count is settled.
    pub upto: u64,
}
