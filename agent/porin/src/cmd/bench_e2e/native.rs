//! The smallest program that does the same: rumqttc, serde_json, and a deadband in native code. It keeps nothing.

use std::{cell::Cell, collections::HashMap, rc::Rc, time::Duration};

use rumqttc::v5::{
    AsyncClient, Event, MqttOptions,
    mqttbytes::{QoS, v5::Packet},
};
use serde::Deserialize;

use super::sensors::BOUND;

#[derive(Deserialize)]
struct Message {
    v: f64,
}

pub(super) fn run(port: u16, qos: u8) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, filter(port, qos))
}

async fn filter(port: u16, qos: u8) -> anyhow::Result<()> {
    let qos = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    let mut options = MqttOptions::new(format!("native-{}", std::process::id()), "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30)).set_receive_maximum(Some(1_000));
    let (client, mut event_loop) = AsyncClient::new(options, 1_000);
    client.subscribe("in/+", qos).await?;
    let mut last: HashMap<String, f64> = HashMap::new();
    let seen = Rc::new(Cell::new(0u64));
    let told = seen.clone();
    tokio::task::spawn_local(async move {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if told.get() != before {
                before = told.get();
                eprintln!("seen {before}");
            }
        }
    });
    loop {
        match event_loop.poll().await? {
            Event::Incoming(Packet::SubAck(_)) => eprintln!("listening to the local broker"),
            Event::Incoming(Packet::Publish(publish)) => {
                seen.set(seen.get() + 1);
                let Ok(Message { v }) = serde_json::from_slice(&publish.payload) else { continue };
                let stream = String::from_utf8_lossy(&publish.topic[3..]).into_owned();
                if last.get(&stream).is_none_or(|last| (v - last).abs() > BOUND) {
                    client.try_publish(format!("out/{stream}"), qos, false, publish.payload)?;
                    last.insert(stream, v);
                }
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
    }
}
