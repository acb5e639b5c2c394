//! A connection to the broker that gateways use, for the commands of an operator.
//!
//! Everything that is published is retained and may be published twice, so what is not acknowledged when the connection is lost is published again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use porin_core::config::{Broker, Identity, Login, Protocol, Tls, address};
use rumqttc::{
    Outgoing, QoS,
    v5::{
        self,
        mqttbytes::{
            QoS as QoS5,
            v5::{Packet as Packet5, PubAckReason, SubscribeReasonCode as Reason5},
        },
    },
};

use crate::failure::{Exit, Failure};

/// Time to connect, and for an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a lost connection.
const PAUSE: Duration = Duration::from_secs(1);

/// Publishes under way.
const WINDOW: usize = 8;

/// Events that wait for us. Beyond it the broker waits.
const EVENTS: usize = 256;

/// Bytes of a publish: a gateway's batch at the most.
const MAX_BYTES: u32 = 262_144;

/// What is retained has come when nothing more comes for so long...
const QUIET: Duration = Duration::from_millis(500);

/// ...and has to have come within this.
const RETAINED: Duration = Duration::from_secs(60);

/// Bytes of it: a thousand gateways take 2 MB.
const MAX_RETAINED: usize = 64 << 20;

/// Connections that are lost without anything having been acknowledged, before a publish is given up: it may be what ends them.
const MAX_LOSSES: u32 = 3;

/// Which broker, and how to be let in.
#[derive(Debug, clap::Args)]
pub(crate) struct BrokerArguments {
    /// The broker that the gateways use: mqtt://HOST:PORT, or mqtts://… for TLS [or PORIN_BROKER]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// MQTT 5 or 3.1.1, for brokers that speak nothing newer
    #[arg(long, value_name = "VERSION", default_value = "5", value_parser = protocol)]
    mqtt: Protocol,
    /// PEM file with the authorities that may sign the broker's certificate
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// Certificate of this client (PEM)
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<String>,
    /// Key of this certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<String>,
    /// User name at the broker
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// File with the password, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<String>,
}

fn protocol(name: &str) -> Result<Protocol, String> {
    let found = Protocol::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, protocol)| *protocol).ok_or_else(|| "5 or 3.1.1".into())
}

/// What happens on a connection, as far as it matters.
enum Heard {
    Connected,
    /// The answer to a subscription.
    Subscribed(Result<(), ()>),
    /// The next publish that was handed over has this packet id.
    Sent(u16),
    /// It is acknowledged, or refused: why.
    Acked(u16, Result<(), String>),
    Came(String, Vec<u8>),
    Nothing,
}

/// Whether the broker keeps a publish for whoever subscribes later.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retain {
    Yes,
    No,
}

/// The half that speaks, of either version.
enum Client {
    V5(v5::AsyncClient),
    V311(rumqttc::AsyncClient),
}

impl Client {
    /// `false`: not now; the next event says why.
    fn publish(&self, topic: &str, kept: Retain, payload: Vec<u8>) -> bool {
        let retain = kept == Retain::Yes;
        match self {
            Self::V5(client) => client.try_publish(topic, QoS5::AtLeastOnce, retain, payload).is_ok(),
            Self::V311(client) => client.try_publish(topic, QoS::AtLeastOnce, retain, payload).is_ok(),
        }
    }

    fn subscribe(&self, filter: &str) -> bool {
        match self {
            Self::V5(client) => client.try_subscribe(filter, QoS5::AtLeastOnce).is_ok(),
            Self::V311(client) => client.try_subscribe(filter, QoS::AtLeastOnce).is_ok(),
        }
    }
}

impl BrokerArguments {
    /// A broker without TLS and login; `protocol` as in `--mqtt`.
    pub(crate) fn plain(url: &str, protocol: Protocol) -> Self {
        let url = Some(url.to_owned());
        Self {
            broker: url,
            mqtt: protocol,
            ca_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password_file: None,
        }
    }

