//! A meter on the wire: a TCP proxy between agent and broker that counts bytes by topic, both ways.
//!
//! It reads just enough of MQTT 5 to know whose bytes they are: a PUBLISH belongs to its topic, and the PUBACK with
//! its packet id to the same. Everything else (CONNECT, PINGREQ, …) is counted apart. Bytes pass unchanged.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// What passed.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// By topic: bytes of its PUBLISHes and their PUBACKs.
    pub(crate) topics: HashMap<String, u64>,
    /// Bytes of everything else.
    pub(crate) other: u64,
    /// PUBLISHes.
    pub(crate) publishes: u64,
    /// Topics of PUBLISHes without PUBACK yet, by packet id.
    unacknowledged: HashMap<u16, String>,
}

type Shared = Arc<Mutex<Reading>>;

/// Listens on a free port of loopback and passes everything on to the broker.
pub(crate) async fn start(broker: SocketAddr) -> anyhow::Result<(SocketAddr, Shared)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let shared = Shared::default();
    let reading = shared.clone();
    tokio::spawn(async move {
        while let Ok((agent, _)) = listener.accept().await {
            let Ok(broker) = TcpStream::connect(broker).await else { continue };
            // Counting must not wait for a segment to fill.
            let _ = (agent.set_nodelay(true), broker.set_nodelay(true));
            let (agent_read, agent_write) = agent.into_split();
            let (broker_read, broker_write) = broker.into_split();
            tokio::spawn(pass(agent_read, broker_write, reading.clone(), Reading::sent));
            tokio::spawn(pass(broker_read, agent_write, reading.clone(), Reading::received));
        }
    });
    Ok((address, shared))
}

/// Passes bytes on, and hands every whole packet to `count`.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Shared, count: fn(&mut Reading, &[u8])) {
    let mut waiting = Vec::new();
    let mut bytes = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
        waiting.extend_from_slice(&bytes[..length]);
        while let Some(length) = packet_length(&waiting) {
            if let Ok(mut reading) = shared.lock() {
                count(&mut reading, &waiting[..length]);
            }
            waiting.drain(..length);
        }
    }
}

/// Bytes of the first packet, header included, if all of it is here. MQTT 5 section 2.1.4.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let (header, remaining) = remaining_length(bytes)?;
    (bytes.len() >= header + remaining).then_some(header + remaining)
}

/// Bytes of the fixed header, and what it says follows.
fn remaining_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((index + 2, length));
        }
    }
    None
}

impl Reading {
    /// A packet from the agent. Only PUBLISH (type 3) with QoS 1 matters; MQTT 5 section 3.3.
    fn sent(&mut self, packet: &[u8]) {
        match publish(packet) {
            Some((topic, id)) => {
                *self.topics.entry(topic.clone()).or_default() += packet.len() as u64;
                self.publishes += 1;
                self.unacknowledged.insert(id, topic);
            }
            None => self.other += packet.len() as u64,
        }
    }

    /// A packet from the broker. Only PUBACK (type 4) matters; MQTT 5 section 3.4.
    fn received(&mut self, packet: &[u8]) {
        let id = match packet {
            [first, _, high, low, ..] if first >> 4 == 4 => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        };
        match id.and_then(|id| self.unacknowledged.remove(&id)) {
            Some(topic) => *self.topics.entry(topic).or_default() += packet.len() as u64,
            None => self.other += packet.len() as u64,
        }
    }
}

fn publish(packet: &[u8]) -> Option<(String, u16)> {
    if packet.first()? >> 4 != 3 {
        return None;
    }
    let (header, _) = remaining_length(packet)?;
    let length = usize::from(u16::from_be_bytes(packet.get(header..header + 2)?.try_into().ok()?));
    let topic = packet.get(header + 2..header + 2 + length)?;
    let id = packet.get(header + 2 + length..header + 4 + length)?.try_into().ok()?;
    Some((String::from_utf8_lossy(topic).into_owned(), u16::from_be_bytes(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_and_its_acknowledgement_belong_to_one_topic() {
        // PUBLISH, QoS 1, topic "ab", packet id 7, no properties, payload "x".
        let publish = [0x32, 8, 0, 2, b'a', b'b', 0, 7, 0, b'x'];
        let mut reading = Reading::default();
        reading.sent(&publish);
        reading.received(&[0x40, 2, 0, 7]);
        reading.received(&[0xd0, 0]);
        assert_eq!((reading.topics["ab"], reading.other, reading.publishes), (14, 2, 1));
    }

    #[test]
    fn a_packet_is_counted_when_all_of_it_is_there() {
        assert_eq!(packet_length(&[0x32]), None);
        assert_eq!(packet_length(&[0x32, 3, 0, 0]), None);
        assert_eq!(packet_length(&[0x32, 3, 0, 0, 0, 0]), Some(5));
        assert_eq!(packet_length(&[0x32, 0x80, 0x01]), None);
        assert_eq!(remaining_length(&[0x32, 0x80, 0x01]), Some((3, 128)));
    }
}
