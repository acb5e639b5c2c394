//! The names that packets, records and cells go by. Each is its own type, so that one cannot stand for another.

use core::fmt;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::words::Word;

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

/// How urgent a route's packets are. Each has its share of the link, so none starves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Alarms: they overtake what waits, and are committed at once.
    High,
    /// Everything else.
    #[default]
    Normal,
    /// What may come when there is time.
    Low,
}

impl Word for Priority {
    const WORDS: &'static [(&'static str, Self)] =
        &[("high", Self::High), ("normal", Self::Normal), ("low", Self::Low)];
}

/// What a route gives up when the outbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Overflow {
    /// The oldest packets that may be given up.
    #[default]
    DropOldest,
    /// The packets that come.
    DropNewest,
    /// Nothing: the sources that feed it wait.
    Block,
}

impl Word for Overflow {
    const WORDS: &'static [(&'static str, Self)] =
        &[("drop-oldest", Self::DropOldest), ("drop-newest", Self::DropNewest), ("block", Self::Block)];
}

/// A queue of the outbox: one for each priority and rule of overflow. Durable: 1 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct QueueId(u16);

impl Default for QueueId {
    fn default() -> Self {
        Self::new(Priority::default(), Overflow::default())
    }
}

impl QueueId {
    /// That of routes which say nothing of it.
    pub const NORMAL: Self = Self(1);

    /// The queue of routes with this priority and rule.
    #[must_use]
    pub fn new(priority: Priority, overflow: Overflow) -> Self {
        let priority = match priority {
            Priority::Normal => 0,
            Priority::High => 3,
            Priority::Low => 6,
        };
        let overflow = match overflow {
            Overflow::DropOldest => 1,
            Overflow::DropNewest => 2,
            Overflow::Block => 3,
        };
        Self(priority + overflow)
    }

    /// The number by which the store knows it.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The queue with this number; `None`: a newer porin has made it.
    #[must_use]
    pub fn of_number(number: u16) -> Option<Self> {
        (1..=9).contains(&number).then_some(Self(number))
    }

    /// How urgent its packets are.
    #[must_use]
    pub fn priority(self) -> Priority {
        match self.0 {
            4..=6 => Priority::High,
            7.. => Priority::Low,
            _ => Priority::Normal,
        }
    }

    /// What it gives up when the outbox is full.
    #[must_use]
    pub fn overflow(self) -> Overflow {
        match self.0 % 3 {
            1 => Overflow::DropOldest,
            2 => Overflow::DropNewest,
            _ => Overflow::Block,
        }
    }

    /// The order in which queues are served.
    pub(crate) fn order(self) -> (Priority, u16) {
        (self.priority(), self.0)
    }
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
