//! The sensors of the demo: publishes of JSON on a broker, as devices make them.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use anyhow::Context;
use rumqttc::v5::{
    AsyncClient, Event, MqttOptions,
    mqttbytes::{QoS, v5::Packet},
};

use super::Data;

/// The set whose readings come over MQTT; the others are replayed from their files.
pub(super) const SET: &str = "glucose";

/// The source's part of the configuration.
pub(super) fn source(broker: SocketAddr) -> String {
    format!(
        "\n[sources.{SET}.mqtt]\nbroker = \"mqtt://{broker}\"\nwindow = 100\n\n[[sources.{SET}.mqtt.topics]]\n\
         filter = \"sensors/{SET}/{{channel}}\"\nstreams = {{ \"{SET}/{{channel}}\" = \"/value\" }}\ntime = \"/time\"\n"
    )
}

/// Publishes every reading of the set at QoS 1, and returns when the broker has them all.
pub(super) async fn publish(broker: SocketAddr, data: &Data) -> anyhow::Result<()> {
    let mut options = MqttOptions::new("sensors", broker.ip().to_string(), broker.port());
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut event_loop) = AsyncClient::new(options, 64);
    let prefix = format!("{SET}/");
    let mut publishes = VecDeque::new();
    for (name, stream) in data.iter().filter(|(name, _)| name.starts_with(&prefix)) {
        for (time_us, value) in &stream.readings {
            publishes.push_back((
                format!("sensors/{name}"),
                format!(r#"{{"time":{},"value":{value}}}"#, time_us / 1_000_000),
            ));
        }
    }
    let count = publishes.len();
    let publishing = async move {
        for (topic, payload) in publishes {
            client.publish(topic, QoS::AtLeastOnce, false, payload).await?;
        }
        // Kept: without a client the event loop ends.
        anyhow::Ok(std::future::pending::<AsyncClient>().await)
    };
    let acknowledged = async {
        let mut acknowledged = 0;
        while acknowledged < count {
            let event = event_loop.poll().await.context("publishing as the sensors")?;
            acknowledged += usize::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = publishing => ended.map(|_| ()),
        done = acknowledged => done,
    }
}
