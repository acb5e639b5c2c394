//! Source `mqtt`: the publishes of a local broker, which keeps them while the agent is away.
//!
//! The session lasts (a fixed client id, no clean start), and each publish at QoS 1 is acknowledged by hand, in order,
//! after the commit that contains what became of it. So a stop, a kill or a power cut of the agent costs nothing: what was
//! not acknowledged comes again. It may come twice, also after it was decided about, and is then another packet with a
//! seq of its own; it is never missing unless the broker itself loses the session.
//!
//! As at the uplink, each connection has a client of its own: rumqttc carries acknowledgements over into a session that
//! does not know them.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use anyhow::{anyhow, bail, ensure};
use bytes::Bytes;
use porin_core::{
    clock::CertificateTime,
    config::MqttSource as Config,
    ids::StreamId,
    mapping::Found,
    packet::{MAX_TOPIC, Message, PacketKind, Quality, Reading},
    status::InputStatus,
    time::Unix,
};
use rumqttc::{
    Outgoing,
    v5::{
        AsyncClient, Event, EventLoop, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{Filter, Packet, Publish, RetainForwardRule, SubscribeReasonCode},
        },
    },
};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use super::{BATCH, Outlet, Stopping};
use crate::{inbox::FromSource, link::explain_v5, machine::wall_clock, tls};

/// Seconds for which the broker keeps what it has for us: a week.
const SESSION_S: u32 = 7 * 24 * 3_600;

/// Bytes of an MQTT packet that we take. It is announced, and the broker drops what is larger; what is smaller and
/// still too large to be a sensor's is counted.
const MAX_PACKET_BYTES: u32 = 1 << 20;

/// Publishes between the connection and the batches. Beyond it the connection is not read; at 1 MiB each it is 32 MiB.
const PUBLISHES: usize = 32;

/// Acknowledgements that wait for the event loop. It writes none while it waits for us, and we must not wait for it then: so
/// there is room for more than there can be.
const ACKNOWLEDGEMENTS: usize = 65_536;

/// Characters of a topic or payload that are shown: it may have 65,535 bytes.
const SHOWN: usize = 120;

/// Payloads of a batch: beyond it the next publish is for the next batch. A cell has 1 MiB.
const BATCH_BYTES: usize = 131_072;

/// Streams of a source: topics may be made up by anybody who may publish.
const MAX_STREAMS: usize = 10_000;

/// Publishes to be acknowledged, each with the count of publishes up to it.
#[derive(Default)]
struct Unsettled {
    publishes: RefCell<VecDeque<(u64, Publish)>>,
    /// Rung when some of them were acknowledged.
    room: Notify,
}

/// The source with its position.
pub(crate) struct Mqtt {
    config: Config,
    /// Certificates are never judged by an earlier time.
    certificate_time: watch::Receiver<CertificateTime>,
    /// Publishes that were handed over and are to be acknowledged: what the loop settles.
    to_settle: u64,
    streams: HashMap<(PacketKind, String), u32>,
    /// By topic filter; and those that have changed.
    inputs: Vec<InputStatus>,
    changed: BTreeSet<usize>,
}

impl Mqtt {
    pub(crate) fn new(config: Config, certificate_time: watch::Receiver<CertificateTime>) -> Self {
        let inputs = config.topics.iter().map(|mapping| mapping.filter.mqtt());
        let inputs = inputs.map(|name| InputStatus { name, ..InputStatus::default() }).collect();
        Self { config, certificate_time, to_settle: 0, streams: HashMap::new(), inputs, changed: BTreeSet::new() }
    }

