//! What a cell may use. Every number has its reason beside it.

/// The limits of one cell in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellLimits {
    /// Bytes of the component file.
    pub component_bytes: usize,
    /// Fuel for any call, before what its packets add. 10⁶ is about 1.6 ms of a loop on x86-64.
    pub fuel_per_call: u64,
    /// Fuel that each packet of a batch adds. The stock cells use below 200.
    pub fuel_per_packet: u64,
    /// Fuel that each byte of a message adds: enough to look at it some ten times.
    pub fuel_per_byte: u64,
    /// Bytes of linear memory. A cell with hundreds of streams fits in one page of 65,536.
    pub memory_bytes: usize,
    /// ...and for each stream on top: thousands of streams need room, and `hampel` takes 1.7 KB for one at the most.
    pub memory_bytes_per_stream: usize,
    /// Elements of all tables. A Rust cell has one table with its indirect calls, tens of entries.
    pub table_elements: usize,
    /// Readings that one call may return for each reading it was given...
    pub outputs_per_reading: usize,
    /// ...and on top: a tick or a flush has no input, and answers for every stream.
    pub outputs_per_stream: usize,
    /// Bytes that `save` may return. They are written with every commit.
    pub state_bytes: usize,
    /// ...and for each stream on top: `hampel` saves 815 at the most.
    pub state_bytes_per_stream: usize,
    /// Lines that one call may log. A loop must not fill the journal.
    pub log_lines_per_call: usize,
    /// Bytes of any text that a cell gives: an error, a line of the log.
    pub text_bytes: usize,
}

impl Default for CellLimits {
    fn default() -> Self {
        Self {
            component_bytes: 51_200,
            fuel_per_call: 1_000_000,
            fuel_per_packet: 10_000,
            fuel_per_byte: 100,
            memory_bytes: 1 << 20,
            memory_bytes_per_stream: 2_048,
            table_elements: 1_024,
            outputs_per_reading: 8,
            outputs_per_stream: 8,
            state_bytes: 1 << 18,
            state_bytes_per_stream: 1_024,
            log_lines_per_call: 16,
            text_bytes: 1_024,
        }
    }
}
