//! The cloud side of the demo: a subscriber that keeps what it receives, each packet once.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use porin_core::{
    ids::{Epoch, Seq},
    payload::{self, Decoded},
    topic::TopicKind,
};
use rumqttc::v5::{
    AsyncClient, Event, MqttOptions,
    mqttbytes::{QoS, v5::Packet},
};

/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(50);

/// What came from one gateway.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// By stream, in the order of arrival: time in µs, value.
    pub(crate) streams: HashMap<String, Vec<(u64, f64)>>,
    /// Packets, each counted once.
    pub(crate) packets: u64,
    /// Packets that came again.
    pub(crate) duplicates: u64,
    /// (epoch, seq) of each.
    seen: HashSet<(Epoch, Seq)>,
}

/// By gateway.
pub(crate) type Gateways = Arc<Mutex<HashMap<String, Received>>>;

/// Subscribes to the data of all gateways; returns when the broker has acknowledged it.
pub(crate) async fn subscribe(broker: SocketAddr) -> anyhow::Result<Gateways> {
    let mut options = MqttOptions::new("cloud", broker.ip().to_string(), broker.port());
    options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(Some(1 << 20));
    let (client, mut event_loop) = AsyncClient::new(options, 10);
    let data = TopicKind::Data.filter(&[]);
    client.subscribe(data.clone(), QoS::AtLeastOnce).await?;
    while !matches!(event_loop.poll().await.context("subscribing")?, Event::Incoming(Packet::SubAck(_))) {}
    let gateways = Gateways::default();
    let shared = gateways.clone();
    tokio::spawn(async move {
        loop {
            let publish = match event_loop.poll().await {
                Ok(Event::Incoming(Packet::Publish(publish))) => publish,
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    // The broker was away, and knows of nobody.
                    let _ = client.try_subscribe(data.clone(), QoS::AtLeastOnce);
                    continue;
                }
                Ok(_) => continue,
                Err(_) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            match (payload::decode(&publish.payload), shared.lock()) {
                (Ok(payload), Ok(mut gateways)) => gateways.entry(payload.gateway.clone()).or_default().take(payload),
                (Err(error), _) => eprintln!("the subscriber cannot read a payload: {error}"),
                (_, Err(_)) => return,
            }
        }
    });
    Ok(gateways)
}

impl Received {
    fn take(&mut self, Decoded { epoch, packets, .. }: Decoded) {
        for packet in packets {
            if self.seen.insert((epoch, packet.seq)) {
                self.packets += 1;
                self.streams.entry(packet.stream).or_default().push((packet.time_us, packet.value));
            } else {
                self.duplicates += 1;
            }
        }
    }
}
