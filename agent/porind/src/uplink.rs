//! The uplink: a stateless pipe to the broker.
//!
//! A link owns the only copy of nothing. It gets publishes with tickets and says what became of each; when the
//! connection is lost it says so, and whatever was under way comes again from the outbox. The seam is this file:
//! another protocol is another file beside `uplink/mqtt5.rs`.

pub(crate) mod mqtt5;

use porin_core::outbox::Ticket;

/// What the loop asks of the link.
#[derive(Debug)]
pub(crate) struct Publish {
    /// The connection that it is meant for. One for an earlier connection is dropped: it will come again.
    pub(crate) connection: u64,
    /// `None`: nobody waits for the acknowledgement.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) topic: String,
    /// MQTT's content type of the payload.
    pub(crate) content_type: &'static str,
    pub(crate) payload: Vec<u8>,
}

/// What the link says.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// Connected. At most `window` publishes may be under way, each of at most `max_bytes`.
    Up { connection: u64, window: usize, max_bytes: usize },
    /// The broker has it.
    Acked(Ticket),
    /// The broker will never take it: why.
    Refused(Ticket, String),
    /// The connection is gone, or could not be made: why. Everything under way is to be sent again.
    Down(String),
    /// The farewell has been sent, or there was nobody to send it to.
    Closed,
}