    fn broker(&self) -> anyhow::Result<Broker> {
        let given = self.broker.clone().or_else(|| std::env::var("PORIN_BROKER").ok());
        let url = given.ok_or_else(|| Failure {
            exit: Exit::Usage,
            message: "which broker?".into(),
            hint: Some("--broker mqtt://HOST:PORT, or PORIN_BROKER".into()),
        })?;
        let (secure, host, port) = address(&url).map_err(|what| anyhow!("--broker {url}: {what}"))?;
        let identity = self.cert_file.clone().zip(self.key_file.clone());
        let identity = identity.map(|(cert_file, key_file)| Identity { cert_file, key_file });
        let tls = match (secure, &self.ca_file) {
            (false, None) => None,
            (true, Some(ca_file)) => Some(Tls { ca_file: ca_file.clone(), identity, alpn: None }),
            (true, None) => bail!("{url} needs --ca-file: the authority that signed the broker's certificate"),
            (false, Some(_)) => bail!("--ca-file goes with mqtts://"),
        };
        let password_file = self.password_file.clone();
        let login = self.username.clone().map(|username| Login { username, password_file });
        Ok(Broker { host, port, tls, login })
    }
}

/// The connection.
pub(crate) struct Cloud {
    broker: Broker,
    protocol: Protocol,
    client: Client,
    events: Receiver<Result<Heard, String>>,
    filters: Vec<String>,
    came: VecDeque<(String, Vec<u8>)>,
}

impl Cloud {
    pub(crate) fn connect(arguments: &BrokerArguments) -> anyhow::Result<Self> {
        let broker = arguments.broker()?;
        let protocol = arguments.mqtt;
        let (client, events) = client(&broker, protocol)?;
        let mut cloud = Self { broker, protocol, client, events, filters: Vec::new(), came: VecDeque::new() };
        cloud.await_connection().map_err(|error| cloud.unreachable(&error))?;
        Ok(cloud)
    }

    fn unreachable(&self, error: &anyhow::Error) -> Failure {
        Failure {
            exit: Exit::Unreachable,
            message: format!("no connection to {}:{}: {error:#}", self.broker.host, self.broker.port),
            hint: Some("is the broker running, and may this user connect?".into()),
        }
    }

    fn await_connection(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while let Some(left) = PATIENCE.checked_sub(start.elapsed()) {
            if let Heard::Connected = self.poll(left)? {
                return Ok(());
            }
        }
        bail!("it does not answer")
    }

