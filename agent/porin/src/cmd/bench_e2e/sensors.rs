//! The publisher and the subscriber of the benchmark.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use porin_core::payload;
use rumqttc::v5::{
    AsyncClient, Event, EventLoop, MqttOptions,
    mqttbytes::{QoS, v5::Packet},
};
use tokio::runtime::Runtime;

/// The deadband.
pub(super) const BOUND: f64 = 3.0;

/// Streams in turn.
const STREAMS: usize = 16;

/// Of so many messages one moves by more than the bound: 5 %.
const EVERY: u64 = 20;

/// Sensors at a broker.
pub(super) struct Sensors {
    port: u16,
    qos: QoS,
    values: [f64; STREAMS],
    sent: u64,
    jumps: u64,
}

impl Sensors {
    pub(super) fn new(port: u16, qos: u8) -> Self {
        let qos = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        Self { port, qos, values: [0.0; STREAMS], sent: 0, jumps: 0 }
    }

    fn client(&self, name: &str) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(format!("{name}-{}", std::process::id()), "127.0.0.1", self.port);
        options.set_keep_alive(Duration::from_secs(30)).set_outgoing_inflight_upper_limit(1_000);
        options.set_max_packet_size(Some(1 << 20));
        AsyncClient::new(options, 1_000)
    }

    /// Topic and payload of the next message, and its value if it moves by more than the bound. Such a value comes once.
    #[allow(clippy::cast_precision_loss)] // some hundred thousand
    fn next(&mut self) -> (String, String, Option<f64>) {
        let stream = usize::try_from(self.sent % STREAMS as u64).unwrap_or(0);
        let jumps = self.sent.is_multiple_of(EVERY);
        self.sent += 1;
        if jumps {
            self.jumps += 1;
            self.values[stream] = self.jumps as f64 * 10.0;
        }
        let value = self.values[stream] + if jumps { 0.0 } else { (self.sent % 7) as f64 / 10.0 };
        (format!("in/s{stream}"), format!("{{\"v\":{value}}}"), jumps.then_some(value))
    }

    /// Publishes so many messages as fast as the broker takes them.
    pub(super) fn publish(mut self, count: u64) -> anyhow::Result<()> {
        let (client, mut event_loop) = self.client("sensors");
        let acknowledged = self.qos == QoS::AtLeastOnce;
        runtime()?.block_on(async {
            let publishing = async {
                for _ in 0..count {
                    let (topic, payload, _) = self.next();
                    client.publish(topic, self.qos, false, payload).await?;
                }
                if !acknowledged {
                    // Time for the last ones to be written.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    return anyhow::Ok(());
                }
                std::future::pending().await
            };
            let polling = async {
                let mut acks = 0;
                while acks < count {
                    let event = event_loop.poll().await.context("publishing")?;
                    acks += u64::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
                }
                anyhow::Ok(())
            };
            tokio::select! { ended = publishing => ended, ended = polling => ended }
        })
    }

    /// Publishes at a rate, and gives the times after which those that move were at a subscriber.
    pub(super) fn publish_and_time(mut self, per_second: f64, long: Duration) -> anyhow::Result<Vec<Duration>> {
        let (client, mut event_loop) = self.client("sensors");
        let (cloud, mut cloud_loop) = self.client("cloud");
        let sent = std::cell::RefCell::new(HashMap::new());
        let mut times = Vec::new();
        runtime()?.block_on(async {
            cloud.subscribe("out/#", QoS::AtLeastOnce).await?;
            while !matches!(cloud_loop.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
            let publishing = async {
                let start = tokio::time::Instant::now();
                let mut number = 0u64;
                while start.elapsed() < long {
                    tokio::time::sleep_until(start + Duration::from_secs_f64(number as f64 / per_second)).await;
                    // A millisecond's worth at a time: the timer is no finer.
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    for _ in 0..(per_second / 1_000.0).ceil() as u64 {
                        let (topic, payload, moved) = self.next();
                        if let Some(value) = moved {
                            sent.borrow_mut().insert(value.to_bits(), Instant::now());
                        }
                        client.publish(topic, self.qos, false, payload).await?;
                        number += 1;
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                anyhow::Ok(())
            };
            let polling = async {
                loop {
                    event_loop.poll().await.context("publishing")?;
                }
            };
            let receiving = async {
                loop {
                    let Event::Incoming(Packet::Publish(publish)) = cloud_loop.poll().await.context("receiving")?
                    else {
                        continue;
                    };
                    for packet in
                        payload::decode(&publish.payload).map_or_else(|_| Vec::new(), |decoded| decoded.packets)
                    {
                        if let Some(start) = sent.borrow_mut().remove(&packet.value.to_bits()) {
                            times.push(start.elapsed());
                        }
                    }
                }
            };
            tokio::select! { ended = publishing => ended, ended = polling => ended, ended = receiving => ended }
        })?;
        Ok(times)
    }

    /// Leaves a message for whoever subscribes next, and listens for what comes of it.
    pub(super) fn listen_after_retaining(self) -> anyhow::Result<Waiting> {
        let runtime = runtime()?;
        let (client, mut event_loop) = self.client("first");
        runtime.block_on(async {
            client.subscribe("out/#", QoS::AtLeastOnce).await?;
            client.publish("in/s0", QoS::AtLeastOnce, true, "{\"v\":1.5}").await?;
            let (mut subscribed, mut retained) = (false, false);
            while !(subscribed && retained) {
                match event_loop.poll().await? {
                    Event::Incoming(Packet::SubAck(_)) => subscribed = true,
                    Event::Incoming(Packet::PubAck(_)) => retained = true,
                    Event::Incoming(_) | Event::Outgoing(_) => {}
                }
            }
            anyhow::Ok(())
        })?;
        Ok(Waiting { runtime, client, event_loop })
    }
}

/// A subscriber for one publish.
pub(super) struct Waiting {
    runtime: Runtime,
    client: AsyncClient,
    event_loop: EventLoop,
}

impl Waiting {
    /// Returns when it has come.
    pub(super) fn first(&mut self, patience: Duration) -> anyhow::Result<()> {
        let Self { runtime, event_loop, .. } = self;
        runtime.block_on(async {
            let came = async {
                while !matches!(event_loop.poll().await?, Event::Incoming(Packet::Publish(_))) {}
                anyhow::Ok(())
            };
            match tokio::time::timeout(patience, came).await {
                Ok(came) => came,
                Err(_) => bail!("no packet came"),
            }
        })
    }

    /// Takes the message that was left away again.
    pub(super) fn forget(mut self) -> anyhow::Result<()> {
        let Self { runtime, client, event_loop } = &mut self;
        runtime.block_on(async {
            client.publish("in/s0", QoS::AtLeastOnce, true, "").await?;
            while !matches!(event_loop.poll().await?, Event::Incoming(Packet::PubAck(_))) {}
            anyhow::Ok(())
        })
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
