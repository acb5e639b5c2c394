//! `porin load send`: made-up gateways, each with a connection of its own, or the sensors of a local broker.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use porin_core::{
    ids::Seq,
    payload::{self, Encoding, Packet},
    simulator::{Behaviour, Made, Simulator},
    topic::Topic,
};
use rumqttc::v5::{
    AsyncClient, Event, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Packet as MqttPacket, PubAckReason},
    },
};
use tokio::task::JoinSet;

use super::{address, ledger::made_up_epoch, unique};

/// Publishes of a gateway under way.
const WINDOW: u64 = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// mqtt://HOST or mqtt://HOST:PORT
    #[arg(long, default_value = "mqtt://127.0.0.1")]
    broker: String,
    /// Gateways, each with a connection of its own: load-1, load-2, …
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    gateways: u32,
    /// Streams of each gateway
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// Packets of each gateway
    #[arg(long, default_value_t = 10_000)]
    packets: u64,
    /// Packets a second of each gateway; default as fast as the broker takes them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// What the values follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Packets in a publish
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// json, senml+json, senml+cbor or compact
    #[arg(long, default_value = "json", value_parser = encoding)]
    encoding: Encoding,
    /// As sensors do: each reading a number on `load/GATEWAY/STREAM`, for a source of kind mqtt
    #[arg(long, conflicts_with_all = ["batch", "encoding"])]
    sensors: bool,
}

fn encoding(name: &str) -> Result<Encoding, String> {
    let known = Encoding::ALL.map(|(name, _)| name).join(", ");
    let found = Encoding::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, encoding)| *encoding).ok_or_else(|| format!("known are {known}"))
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut gateways = JoinSet::new();
    let (host, port) = address(&arguments.broker)?;
    for number in 1..=arguments.gateways {
        let gateway = Gateway::new(arguments, number, &host, port);
        gateways.spawn(gateway.run());
    }
    let (mut publishes, mut packets) = (0, 0);
    while let Some(sent) = gateways.join_next().await {
        let sent = sent?;
        let (its_publishes, its_packets) = sent?;
        publishes += its_publishes;
        packets += its_packets;
    }
    let seconds = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // for the eyes
    let rate = packets as f64 / seconds.max(1e-9);
    eprintln!(
        "{packets} packets in {publishes} publishes of {} gateways acknowledged in {seconds:.1} s: {rate:.0} a second",
        arguments.gateways
    );
    Ok(())
}

/// One gateway's worth.
struct Gateway {
    name: String,
    host: String,
    port: u16,
    simulator: Simulator,
    streams: Vec<String>,
    epoch: porin_core::ids::Epoch,
    packets: u64,
    rate: Option<u32>,
    batch: usize,
    encoding: Encoding,
    sensors: bool,
}

impl Gateway {
    fn new(arguments: &Arguments, number: u32, host: &str, port: u16) -> Self {
        let behaviour = Behaviour {
            seed: arguments.seed.wrapping_add(number.into()),
            count: arguments.streams,
            every_us: 1_000_000,
            start: 20.0,
            step: 0.1,
            decimals: 2,
            spikes: 0.001,
            spike: 10.0,
            drop_outs: 0.0,
            stuck: 0.0,
            clock_jumps: 0.0,
        };
        Self {
            name: format!("load-{number}"),
            host: host.to_owned(),
            port,
            simulator: Simulator::new(behaviour),
            streams: (1..=arguments.streams).map(|stream| format!("s{stream}")).collect(),
            epoch: made_up_epoch(arguments.seed, number),
            packets: arguments.packets,
            rate: arguments.rate,
            batch: if arguments.sensors { 1 } else { arguments.batch.into() },
            encoding: arguments.encoding,
            sensors: arguments.sensors,
        }
    }

    /// Publishes and packets that the broker has acknowledged.
    async fn run(self) -> anyhow::Result<(u64, u64)> {
        let name = self.name.clone();
        self.publish().await.with_context(|| format!("gateway {name}"))
    }

    async fn publish(mut self) -> anyhow::Result<(u64, u64)> {
        let mut options = MqttOptions::new(format!("{}-{}", self.name, unique()), &self.host, self.port);
        options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(Some(1 << 20));
        let (client, mut event_loop) = AsyncClient::new(options, 16);
        let (acked, mut acks) = tokio::sync::watch::channel(0u64);
        let events = async {
            loop {
                if let Event::Incoming(MqttPacket::PubAck(ack)) = event_loop.poll().await? {
                    let taken = matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                    ensure!(taken, "the broker refuses a publish: {:?}", ack.reason);
                    acked.send_modify(|acked| *acked += 1);
                }
            }
        };
        let publishing = async {
            let start = tokio::time::Instant::now();
            let (mut publishes, mut seq) = (0u64, 0);
            let mut made: Vec<Made> = Vec::new();
            while seq < self.packets {
                while made.len() < self.batch {
                    self.simulator.round(1_700_000_000_000_000, |reading| made.push(reading));
                }
                let count = self.batch.min(usize::try_from(self.packets - seq).unwrap_or(usize::MAX));
                let rest = made.split_off(count);
                let batch = std::mem::replace(&mut made, rest);
                if let Some(rate) = self.rate {
                    let due = Duration::from_secs_f64(seq as f64 / f64::from(rate));
                    tokio::time::sleep_until(start + due).await;
                }
                let (topic, payload) = self.payload(seq, &batch);
                client.publish(topic, QoS::AtLeastOnce, false, payload).await?;
                (publishes, seq) = (publishes + 1, seq + count as u64);
                acks.wait_for(|acked| publishes - *acked < WINDOW).await?;
            }
            acks.wait_for(|acked| *acked == publishes).await?;
            anyhow::Ok((publishes, seq))
        };
        tokio::select! {
            ended = events => ended,
            sent = publishing => sent,
        }
    }

    fn payload(&self, seq: u64, batch: &[Made]) -> (String, Vec<u8>) {
        let stream = |made: &Made| self.streams[made.stream as usize].as_str();
        if self.sensors {
            let made = &batch[0];
            return (format!("load/{}/{}", self.name, stream(made)), made.value.to_string().into_bytes());
        }
        let mut packets = Vec::with_capacity(batch.len());
        for (seq, made) in (seq..).zip(batch) {
            let Made { time_us, value, .. } = *made;
            packets.push(Packet { seq: Seq(seq), stream: stream(made), unit: "", time_us, value, quality: 0 });
        }
        let topic = Topic::Data { gateway: &self.name, below: "load" }.to_string();
        (topic, payload::encode(self.encoding, &self.name, self.epoch, &packets))
    }
}
