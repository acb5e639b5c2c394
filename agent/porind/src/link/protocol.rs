//! The versions of MQTT behind the one connection: what rumqttc's two modules have in common, and where they differ.

mod v311;
pub(super) mod v5;

use porin_core::config::{LinkConfig, Protocol};

use super::Identity;
use crate::tls::Access;

/// What happened on a connection, as far as it matters.
#[derive(Debug)]
pub(super) enum Heard {
    /// The broker takes us. `None`: it does not say.
    Up { receive_max: Option<u16>, max_bytes: Option<usize> },
    /// The next publish that was handed over has this packet id.
    Sent(u16),
    /// A publish is acknowledged.
    Acked(u16, Answer),
    /// Something was published on a topic that we subscribed to.
    Came { topic: Vec<u8>, payload: Vec<u8> },
    /// The broker does not give us what we subscribed to.
    NotSubscribed,
    /// Our farewell is written.
    Left,
    /// Whatever else.
    Nothing,
}

/// What an acknowledgement says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The broker has it.
    Taken,
    /// Not now, on this connection: why.
    Later(&'static str),
    /// Not on this connection: why.
    Reconnect(&'static str),
    /// Never: why.
    Never(&'static str),
}

/// The half that speaks.
pub(super) enum Client {
    V5(rumqttc::v5::AsyncClient),
    V311(rumqttc::AsyncClient),
}

/// The half that listens.
pub(super) enum Listener {
    V5(Box<v5::Listener>),
    V311(Box<v311::Listener>),
}

/// A client and its event loop for one connection.
pub(super) fn connection(config: &LinkConfig, identity: Option<&Identity>, access: Access) -> (Client, Listener) {
    match config.protocol {
        Protocol::V5 => {
            let (client, listener) = v5::connection(config, identity, access);
            (Client::V5(client), Listener::V5(listener.into()))
        }
        Protocol::V311 => {
            let (client, listener) = v311::connection(config, identity, access);
            (Client::V311(client), Listener::V311(listener.into()))
        }
    }
}

impl Client {
    /// Hands a publish over at QoS 1. It fails only when the listener is gone.
    pub(super) async fn publish(&self, topic: String, retain: bool, payload: Vec<u8>, content_type: &str) {
        match self {
            Self::V5(client) => v5::publish(client, topic, retain, payload, content_type).await,
            Self::V311(client) => v311::publish(client, topic, retain, payload).await,
        }
    }

    /// Asks for what is published on a topic. It fails only when the listener is gone.
    pub(super) async fn subscribe(&self, topic: String) {
        let _ = match self {
            Self::V5(client) => client.subscribe(topic, rumqttc::v5::mqttbytes::QoS::AtLeastOnce).await.map_err(drop),
            Self::V311(client) => client.subscribe(topic, rumqttc::QoS::AtLeastOnce).await.map_err(drop),
        };
    }

    pub(super) async fn unsubscribe(&self, topic: String) {
        let _ = match self {
            Self::V5(client) => client.unsubscribe(topic).await.map_err(drop),
            Self::V311(client) => client.unsubscribe(topic).await.map_err(drop),
        };
    }

    pub(super) async fn disconnect(&self) {
        let _ = match self {
            Self::V5(client) => client.disconnect().await.map_err(drop),
            Self::V311(client) => client.disconnect().await.map_err(drop),
        };
    }
}

impl Listener {
    /// The next thing that happens. Not to be cancelled but for good. The error says what a person can do.
    pub(super) async fn poll(&mut self) -> Result<Heard, String> {
        match self {
            Self::V5(listener) => listener.poll().await,
            Self::V311(listener) => listener.poll().await,
        }
    }
}
