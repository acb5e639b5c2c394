//! A link over rumqttc, used in the one way that loses nothing.
//!
//! rumqttc forgets unacknowledged publishes when a session is lost, so it never owns one: every connection gets a new
//! client and a clean start, and packet ids are mapped to tickets within one connection. Its `poll` is called in a
//! plain loop that is dropped only as a whole.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use porin_core::{clock::CertificateTime, config::LinkConfig, outbox::Ticket, status::Presence};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use super::{
    CONNECT_S, Identity, Incoming, JSON, LinkEvent, MAX_INCOMING_PAYLOAD, Publish, Request,
    protocol::{self, Answer, Client, Heard, Listener},
};
use crate::{inbox::Doorbell, tls};

/// A broker must take this much: one packet with the longest names there are.
const MIN_OUTGOING_BYTES: usize = 1_600;

/// Packet ids wrap at the window; subscribes and the birth burn ids of the same counter.
const RESERVED_IDS: u16 = 8;

/// So many of them before everything that is under way has to be acknowledged, or an id could be given twice.
const MAX_BURNT: u16 = RESERVED_IDS - 2;

/// After this rumqttc itself gives up to connect.
const CONNECTED: Duration = Duration::from_secs(CONNECT_S + 5);

/// Time for the farewell at the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where events go.
struct Events {
    queue: mpsc::Sender<LinkEvent>,
    incoming: mpsc::Sender<Incoming>,
    doorbell: Doorbell,
}

impl Events {
    async fn tell(&self, event: LinkEvent) {
        // The loop outlives the link; when it is gone nobody minds.
        let _ = self.queue.send(event).await;
        self.doorbell.ring();
    }

    async fn came(&self, topic: Vec<u8>, payload: Vec<u8>) {
        // Nothing that counts is larger, and nobody is kept busy by what is.
        let Ok(topic) = String::from_utf8(topic) else { return };
        if payload.len() > MAX_INCOMING_PAYLOAD {
            warn!(topic, bytes = payload.len(), "publish ignored: it is larger than any document");
            return;
        }
        let _ = self.incoming.send(Incoming { topic, payload }).await;
        self.doorbell.ring();
    }
}

/// Connects, and connects again, until `stop` becomes true. Who has an `identity` tells of birth and death.
pub(crate) async fn run(
    mut configs: watch::Receiver<LinkConfig>,
    identity: Option<Identity>,
    mut certificate_time: watch::Receiver<CertificateTime>,
    mut requests: mpsc::Receiver<Request>,
    (queue, incoming): (mpsc::Sender<LinkEvent>, mpsc::Sender<Incoming>),
    doorbell: Doorbell,
    mut stop: watch::Receiver<bool>,
) {
    let events = Events { queue, incoming, doorbell };
    let mut connection = 0;
    let mut pause = Duration::ZERO;
    // Of the same kind, one after the other.
    let (mut failures, mut last) = (0_u32, String::new());
    while !*stop.borrow() {
        let config = configs.borrow_and_update().clone();
        let broker = format!("{}:{}", config.broker.host, config.broker.port);
        let shortest = Duration::from_micros(config.reconnect_us);
        pause = pause.max(shortest * 2);
        connection += 1;
        let judged_by = *certificate_time.borrow_and_update();
        let access = tls::access(&config.broker, judged_by);
        let (reason, took_some) = match access {
            Ok(access) => {
                events.tell(LinkEvent::Certificates(access.certificates.clone())).await;
                let (link, listener) =
                    Connection::new(&config, identity.as_ref(), access, (&broker, connection), &events);
                let changed = configs.changed();
                let reason = tokio::select! {
                    reason = link.run(listener, &mut requests, &mut stop) => reason,
                    Ok(()) = changed => "the configuration has changed".into(),
                    reason = tls::clock_was_set(&config.broker, judged_by, &mut certificate_time) => reason.into(),
                };
                (reason, link.took_some.get())
            }
            Err(error) => (format!("{error:#}"), false),
        };
        if *stop.borrow() {
            break;
        }
        // Connected is not enough: two clients with one id connect for ever, and throw each other out.
        if took_some {
            pause = shortest * 2;
            failures = 0;
        }
        // Meant for the connection that is gone: they come again from the outbox.
        while requests.try_recv().is_ok() {}
        failures = if reason == last { failures + 1 } else { 1 };
        // A broker that is away for days does not fill the journal.
        if failures.is_power_of_two() {
            warn!(broker, reason, failures, "no connection to the broker");
        }
        last.clone_from(&reason);
        events.tell(LinkEvent::Down(reason)).await;
        let jittered = jitter(shortest, pause);
        pause = (pause * 2).min(Duration::from_micros(config.max_pause_us));
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            Ok(()) = configs.changed() => pause = Duration::ZERO,
            _ = stop.changed() => {}
        }
    }
    events.tell(LinkEvent::Closed).await;
}

