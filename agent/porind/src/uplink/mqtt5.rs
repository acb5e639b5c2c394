//! MQTT 5 over rumqttc, used in the one way that loses nothing.
//!
//! rumqttc forgets unacknowledged publishes when a session is lost, so it never owns one: every connection gets a new
//! client and a clean start, and packet ids are mapped to tickets within one connection. Its `poll` is called in a
//! plain loop that is dropped only as a whole. A refused acknowledgement comes as an ordinary event; the reason is
//! looked at here.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    time::Duration,
};

use porin_core::{config::Uplink, ids::Epoch, outbox::Ticket};
use ring::rand::{SecureRandom, SystemRandom};
use rumqttc::{
    Outgoing,
    v5::{
        AsyncClient, ConnectionError, Event, EventLoop, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{ConnAck, LastWill, Packet, PubAck, PubAckReason, PublishProperties},
        },
    },
};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{LinkEvent, Publish};
use crate::inbox::Doorbell;

/// Bytes of any MQTT packet that we take. It is announced, so the broker drops what is larger instead of us.
const MAX_INCOMING_BYTES: u32 = 65_536;

/// Bytes of a publish when the broker names no maximum.
const MAX_OUTGOING_BYTES: usize = 262_144;

/// A broker must take this much: one packet with the longest names there are.
const MIN_OUTGOING_BYTES: usize = 1_600;

/// The content type of birth and farewell.
const JSON: &str = "application/json";

/// Packet ids wrap at the window; subscribes and the birth burn ids of the same counter.
const RESERVED_IDS: u16 = 8;

/// Requests between us and rumqttc's event loop. It is a pipe, not a store.
const REQUESTS: usize = 16;

/// The shortest pause between attempts: AWS IoT allows one CONNECT a second for a client id.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The longest that the first pause may be; each failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause: a broker that is back has its gateways back within five minutes, not all at once.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Time for the farewell at the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// Who this gateway is, for birth and last will.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) gateway: String,
    pub(crate) epoch: Epoch,
}

impl Identity {
    fn topic(&self) -> String {
        format!("porin/v1/gw/{}/state", self.gateway)
    }

    /// `docs/payloads.md` describes it.
    fn payload(&self, state: &str) -> String {
        let Self { gateway, epoch } = self;
        let agent = env!("CARGO_PKG_VERSION");
        format!(r#"{{"v":1,"gw":"{gateway}","state":"{state}","epoch":"{epoch}","agent":"{agent}"}}"#)
    }
}

/// Where events go.
struct Events {
    queue: mpsc::Sender<LinkEvent>,
    doorbell: Doorbell,
}

impl Events {
    async fn tell(&self, event: LinkEvent) {
        // The loop outlives the link; when it is gone nobody minds.
        let _ = self.queue.send(event).await;
        self.doorbell.ring();
    }
}

/// Connects, and connects again, until `stop` becomes true.
pub(crate) async fn run(
    config: Uplink,
    identity: Identity,
    mut publishes: mpsc::Receiver<Publish>,
    queue: mpsc::Sender<LinkEvent>,
    doorbell: Doorbell,
    mut stop: watch::Receiver<bool>,
) {
    let events = Events { queue, doorbell };
    let mut connection = 0;
    let mut pause = FIRST_PAUSE;
    while !*stop.borrow() {
        connection += 1;
        let link = Connection::new(&config, &identity, connection, &events);
        let reason = link.run(&mut publishes, &mut stop).await;
        if *stop.borrow() {
            break;
        }
        // Connected is not enough: two clients with one id connect for ever, and throw each other out.
        if link.took_some.get() {
            pause = FIRST_PAUSE;
        }
        // Meant for the connection that is gone: they come again from the outbox.
        while publishes.try_recv().is_ok() {}
        warn!(broker = %format!("{}:{}", config.host, config.port), reason, "no connection to the broker");
        events.tell(LinkEvent::Down(reason)).await;
        let jittered = jitter(pause);
        pause = (pause * 2).min(MAX_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            _ = stop.changed() => {}
        }
    }
    events.tell(LinkEvent::Closed).await;
}

/// Full jitter: anything from the shortest pause to this one, so that a fleet does not come back at once.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without random numbers everybody waits the whole pause.
    let share = match SystemRandom::new().fill(&mut random) {
        Ok(()) => f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX),
        Err(_) => 1.0,
    };
    MIN_PAUSE + pause.saturating_sub(MIN_PAUSE).mul_f64(share)
}