    /// Runs until the connection ends; it does not end well.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        // A connection that ends may take the announcement of a new stream with it: all are announced again.
        self.streams.clear();
        let judged_by = *self.certificate_time.borrow_and_update();
        let (client, event_loop) = self.client(judged_by)?;
        let (publishes, batches) = mpsc::channel(PUBLISHES);
        let unsettled = Unsettled::default();
        let settled = outlet.settled.clone();
        // All three are whole loops, which end together with the connection.
        let filters = filters(&self.config);
        let (host, window) = (self.config.broker.host.clone(), self.config.window);
        let (broker, mut certificate_time) = (self.config.broker.clone(), self.certificate_time.clone());
        tokio::select! {
            reason = tls::clock_was_set(&broker, judged_by, &mut certificate_time) => bail!("the local broker: {reason}"),
            ended = listen(event_loop, &client, (&host, window), filters, publishes) => ended,
            ended = self.hand_over(batches, outlet, &unsettled) => ended,
            ended = acknowledge(&client, settled, &unsettled) => ended,
        }
    }

    fn client(&self, judged_by: CertificateTime) -> anyhow::Result<(AsyncClient, EventLoop)> {
        let broker = &self.config.broker;
        let access = tls::access(broker, judged_by)?;
        let mut options = MqttOptions::new(&self.config.client_id, &broker.host, broker.port);
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_S))
            .set_receive_maximum(Some(self.config.window))
            .set_max_packet_size(Some(MAX_PACKET_BYTES))
            // It publishes nothing; room for 65,535 publishes under way would be 13 MB.
            .set_outgoing_inflight_upper_limit(1)
            .set_keep_alive(Duration::from_secs(self.config.keep_alive_s.into()))
            .set_manual_acks(true)
            .set_transport(access.transport);
        if let Some((username, password)) = access.login {
            options.set_credentials(username, password);
        }
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        Ok(AsyncClient::new(options, ACKNOWLEDGEMENTS))
    }

    /// Makes batches of what has come, as large as they are when the loop has room.
    async fn hand_over(
        &mut self,
        mut publishes: mpsc::Receiver<Publish>,
        outlet: &mut Outlet,
        unsettled: &Unsettled,
    ) -> anyhow::Result<()> {
        let mut waiting = Vec::with_capacity(BATCH);
        while let Some(first) = publishes.recv().await {
            // As many as are there, but not so many that a cell could not hold them.
            let mut bytes = first.payload.len();
            waiting.push(first);
            while waiting.len() < BATCH
                && bytes < BATCH_BYTES
                && let Ok(next) = publishes.try_recv()
            {
                bytes += next.payload.len();
                waiting.push(next);
            }
            let arrival = wall_clock();
            let (mut readings, mut messages) = (Vec::with_capacity(waiting.len()), Vec::new());
            for publish in waiting.drain(..) {
                if let Err(reason) = self.understand(&publish, arrival, outlet, &mut readings, &mut messages).await? {
                    outlet.send(FromSource::BadRow(format!("{}: {reason}", shown(&publish.topic)))).await?;
                }
                outlet.made += 1;
                if publish.qos != QoS::AtMostOnce {
                    self.to_settle += 1;
                    // The acknowledgement needs the packet id only.
                    let publish = Publish { topic: Bytes::new(), payload: Bytes::new(), properties: None, ..publish };
                    unsettled.publishes.borrow_mut().push_back((self.to_settle, publish));
                }
            }
            while let Some(input) = self.changed.pop_first() {
                outlet.send(FromSource::Input(input, self.inputs[input].clone())).await?;
            }
            // Without a reading, too: what nobody wants is settled all the same.
            outlet.send(FromSource::Batch { readings, messages, upto: self.to_settle }).await?;
            // After a session was taken up again mosquitto (2.0.11) sends more at a time than it was asked to.
            while unsettled.publishes.borrow().len() >= usize::from(self.config.window) {
                unsettled.room.notified().await;
            }
        }
        Ok(())
    }

    /// Adds the packets of a publish. The inner error is the publish's.
    async fn understand(
        &mut self,
        publish: &Publish,
        arrival: Unix,
        outlet: &Outlet,
        readings: &mut Vec<Reading>,
        messages: &mut Vec<Message>,
    ) -> Result<Result<(), String>, Stopping> {
        let Ok(topic) = std::str::from_utf8(&publish.topic) else { return Ok(Err("the topic is not UTF-8".into())) };
        let mut chosen = self
            .config
            .topics
            .iter()
            .enumerate()
            .filter_map(|(index, mapping)| Some((index, mapping, mapping.filter.captures(topic)?)));
        let Some((index, mapping, captures)) = chosen.next() else {
            return Ok(Err("no topic filter chooses it".into()));
        };
        if topic.len() > MAX_TOPIC {
            return Ok(Err(format!("the topic has {} bytes, more than {MAX_TOPIC}", topic.len())));
        }
        if !std::mem::replace(&mut self.inputs[index].used, true) {
            self.changed.insert(index);
        }
        let mut new = Vec::new();
        let mut too_many = None;
        let mut empty = true;
        let Self { streams, .. } = self;
        let outcome = mapping.apply(&captures, &publish.payload, arrival, |found| {
            empty = false;
            let (name, kind) = match &found {
                Found::Reading(name, ..) => (*name, PacketKind::Readings),
                Found::Message(name, ..) => (*name, PacketKind::Messages),
            };
            let Some(stream) = local(streams, name, kind, &mut new) else {
                too_many = Some(format!("the source has more than {MAX_STREAMS} streams"));
                return;
            };
            let quality = |time| if time == arrival { Quality::OWN_CLOCK } else { Quality::GOOD };
            match found {
                Found::Reading(_, time, value) => {
                    readings.push(Reading { time, value, stream, quality: quality(time) })
                }
                Found::Message(_, time, bytes) => {
                    let quality = quality(time);
                    messages.push(Message { time, stream, quality, topic: topic.into(), payload: (&*bytes).into() });
                }
            }
        });
        for (local, name, kind) in new {
            outlet.send(FromSource::Stream { local, name, kind }).await?;
        }
        if empty && outcome.is_ok() {
            let input = &mut self.inputs[index];
            input.empty += 1;
            let sample = format!("{} {}: {}", shown(&publish.topic), shown(&publish.payload), mapping.wanted());
            input.last_empty = Some(sample);
            self.changed.insert(index);
        }
        Ok(outcome.and(too_many.map_or(Ok(()), Err)))
    }
}