/// Full jitter: anything from the shortest pause to this one, so that a fleet does not come back at once.
fn jitter(shortest: Duration, pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without random numbers everybody waits the whole pause.
    let share = match SystemRandom::new().fill(&mut random) {
        Ok(()) => f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX),
        Err(_) => 1.0,
    };
    shortest + pause.saturating_sub(shortest).mul_f64(share)
}

/// One connection: a client, its event loop, and which packet id is which ticket.
struct Connection<'a> {
    broker: &'a str,
    number: u64,
    in_flight: u16,
    max_publish_bytes: usize,
    /// The connection is given up after so long without any event, or without an acknowledgement that is due. A ping is an
    /// event, so it is longer than two of them.
    silence: Duration,
    client: Client,
    /// Tickets handed to rumqttc that have no packet id yet, in order. `None`: not the outbox's.
    handed_over: RefCell<VecDeque<Option<Ticket>>>,
    /// Publishes that are not acknowledged yet, and who waits until there is none.
    under_way: Cell<usize>,
    all_acknowledged: Notify,
    /// Packet ids that subscriptions have used while something was under way.
    burnt: Cell<u16>,
    /// Whether something was subscribed to since the broker last refused that.
    asked: Cell<bool>,
    /// Whether the broker has acknowledged a publish.
    took_some: Cell<bool>,
    /// `None`: nobody is told of the connection.
    identity: Option<&'a Identity>,
    events: &'a Events,
}

