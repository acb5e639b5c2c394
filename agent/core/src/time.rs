//! Two kinds of time that must never be mixed: what the world calls now, and what only ever grows.

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch. May repeat and step backward: it is somebody's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Unix(pub u64);

/// Microseconds since this program started. Never steps backward; means nothing after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The moment `us` microseconds later.
    #[must_use]
    pub fn after(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to `self`, or 0.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The moment of a decision. The core is told; it never asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What cells, windows and ticks see: packet time on replay routes, else wall time.
    pub unix: Unix,
    /// What commits and back-off see.
    pub mono: Monotonic,
}