/// One connection: a client, its event loop, and which packet id is which ticket.
struct Connection<'a> {
    number: u64,
    in_flight: u16,
    /// The connection is given up after so long without any event. A ping is one, so it is longer than two of them.
    silence: Duration,
    client: AsyncClient,
    event_loop: RefCell<Option<EventLoop>>,
    /// Tickets handed to rumqttc that have no packet id yet, in order. `None`: not the outbox's.
    handed_over: RefCell<VecDeque<Option<Ticket>>>,
    /// Whether the broker has acknowledged a publish.
    took_some: Cell<bool>,
    identity: &'a Identity,
    events: &'a Events,
}

impl<'a> Connection<'a> {
    fn new(config: &Uplink, identity: &'a Identity, number: u64, events: &'a Events) -> Self {
        let mut options = MqttOptions::new(&config.client_id, &config.host, config.port);
        let will = identity.payload("offline");
        options
            .set_clean_start(true)
            .set_keep_alive(Duration::from_secs(config.keep_alive_s.into()))
            .set_max_packet_size(Some(MAX_INCOMING_BYTES))
            .set_outgoing_inflight_upper_limit(config.in_flight)
            .set_last_will(LastWill::new(identity.topic(), will, QoS::AtLeastOnce, true, None));
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, event_loop) = AsyncClient::new(options, REQUESTS);
        Self {
            number,
            in_flight: config.in_flight,
            silence: Duration::from_secs(u64::from(config.keep_alive_s) * 2 + 5),
            client,
            event_loop: RefCell::new(Some(event_loop)),
            handed_over: RefCell::default(),
            took_some: Cell::new(false),
            identity,
            events,
        }
    }

    /// Runs until the connection ends, or `stop`. Gives the reason.
    async fn run(&self, publishes: &mut mpsc::Receiver<Publish>, stop: &mut watch::Receiver<bool>) -> String {
        let Some(event_loop) = self.event_loop.take() else { return String::new() };
        let (up, is_up) = watch::channel(false);
        let mut stop_at_last = stop.clone();
        // Both halves are whole loops: the event loop is dropped only when it is no longer wanted.
        tokio::select! {
            reason = self.poll(event_loop, up) => reason,
            () = self.publish(publishes, is_up, stop) => "stopped".into(),
            // A broker that takes nothing more does not keep the agent from ending.
            () = async {
                let _ = stop_at_last.wait_for(|stop| *stop).await;
                tokio::time::sleep(FAREWELL).await;
            } => "stopped".into(),
        }
    }

    /// The half that listens.
    async fn poll(&self, mut event_loop: EventLoop, up: watch::Sender<bool>) -> String {
        let mut tickets: HashMap<u16, Option<Ticket>> = HashMap::new();
        loop {
            // rumqttc's own keep-alive does not run while it writes: a broker that reads nothing would hold it for ever.
            let event = match tokio::time::timeout(self.silence, event_loop.poll()).await {
                Ok(Ok(event)) => event,
                Ok(Err(ConnectionError::RequestsDone)) => return "stopped".into(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the broker takes nothing".into(),
            };
            match event {
                Event::Incoming(Packet::ConnAck(connack)) => {
                    if let Some(reason) = self.came_up(&connack).await {
                        return reason;
                    }
                    let _ = up.send(true);
                }
                Event::Outgoing(Outgoing::Publish(id)) => {
                    let ticket = self.handed_over.borrow_mut().pop_front();
                    tickets.insert(id, ticket.flatten());
                }
                Event::Outgoing(Outgoing::Disconnect) => return "stopped".into(),
                Event::Incoming(Packet::PubAck(ack)) => {
                    if let Some(reason) = self.acked(tickets.remove(&ack.pkid).flatten(), &ack).await {
                        return reason;
                    }
                }
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
    }

    /// `Some`: the connection is of no use, and why.
    async fn came_up(&self, connack: &ConnAck) -> Option<String> {
        let properties = connack.properties.as_ref();
        let receive_max = properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX);
        let window = self.in_flight.min(receive_max).saturating_sub(RESERVED_IDS).max(1);
        let max_bytes = properties.and_then(|properties| properties.max_packet_size);
        let max_bytes = max_bytes.map_or(MAX_OUTGOING_BYTES, |bytes| (bytes as usize).min(MAX_OUTGOING_BYTES));
        if max_bytes < MIN_OUTGOING_BYTES {
            return Some(format!(
                "the broker takes packets of at most {max_bytes} bytes, porin needs {MIN_OUTGOING_BYTES}"
            ));
        }
        info!(window, max_bytes, "connected to the broker");
        let connection = self.number;
        self.events.tell(LinkEvent::Up { connection, window: window.into(), max_bytes }).await;
        None
    }

    /// Says what an acknowledgement means. `Some`: the connection is to be given up, and why.
    async fn acked(&self, ticket: Option<Ticket>, ack: &PubAck) -> Option<String> {
        // Not the outbox's: the birth or the farewell.
        let ticket = ticket?;
        match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {
                self.took_some.set(true);
                self.events.tell(LinkEvent::Acked(ticket)).await;
            }
            // To be tried again later, not now: as if the connection were lost.
            PubAckReason::QuotaExceeded => return Some("the broker's quota is exceeded".into()),
            PubAckReason::UnspecifiedError
            | PubAckReason::ImplementationSpecificError
            | PubAckReason::NotAuthorized
            | PubAckReason::TopicNameInvalid
            | PubAckReason::PacketIdentifierInUse
            | PubAckReason::PayloadFormatInvalid => {
                self.events.tell(LinkEvent::Refused(ticket, format!("{:?}", ack.reason))).await;
            }
        }
        None
    }

    /// The half that speaks: the birth first, then what the outbox has, the farewell last. Ends when all is said.
    ///
    /// Between two publishes only: one that was half handed over would leave a ticket without a packet id.
    async fn publish(
        &self,
        publishes: &mut mpsc::Receiver<Publish>,
        mut is_up: watch::Receiver<bool>,
        stop: &mut watch::Receiver<bool>,
    ) {
        tokio::select! {
            _ = is_up.wait_for(|up| *up) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        self.tell_state("online").await;
        loop {
            let publish = tokio::select! {
                publish = publishes.recv() => publish,
                _ = stop.wait_for(|stop| *stop) => None,
            };
            let Some(publish) = publish else { break };
            if publish.connection == self.number {
                self.hand_over(publish.ticket, publish.topic, false, publish.payload, publish.content_type).await;
            }
        }
        self.tell_state("offline").await;
        let _ = self.client.disconnect().await;
        // The other half ends once the farewell is written, and this one with it.
        std::future::pending().await
    }

    /// Birth or farewell.
    async fn tell_state(&self, state: &str) {
        let payload = self.identity.payload(state).into();
        self.hand_over(None, self.identity.topic(), true, payload, JSON).await;
    }

    async fn hand_over(
        &self,
        ticket: Option<Ticket>,
        topic: String,
        retain: bool,
        payload: Vec<u8>,
        content_type: &str,
    ) {
        // Before the request: the event loop may give the packet id before `publish` returns.
        self.handed_over.borrow_mut().push_back(ticket);
        let properties = PublishProperties { content_type: Some(content_type.into()), ..PublishProperties::default() };
        // It fails only when the event loop is gone, and then this half is dropped, too.
        let _ = self.client.publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties).await;
    }
}