impl<'a> Connection<'a> {
    fn new(
        config: &LinkConfig,
        identity: Option<&'a Identity>,
        access: tls::Access,
        (broker, number): (&'a str, u64),
        events: &'a Events,
    ) -> (Self, Listener) {
        let (client, listener) = protocol::connection(config, identity, access);
        let connection = Self {
            broker,
            number,
            in_flight: config.in_flight,
            max_publish_bytes: config.max_publish_bytes,
            silence: Duration::from_secs(u64::from(config.keep_alive_s) * 2 + 5),
            client,
            handed_over: RefCell::default(),
            under_way: Cell::new(0),
            all_acknowledged: Notify::new(),
            burnt: Cell::new(0),
            asked: Cell::new(false),
            took_some: Cell::new(false),
            identity,
            events,
        };
        (connection, listener)
    }

    /// Runs until the connection ends, or `stop`. Gives the reason.
    async fn run(
        &self,
        listener: Listener,
        requests: &mut mpsc::Receiver<Request>,
        stop: &mut watch::Receiver<bool>,
    ) -> String {
        let (up, is_up) = watch::channel(false);
        let mut stop_at_last = stop.clone();
        // Both halves are whole loops: the listener is dropped only when it is no longer wanted.
        tokio::select! {
            reason = self.listen(listener, up) => reason,
            () = self.ask(requests, is_up, stop) => "stopped".into(),
            // A broker that takes nothing more does not keep the agent from ending.
            () = async {
                let _ = stop_at_last.wait_for(|stop| *stop).await;
                tokio::time::sleep(FAREWELL).await;
            } => "stopped".into(),
        }
    }

    /// The half that listens.
    async fn listen(&self, mut listener: Listener, up: watch::Sender<bool>) -> String {
        let mut tickets: HashMap<u16, Option<Ticket>> = HashMap::new();
        // Since when an acknowledgement is due: the last one, or the first publish after a pause.
        let mut waiting_since = Instant::now();
        loop {
            let due = if tickets.is_empty() { Duration::ZERO } else { waiting_since.elapsed() };
            // Name, TCP, TLS and answer have a time of their own, which may be longer.
            let patience = if *up.borrow() { self.silence } else { self.silence.max(CONNECTED) };
            let Some(patience) = patience.checked_sub(due) else {
                return "the broker acknowledges nothing".into();
            };
            // rumqttc's own keep-alive does not run while it writes: a broker that reads nothing would hold it for ever.
            let heard = match tokio::time::timeout(patience, listener.poll()).await {
                Ok(Ok(heard)) => heard,
                Ok(Err(reason)) => return reason,
                Err(_) => return "the broker takes nothing, or acknowledges nothing".into(),
            };
            match heard {
                Heard::Up { receive_max, max_bytes } => {
                    if let Some(reason) = self.came_up(receive_max, max_bytes).await {
                        return reason;
                    }
                    let _ = up.send(true);
                }
                Heard::Sent(id) => {
                    if tickets.is_empty() {
                        waiting_since = Instant::now();
                    }
                    let ticket = self.handed_over.borrow_mut().pop_front();
                    tickets.insert(id, ticket.flatten());
                }
                Heard::Acked(id, answer) => {
                    waiting_since = Instant::now();
                    self.under_way.set(self.under_way.get().saturating_sub(1));
                    if self.under_way.get() == 0 {
                        self.burnt.set(0);
                        self.all_acknowledged.notify_one();
                    }
                    if let Some(reason) = self.acked(tickets.remove(&id).flatten(), answer).await {
                        return reason;
                    }
                }
                Heard::Came { topic, payload } => self.events.came(topic, payload).await,
                Heard::NotSubscribed => {
                    // As often as the broker likes to say so, until something is asked for again.
                    if self.asked.replace(false) {
                        self.events.tell(LinkEvent::NotSubscribed).await;
                    }
                }
                Heard::Left => return "stopped".into(),
                Heard::Nothing => {}
            }
        }
    }

    /// `Some`: the connection is of no use, and why.
    async fn came_up(&self, receive_max: Option<u16>, max_bytes: Option<usize>) -> Option<String> {
        let window = self.in_flight.min(receive_max.unwrap_or(u16::MAX)).saturating_sub(RESERVED_IDS).max(1);
        let max_bytes = max_bytes.map_or(self.max_publish_bytes, |bytes| bytes.min(self.max_publish_bytes));
        if max_bytes < MIN_OUTGOING_BYTES {
            return Some(format!(
                "the broker takes packets of at most {max_bytes} bytes, porin needs {MIN_OUTGOING_BYTES}"
            ));
        }
        info!(broker = self.broker, window, max_bytes, "connected to the broker");
        let connection = self.number;
        self.events.tell(LinkEvent::Up { connection, window: window.into(), max_bytes }).await;
        None
    }

    /// Says what an acknowledgement means. `Some`: the connection is to be given up, and why.
    async fn acked(&self, ticket: Option<Ticket>, answer: Answer) -> Option<String> {
        // Not the outbox's: the birth or the farewell.
        let ticket = ticket?;
        match answer {
            Answer::Taken => {
                self.took_some.set(true);
                self.events.tell(LinkEvent::Acked(ticket)).await;
            }
            Answer::Later(reason) => self.events.tell(LinkEvent::PutOff(ticket, reason)).await,
            Answer::Reconnect(reason) => return Some(format!("the broker refuses a publish: {reason}")),
            Answer::Never(reason) => self.events.tell(LinkEvent::Refused(ticket, reason)).await,
        }
        None
    }

    /// The half that speaks: the birth first, then what the outbox has, the farewell last. Ends when all is said.
    ///
    /// Between two publishes only: one that was half handed over would leave a ticket without a packet id.
    async fn ask(
        &self,
        requests: &mut mpsc::Receiver<Request>,
        mut is_up: watch::Receiver<bool>,
        stop: &mut watch::Receiver<bool>,
    ) {
        tokio::select! {
            _ = is_up.wait_for(|up| *up) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        self.tell_state(Presence::Online).await;
        loop {
            let request = tokio::select! {
                request = requests.recv() => request,
                _ = stop.wait_for(|stop| *stop) => None,
            };
            match request {
                None => break,
                Some(Request::Publish(Publish { connection, ticket, topic, retain, content_type, payload })) => {
                    if connection == self.number {
                        self.hand_over(ticket, topic, retain, payload, content_type).await;
                    }
                }
                Some(Request::Subscribe { connection, topic }) => {
                    if connection == self.number && self.may_burn(stop).await {
                        self.asked.set(true);
                        self.client.subscribe(topic).await;
                    }
                }
                Some(Request::Unsubscribe { connection, topic }) => {
                    if connection == self.number && self.may_burn(stop).await {
                        self.client.unsubscribe(topic).await;
                    }
                }
            }
        }
        self.tell_state(Presence::Offline).await;
        self.client.disconnect().await;
        // The other half ends once the farewell is written, and this one with it.
        std::future::pending().await
    }

    /// Waits until a packet id can be spared. `false`: it is too late for that.
    async fn may_burn(&self, stop: &mut watch::Receiver<bool>) -> bool {
        while self.under_way.get() > 0 && self.burnt.get() >= MAX_BURNT {
            tokio::select! {
                () = self.all_acknowledged.notified() => {}
                _ = stop.wait_for(|stop| *stop) => return false,
            }
        }
        self.burnt.set(self.burnt.get() + u16::from(self.under_way.get() > 0));
        true
    }

    /// Birth or farewell.
    async fn tell_state(&self, presence: Presence) {
        let Some(identity) = self.identity else { return };
        self.hand_over(None, identity.topic(), true, identity.payload(presence).into(), JSON).await;
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
        self.under_way.set(self.under_way.get() + 1);
        self.client.publish(topic, retain, payload, content_type).await;
    }
}