/// The beginning of a topic or a payload.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).escape_debug().take(SHOWN).collect()
}

/// The source's own number of a stream, given out now if it is new; `None` if there are too many. A mapping makes packets of
/// one kind, but two mappings may use one name: then it is two streams here, and one in the pipeline.
fn local(
    streams: &mut HashMap<(PacketKind, String), u32>,
    name: &str,
    kind: PacketKind,
    new: &mut Vec<(u32, String, PacketKind)>,
) -> Option<StreamId> {
    // The look-up takes a name of its own; it is short, and freed at once.
    let key = (kind, name.to_owned());
    if let Some(local) = streams.get(&key) {
        return Some(StreamId(*local));
    }
    if streams.len() >= MAX_STREAMS {
        return None;
    }
    let local = u32::try_from(streams.len()).unwrap_or(u32::MAX);
    new.push((local, key.1.clone(), kind));
    streams.insert(key, local);
    Some(StreamId(local))
}

/// What to ask the broker for.
fn filters(config: &Config) -> Vec<Filter> {
    let qos = if config.acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    let mut filters: Vec<Filter> =
        config.topics.iter().map(|mapping| Filter::new(mapping.filter.mqtt(), qos)).collect();
    // A retained value is told once, not with every connection.
    filters.iter_mut().for_each(|filter| filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe);
    filters
}

/// The half that listens.
async fn listen(
    mut event_loop: EventLoop,
    client: &AsyncClient,
    (host, window): (&str, u16),
    filters: Vec<Filter>,
    publishes: mpsc::Sender<Publish>,
) -> anyhow::Result<()> {
    let mut is_up = false;
    // Publishes without an acknowledgement that is written. mosquitto 2.0.11 sends more than it was asked to after its session was
    // taken up again some times: more of them then come twice after a kill.
    let (mut under_way, mut said) = (0usize, false);
    loop {
        match event_loop
            .poll()
            .await
            .map_err(|error| anyhow!("the local broker: {}", explain_v5(&error, host, is_up)))?
        {
            Event::Incoming(Packet::ConnAck(connack)) => {
                is_up = true;
                info!(session = connack.session_present, "connected to the local broker");
                client.try_subscribe_many(filters.clone())?;
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                for (filter, code) in filters.iter().zip(ack.return_codes) {
                    // At less than what was asked for nothing would be acknowledged.
                    let granted = matches!(code, SubscribeReasonCode::Success(qos) if qos == filter.qos);
                    ensure!(granted, "the local broker does not grant `{}`: {code:?}", filter.path);
                }
                info!("listening to the local broker");
            }
            Event::Incoming(Packet::Publish(publish)) => {
                under_way += usize::from(publish.qos != QoS::AtMostOnce);
                if under_way > usize::from(window) && !said {
                    warn!(window, "the local broker sends more than its receive maximum");
                    said = true;
                }
                publishes.send(publish).await.map_err(|_| Stopping)?;
            }
            Event::Outgoing(Outgoing::PubAck(_)) => under_way = under_way.saturating_sub(1),
            Event::Incoming(Packet::Disconnect(disconnect)) => {
                warn!(reason = ?disconnect.reason_code, "the local broker ends the connection");
                bail!("the local broker: {:?}", disconnect.reason_code);
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
    }
}

/// The half that acknowledges what is settled, in the order in which it came.
async fn acknowledge(
    client: &AsyncClient,
    mut settled: watch::Receiver<u64>,
    unsettled: &Unsettled,
) -> anyhow::Result<()> {
    loop {
        let upto = *settled.borrow_and_update();
        loop {
            let due = unsettled.publishes.borrow_mut().pop_front_if(|(count, _)| *count <= upto);
            let Some((_, publish)) = due else { break };
            // There is room for all that may be unsettled, so this does not wait for the event loop, which may wait for us.
            client.ack(&publish).await?;
        }
        unsettled.room.notify_one();
        settled.changed().await.map_err(|_| Stopping)?;
    }
}
