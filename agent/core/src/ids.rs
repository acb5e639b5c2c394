//! The names that packets, records and cells go by. Each is its own type, so that one cannot stand for another.

use core::fmt;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

/// A stream, by the order of first appearance in this gateway's store. Durable, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable, Serialize, Deserialize)]
#[repr(transparent)]
pub struct StreamId(pub u32);

/// A route, by the order of first appearance in this gateway's store. Durable, never reused: a record kept under an
/// older configuration still knows where it belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(transparent)]
pub struct RouteId(pub u32);

/// The position of a record in its queue. Rises by one for each record; durable within an [`Epoch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The seq after this one. 2⁶⁴ records are never reached: at a million a second it takes 584,000 years.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A queue of the outbox: one for each sink and priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(transparent)]
pub struct QueueId(pub u16);

impl QueueId {
    /// The uplink's queue of ordinary packets.
    pub const UPLINK: Self = Self(1);
}

/// Which life of the store a seq belongs to: (gateway, epoch, seq) names one packet for ever.
///
/// `store` is drawn at random when a store is made or restored; `starts` is counted durably before the first seq of
/// a run is given out. So a seq that is given out again after a power cut never names another packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Random, one for each store.
    pub store: u64,
    /// How often the agent has started on this store.
    pub starts: u32,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.store, self.starts)
    }
}

impl core::str::FromStr for Epoch {
    type Err = ();

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (store, starts) = text.split_once('-').ok_or(())?;
        let store = u64::from_str_radix(store, 16).ok().filter(|_| store.len() == 16).ok_or(())?;
        Ok(Self { store, starts: starts.parse().map_err(|_| ())? })
    }
}
