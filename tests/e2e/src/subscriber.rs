//! What arrives in the cloud, as mosquitto's own subscriber has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use porin_core::payload::{self, Decoded};
use serde_json::Value;

use crate::{Process, wait_until};

/// What mosquitto's own subscriber received: topic and payload, in order.
#[derive(Debug)]
pub struct Subscriber {
    _process: Process,
    publishes: Arc<Mutex<Vec<Received>>>,
}

/// A publish as a subscriber has it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where it was published.
    pub topic: String,
    /// MQTT's property.
    pub content_type: String,
    /// As it came.
    pub payload: Vec<u8>,
}

/// A packet by its name: gateway, epoch, seq.
pub type Name = (String, String, u64);

impl Subscriber {
    /// `mosquitto_sub` on a topic filter.
    #[must_use]
    pub fn start(port: u16, filter: &str) -> Self {
        Self::start_with(port, filter, &["-V", "5", "-F", "%t %x %C"])
    }

    /// The same with MQTT 3.1.1, and a session that the broker keeps.
    #[must_use]
    pub fn start_lasting(port: u16, filter: &str, id: &str) -> Self {
        Self::start_with(port, filter, &["-V", "mqttv311", "-c", "-i", id, "-F", "%t %x -"])
    }

    /// `mosquitto_sub` gives up where its first connection fails; a broker that has just begun may not take it yet.
    fn start_with(port: u16, filter: &str, args: &[&str]) -> Self {
        let mut started = None;
        wait_until("the subscription stands", || {
            started = Self::attempt(port, filter, args);
            started.is_some()
        });
        started.expect("it was started")
    }

    /// # Panics
    /// If it cannot be started.
    fn attempt(port: u16, filter: &str, args: &[&str]) -> Option<Self> {
        // `-d` says when the subscription stands; everything after is complete. Into a pipe it would write by blocks.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-q", "1", "-d", "-p", &port.to_string(), "-t", filter])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("mosquitto_sub: {error}; `make test` installs it"));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let publishes = Arc::new(Mutex::new(Vec::new()));
        let subscribed = Arc::new(Mutex::new(false));
        let (shared, ready) = (publishes.clone(), subscribed.clone());
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("Subscribed") {
                    *ready.lock().expect("no panic") = true;
                } else if let [topic, payload, content_type] = *line.split(' ').collect::<Vec<_>>()
                    && let Some(payload) = from_hex(payload)
                {
                    let (topic, content_type) = (topic.to_owned(), content_type.to_owned());
                    shared.lock().expect("no panic").push(Received { topic, content_type, payload });
                }
            }
        });
        let process = Process(child);
        let stands = || *subscribed.lock().expect("no panic");
        wait_until("the subscription stands or fails", || stands() || reader.is_finished());
        stands().then_some(Self { _process: process, publishes })
    }

    /// Everything received so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn publishes(&self) -> Vec<Received> {
        self.publishes.lock().expect("no panic").clone()
    }

    /// Everything received so far that is JSON, by topic.
    #[must_use]
    pub fn received(&self) -> Vec<(String, Value)> {
        let json = |publish: Received| Some((publish.topic, serde_json::from_slice(&publish.payload).ok()?));
        self.publishes().into_iter().filter_map(json).collect()
    }

    /// The values of the packets received so far on topics with this in them, each once, as the whole numbers that they are.
    ///
    /// # Panics
    /// If a payload is not as documented.
    #[must_use]
    pub fn numbers(&self, topic: &str) -> BTreeSet<u64> {
        let publishes = self.publishes().into_iter().filter(|publish| publish.topic.contains(topic));
        let packets = publishes.flat_map(|publish| payload::decode(&publish.payload).expect("whole").packets);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        packets.map(|packet| packet.value as u64).collect()
    }

    /// Values and qualities of a stream, in the order in which they came.
    ///
    /// # Panics
    /// If a payload is not as documented.
    #[must_use]
    pub fn readings(&self, stream: &str) -> Vec<(f64, u32)> {
        let publishes = self.publishes().into_iter();
        let packets = publishes.flat_map(|publish| payload::decode(&publish.payload).expect("whole").packets);
        packets.filter(|packet| packet.stream == stream).map(|packet| (packet.value, packet.quality)).collect()
    }

    /// Values of a stream, in the order in which they came.
    #[must_use]
    pub fn values(&self, stream: &str) -> Vec<f64> {
        self.readings(stream).into_iter().map(|(value, _)| value).collect()
    }

    /// The packets received so far, each once: by name, stream, time and value.
    ///
    /// # Panics
    /// If a payload is not as documented.
    #[must_use]
    pub fn packets(&self) -> BTreeMap<Name, (String, u64, f64)> {
        let mut packets = BTreeMap::new();
        for publish in self.publishes().iter().filter(|publish| publish.topic.contains("/data/")) {
            let Decoded { gateway, epoch, packets: list, .. } =
                payload::decode(&publish.payload).unwrap_or_else(|error| panic!("{error}: {publish:?}"));
            for packet in list {
                let name = (gateway.clone(), epoch.to_string(), packet.seq.0);
                let reading = (packet.stream, packet.time_us, packet.value);
                if let Some(before) = packets.insert(name.clone(), reading.clone()) {
                    assert_eq!(before, reading, "{name:?} names two packets");
                }
            }
        }
        packets
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(byte).collect()
}