    /// The next thing that happens; what was published is put aside.
    fn poll(&mut self, patience: Duration) -> anyhow::Result<Heard> {
        match self.events.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => Ok(Heard::Nothing),
            Err(RecvTimeoutError::Disconnected) => bail!("the connection has ended"),
            Ok(Ok(Heard::Came(topic, payload))) => {
                self.came.push_back((topic, payload));
                Ok(Heard::Nothing)
            }
            Ok(Ok(heard)) => Ok(heard),
            Ok(Err(error)) => Err(anyhow!(error)),
        }
    }

    fn again(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        // Also after one that was taken and ended at once.
        thread::sleep(PAUSE);
        loop {
            (self.client, self.events) = client(&self.broker, self.protocol)?;
            match self.await_connection() {
                Ok(()) => break,
                Err(error) if start.elapsed() > PATIENCE * 3 => return Err(self.unreachable(&error).into()),
                Err(_) => thread::sleep(PAUSE),
            }
        }
        for filter in self.filters.clone() {
            // Answers are not waited for: the connection may be lost again meanwhile, and then this is done again.
            let _ = self.client.subscribe(&filter);
        }
        Ok(())
    }

    /// Subscribes. What is retained there comes first.
    pub(crate) fn subscribe(&mut self, filter: &str) -> anyhow::Result<()> {
        self.filters.push(filter.to_owned());
        self.ask_for(filter)
    }

    fn ask_for(&mut self, filter: &str) -> anyhow::Result<()> {
        if !self.client.subscribe(filter) {
            bail!("the connection refuses the subscription to {filter}");
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match self.poll(PATIENCE)? {
                Heard::Subscribed(Ok(())) => return Ok(()),
                Heard::Subscribed(Err(())) => bail!("the broker refuses the subscription to {filter}"),
                Heard::Connected | Heard::Sent(_) | Heard::Acked(..) | Heard::Came(..) | Heard::Nothing => {}
            }
        }
        bail!("the broker does not answer to a subscription to {filter}")
    }

    /// The next publish of what was subscribed to; `None`: none has come in this time.
    pub(crate) fn next(&mut self, patience: Duration) -> anyhow::Result<Option<(String, Vec<u8>)>> {
        let start = Instant::now();
        loop {
            if let Some(came) = self.came.pop_front() {
                return Ok(Some(came));
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            if let Err(error) = self.poll(left) {
                eprintln!("the connection is lost ({error:#}); trying again");
                self.again()?;
            }
        }
    }

    /// Everything that is retained under a filter, by topic.
    pub(crate) fn retained(&mut self, filter: &str) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        self.retained_after(filter, QUIET)
    }

    /// The same with another idea of when all of it has come.
    pub(crate) fn retained_after(
        &mut self,
        filter: &str,
        quiet: Duration,
    ) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        self.subscribe(filter)?;
        let start = Instant::now();
        let (mut retained, mut bytes) = (BTreeMap::new(), 0);
        while let Some((topic, payload)) = self.next(quiet)? {
            bytes += topic.len() + payload.len();
            if start.elapsed() > RETAINED || bytes > MAX_RETAINED {
                // Half of it would be taken for all.
                bail!(
                    "{filter}: what is retained does not end within {} s or {MAX_RETAINED} bytes",
                    RETAINED.as_secs()
                );
            }
            retained.insert(topic, payload);
        }
        Ok(retained)
    }

    /// Publishes, retained, and returns when the broker has everything.
    pub(crate) fn publish_all(&mut self, publishes: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
        self.publish(publishes, Retain::Yes)
    }

    /// Publishes for whoever listens now.
    pub(crate) fn say(&mut self, topic: &str, payload: Vec<u8>) -> anyhow::Result<()> {
        self.publish(&[(topic.to_owned(), payload)], Retain::No)
    }

    fn publish(&mut self, publishes: &[(String, Vec<u8>)], kept: Retain) -> anyhow::Result<()> {
        // Which of them a packet id stands for. What is left goes out in order, also after a lost connection.
        let (mut handed_over, mut under_way) = (VecDeque::new(), BTreeMap::new());
        let mut left: BTreeSet<usize> = (0..publishes.len()).collect();
        let mut acknowledged_at = Instant::now();
        let mut losses = 0;
        while !(left.is_empty() && under_way.is_empty() && handed_over.is_empty()) {
            while under_way.len() + handed_over.len() < WINDOW
                && let Some(index) = left.first().copied()
            {
                let (topic, payload) = &publishes[index];
                // Whatever keeps it from being taken comes with the next event.
                if !self.client.publish(topic, kept, payload.clone()) {
                    break;
                }
                left.remove(&index);
                handed_over.push_back(index);
            }
            match self.poll(PATIENCE) {
                Ok(Heard::Sent(id)) => under_way.extend(handed_over.pop_front().map(|index| (id, index))),
                Ok(Heard::Acked(id, answer)) => {
                    acknowledged_at = Instant::now();
                    losses = 0;
                    let index: Option<usize> = under_way.remove(&id);
                    if let Err(reason) = answer {
                        let topic = index.map_or("", |index| &publishes[index].0);
                        bail!("the broker refuses a publish on {topic}: {reason}");
                    }
                }
                Ok(_) if acknowledged_at.elapsed() <= PATIENCE => {}
                Ok(_) => bail!("the broker acknowledges nothing"),
                Err(error) => {
                    losses += 1;
                    if losses > MAX_LOSSES {
                        return Err(error.context("the broker ends the connection rather than take what is published"));
                    }
                    eprintln!("the connection is lost ({error:#}); trying again");
                    left.extend(handed_over.drain(..).chain(std::mem::take(&mut under_way).into_values()));
                    self.again()?;
                    acknowledged_at = Instant::now();
                }
            }
        }
        Ok(())
    }
}

