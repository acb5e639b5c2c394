//! Why a call into a cell failed, and what then happens to the packet.

use alloc::string::String;

/// Why a call into a cell failed. The call does not count; the cell is rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The cell's code trapped: a panic, an access out of bounds, a division by zero, a stack overflow.
    #[error("trap: {0}")]
    Trap(String),
    /// The call used up its fuel.
    #[error("out of fuel: the call may use {budget}")]
    OutOfFuel {
        /// What the call was given.
        budget: u64,
    },
    /// The cell asked for more memory or table space than its slot allows, and then trapped.
    #[error("out of memory: the slot allows {limit} bytes")]
    OutOfMemory {
        /// What the slot allows.
        limit: usize,
    },
    /// What the cell returned breaks the interface.
    #[error("bad output: {0}")]
    BadOutput(BadOutput),
    /// There is no cell to be called: it could not be made again, or it is in quarantine.
    #[error("no cell: {0}")]
    NoCell(String),
    /// The cell does not take the packet's stream. No call was made.
    #[error("the cell does not take the stream: {0}")]
    Refused(String),
}

/// How a cell's answer breaks the interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOutput {
    /// A pointer that is misaligned or reaches out of the cell's memory.
    #[error("{what} at {pointer:#x} with {bytes} bytes is not inside the cell's memory")]
    OutOfBounds {
        /// Which value.
        what: &'static str,
        /// Where the cell says it is.
        pointer: u32,
        /// How long it says it is.
        bytes: u64,
    },
    /// More than the slot allows.
    #[error("{what}: {len}, the slot allows {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many came.
        len: usize,
        /// How many may come.
        limit: usize,
    },
    /// A reading on a stream that is neither fed in nor declared as an output.
    #[error("a reading on stream {stream}, which the slot does not declare")]
    UndeclaredStream {
        /// The stream's id.
        stream: u32,
    },
    /// A text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// Which text.
        what: &'static str,
    },
    /// A discriminant that the type does not have.
    #[error("{what} has no case {value}")]
    NoSuchCase {
        /// Of which type.
        what: &'static str,
        /// What came.
        value: u32,
    },
}

/// What happens to a packet on which a cell faults alone, whose stream it does not take, or that comes while there is no cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultPolicy {
    /// It is kept with the fault, and can be given to a mended cell.
    #[default]
    DeadLetter,
    /// It goes on as it came.
    Pass,
    /// It is given up.
    Drop,
}

impl FaultPolicy {
    /// The words for them in a configuration.
    pub const ALL: [(&str, Self); 3] = [("dead-letter", Self::DeadLetter), ("pass", Self::Pass), ("drop", Self::Drop)];
}
