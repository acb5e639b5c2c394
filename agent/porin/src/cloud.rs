//! A connection to the broker that gateways use, for the commands of an operator.
//!
//! Everything that is published is retained and may be published twice, so what is not acknowledged when the connection is lost is published again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use porin_core::{
    config::{Broker, Identity, Login, Tls, address},
    time::Unix,
};
use rumqttc::{
    Outgoing,
    v5::{
        AsyncClient, ConnectionError, Event, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Packet, PubAckReason, SubscribeReasonCode},
        },
    },
};

use crate::failure::{Failure, UNREACHABLE};

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

/// ...and is not waited for longer than this, whatever comes.
const RETAINED: Duration = Duration::from_secs(20);

/// Connections that are lost without anything having been acknowledged, before a publish is given up: it may be what ends them.
const MAX_LOSSES: u32 = 3;

/// Which broker, and how to be let in.
#[derive(Debug, clap::Args)]
pub(crate) struct BrokerArguments {
    /// The broker that the gateways use: mqtt://HOST:PORT, or mqtts://… for TLS [or PORIN_BROKER]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// PEM with the certificates of those who vouch for the broker's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// Our own certificate
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<String>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<String>,
    /// As the broker knows us
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A file with the password, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<String>,
}

impl BrokerArguments {
    fn broker(&self) -> anyhow::Result<Broker> {
        let given = self.broker.clone().or_else(|| std::env::var("PORIN_BROKER").ok());
        let url = given.ok_or_else(|| Failure {
            code: 2,
            message: "which broker?".into(),
            hint: Some("--broker mqtt://HOST:PORT, or PORIN_BROKER".into()),
        })?;
        let (secure, host, port) = address(&url).map_err(|what| anyhow!("--broker {url}: {what}"))?;
        let identity = self.cert_file.clone().zip(self.key_file.clone());
        let identity = identity.map(|(cert_file, key_file)| Identity { cert_file, key_file });
        let tls = match (secure, &self.ca_file) {
            (false, None) => None,
            (true, Some(ca_file)) => Some(Tls { ca_file: ca_file.clone(), identity, alpn: None }),
            (true, None) => bail!("{url} wants --ca-file: who vouches for the broker's certificate"),
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
    client: AsyncClient,
    events: Receiver<Result<Event, ConnectionError>>,
    filters: Vec<String>,
    came: VecDeque<(String, Vec<u8>)>,
}

impl Cloud {
    pub(crate) fn connect(arguments: &BrokerArguments) -> anyhow::Result<Self> {
        let broker = arguments.broker()?;
        let (client, events) = client(&broker)?;
        let mut cloud = Self { broker, client, events, filters: Vec::new(), came: VecDeque::new() };
        cloud.await_connection().map_err(|error| cloud.unreachable(&error))?;
        Ok(cloud)
    }

    fn unreachable(&self, error: &anyhow::Error) -> Failure {
        Failure {
            code: UNREACHABLE,
            message: format!("no connection to {}:{}: {error:#}", self.broker.host, self.broker.port),
            hint: Some("is the broker running, and may this user connect?".into()),
        }
    }

    fn await_connection(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        while let Some(left) = PATIENCE.checked_sub(start.elapsed()) {
            if let Some(Event::Incoming(Packet::ConnAck(_))) = self.poll(left)? {
                return Ok(());
            }
        }
        bail!("it does not answer")
    }

    /// The next thing that happens; publishes are put aside. `None`: nothing else has.
    fn poll(&mut self, patience: Duration) -> anyhow::Result<Option<Event>> {
        match self.events.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the connection has ended"),
            Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                self.came.push_back((topic, publish.payload.to_vec()));
                Ok(None)
            }
            Ok(Ok(event)) => Ok(Some(event)),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    fn again(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            (self.client, self.events) = client(&self.broker)?;
            match self.await_connection() {
                Ok(()) => break,
                Err(error) if start.elapsed() > PATIENCE * 3 => return Err(self.unreachable(&error).into()),
                Err(_) => thread::sleep(PAUSE),
            }
        }
        for filter in self.filters.clone() {
            // Answers are not waited for: the connection may be lost again meanwhile, and then this is done again.
            let _ = self.client.try_subscribe(filter, QoS::AtLeastOnce);
        }
        Ok(())
    }

    /// Subscribes. What is retained there comes first.
    pub(crate) fn subscribe(&mut self, filter: &str) -> anyhow::Result<()> {
        self.filters.push(filter.to_owned());
        self.ask_for(filter)
    }

    fn ask_for(&mut self, filter: &str) -> anyhow::Result<()> {
        self.client.try_subscribe(filter, QoS::AtLeastOnce)?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let Some(Event::Incoming(Packet::SubAck(ack))) = self.poll(PATIENCE)? else { continue };
            if ack.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_))) {
                return Ok(());
            }
            bail!("the broker does not let us subscribe to {filter}");
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
        let mut retained = BTreeMap::new();
        while start.elapsed() < RETAINED
            && let Some((topic, payload)) = self.next(quiet)?
        {
            retained.insert(topic, payload);
        }
        Ok(retained)
    }

    /// Publishes, retained, and returns when the broker has everything.
    pub(crate) fn publish_all(&mut self, publishes: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
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
                if self.client.try_publish(topic, QoS::AtLeastOnce, true, payload.clone()).is_err() {
                    break;
                }
                left.remove(&index);
                handed_over.push_back(index);
            }
            match self.poll(PATIENCE) {
                Ok(Some(Event::Outgoing(Outgoing::Publish(id)))) => {
                    under_way.extend(handed_over.pop_front().map(|index| (id, index)));
                }
                Ok(Some(Event::Incoming(Packet::PubAck(ack)))) => {
                    acknowledged_at = Instant::now();
                    losses = 0;
                    let index: Option<usize> = under_way.remove(&ack.pkid);
                    if !matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
                        let topic = index.map_or("", |index| &publishes[index].0);
                        bail!("the broker does not take {topic}: {:?}", ack.reason);
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

fn client(broker: &Broker) -> anyhow::Result<(AsyncClient, Receiver<Result<Event, ConnectionError>>)> {
    let unique = format!("porin-{}-{}", std::process::id(), porind::wall_clock().0 % 1_000_000);
    let mut options = MqttOptions::new(unique, &broker.host, broker.port);
    options.set_clean_start(true).set_keep_alive(Duration::from_secs(20)).set_max_packet_size(Some(MAX_BYTES));
    let (transport, login) = porind::access(broker, Unix(0))?;
    options.set_transport(transport);
    if let Some((username, password)) = login {
        options.set_credentials(username, password);
    }
    let (client, mut event_loop) = AsyncClient::new(options, WINDOW * 2);
    let (sender, events) = sync_channel(EVENTS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // It is not to be interrupted but for good: a thread of its own, which ends with the connection or with us.
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let event = event_loop.poll().await;
                let ended = event.is_err();
                if sender.send(event).is_err() || ended {
                    return;
                }
            }
        });
    });
    Ok((client, events))
}