fn client(broker: &Broker, protocol: Protocol) -> anyhow::Result<(Client, Receiver<Result<Heard, String>>)> {
    let unique = format!("porin-{}-{}", std::process::id(), porind::wall_clock().0 % 1_000_000);
    let (transport, login) = porind::access(broker)?;
    let keep_alive = Duration::from_secs(20);
    let (sender, events) = sync_channel(EVENTS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // An event loop is not to be interrupted but for good: a thread of its own, which ends with the connection or with us.
    let client = match protocol {
        Protocol::V5 => {
            let mut options = v5::MqttOptions::new(unique, &broker.host, broker.port);
            options.set_clean_start(true).set_keep_alive(keep_alive).set_max_packet_size(Some(MAX_BYTES));
            options.set_transport(transport);
            if let Some((username, password)) = login {
                options.set_credentials(username, password);
            }
            let (client, mut event_loop) = v5::AsyncClient::new(options, WINDOW * 2);
            thread::spawn(move || {
                runtime.block_on(async {
                    let mut next = async || Ok(heard_v5(event_loop.poll().await.map_err(|error| error.to_string())?));
                    while pass_on(&sender, next().await) {}
                });
            });
            Client::V5(client)
        }
        Protocol::V311 => {
            let mut options = rumqttc::MqttOptions::new(unique, &broker.host, broker.port);
            options.set_clean_session(true).set_keep_alive(keep_alive);
            options.set_max_packet_size(MAX_BYTES as usize, MAX_BYTES as usize).set_transport(transport);
            if let Some((username, password)) = login {
                options.set_credentials(username, password);
            }
            let (client, mut event_loop) = rumqttc::AsyncClient::new(options, WINDOW * 2);
            thread::spawn(move || {
                runtime.block_on(async {
                    let mut next = async || Ok(heard_v311(event_loop.poll().await.map_err(|error| error.to_string())?));
                    while pass_on(&sender, next().await) {}
                });
            });
            Client::V311(client)
        }
    };
    Ok((client, events))
}

/// Whether there is more to come.
fn pass_on(sender: &SyncSender<Result<Heard, String>>, heard: Result<Heard, String>) -> bool {
    let goes_on = heard.is_ok();
    sender.send(heard).is_ok() && goes_on
}

fn heard_v5(event: v5::Event) -> Heard {
    match event {
        v5::Event::Incoming(Packet5::ConnAck(_)) => Heard::Connected,
        v5::Event::Incoming(Packet5::SubAck(ack)) => {
            let all = ack.return_codes.iter().all(|code| matches!(code, Reason5::Success(_)));
            Heard::Subscribed(if all { Ok(()) } else { Err(()) })
        }
        v5::Event::Incoming(Packet5::Publish(publish)) => {
            Heard::Came(String::from_utf8_lossy(&publish.topic).into_owned(), publish.payload.to_vec())
        }
        v5::Event::Incoming(Packet5::PubAck(ack)) => {
            let taken = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
            Heard::Acked(ack.pkid, if taken { Ok(()) } else { Err(format!("{:?}", ack.reason)) })
        }
        v5::Event::Outgoing(Outgoing::Publish(id)) => Heard::Sent(id),
        v5::Event::Incoming(_) | v5::Event::Outgoing(_) => Heard::Nothing,
    }
}

/// An acknowledgement has no reason here: what the broker does not allow it acknowledges like anything else.
fn heard_v311(event: rumqttc::Event) -> Heard {
    use rumqttc::{Event, Packet, SubscribeReasonCode};
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Heard::Connected,
        Event::Incoming(Packet::SubAck(ack)) => {
            let refused = ack.return_codes.contains(&SubscribeReasonCode::Failure);
            Heard::Subscribed(if refused { Err(()) } else { Ok(()) })
        }
        Event::Incoming(Packet::Publish(publish)) => Heard::Came(publish.topic, publish.payload.to_vec()),
        Event::Incoming(Packet::PubAck(ack)) => Heard::Acked(ack.pkid, Ok(())),
        Event::Outgoing(Outgoing::Publish(id)) => Heard::Sent(id),
        Event::Incoming(_) | Event::Outgoing(_) => Heard::Nothing,
    }
}
