//! A link: a stateless pipe to a broker, the uplink's or that of a sink.
//!
//! A link owns the only copy of nothing. It gets publishes with tickets and says what became of each; when the
//! connection is lost it says so, and whatever was under way comes again from whoever keeps it. The seam is this file:
//! another protocol is another file in `link/protocol/`.

pub(crate) mod mqtt;
mod protocol;

pub(crate) use protocol::v5::explain as explain_v5;

use porin_core::{ids::Epoch, outbox::Ticket, status::CertificateStatus, status::Presence, topic::Topic, words::Word};

/// Bytes of any MQTT packet that we take. MQTT 5 announces it, so the broker drops what is larger instead of us.
const MAX_INCOMING_BYTES: u32 = 65_536;

/// Requests between us and rumqttc's event loop. It is a pipe, not a store.
const REQUESTS: usize = 16;

/// Bytes of a payload that is passed on: the largest document.
const MAX_INCOMING_PAYLOAD: usize = porin_core::trust::MAX_ENVELOPE;

/// Bytes of a publish besides its packets: topic, properties, the payload's frame.
pub(crate) const FRAME_BYTES: usize = 1_024;

/// The content type of what is JSON.
pub(crate) const JSON: &str = "application/json";

/// Seconds for name, TCP, TLS and the broker's answer together: links by radio are slow.
const CONNECT_S: u64 = 30;

/// Who this gateway is, for birth and last will.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) gateway: String,
    pub(crate) epoch: Epoch,
}

impl Identity {
    fn topic(&self) -> String {
        Topic::State { gateway: &self.gateway }.to_string()
    }

    /// `docs/payloads.md` describes it.
    fn payload(&self, presence: Presence) -> String {
        let (Self { gateway, epoch }, state) = (self, presence.word());
        let agent = env!("CARGO_PKG_VERSION");
        format!(r#"{{"v":1,"gw":"{gateway}","state":"{state}","epoch":"{epoch}","agent":"{agent}"}}"#)
    }
}

/// What the loop asks of the link, for a connection. What is meant for an earlier one is dropped: it will come again.
#[derive(Debug)]
pub(crate) enum Request {
    Publish(Publish),
    /// To get what is published on a topic, what is retained there first.
    Subscribe {
        connection: u64,
        topic: String,
    },
    Unsubscribe {
        connection: u64,
        topic: String,
    },
}

/// What is to be published.
#[derive(Debug)]
pub(crate) struct Publish {
    /// The connection that it is meant for.
    pub(crate) connection: u64,
    /// `None`: nobody waits for the acknowledgement.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) topic: String,
    /// Whether the broker keeps it for whoever subscribes later.
    pub(crate) retain: bool,
    /// MQTT's content type of the payload.
    pub(crate) content_type: &'static str,
    pub(crate) payload: Vec<u8>,
}

/// What was published on a topic that was subscribed to.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

/// What the link says.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The certificates that the next connection uses.
    Certificates(Vec<CertificateStatus>),
    /// Connected. At most `window` publishes may be under way, each of at most `max_bytes`.
    Up { connection: u64, window: usize, max_bytes: usize },
    /// The broker has it.
    Acked(Ticket),
    /// The broker does not give us something that we subscribed to; perhaps not now, perhaps never.
    NotSubscribed,
    /// The broker does not take it now: why. It is to be sent again after a pause.
    PutOff(Ticket, &'static str),
    /// The broker will never take it: why.
    Refused(Ticket, &'static str),
    /// The connection is gone, or could not be made: why. Everything under way is to be sent again.
    Down(String),
    /// The farewell has been sent, or there was nobody to send it to.
    Closed,
}
