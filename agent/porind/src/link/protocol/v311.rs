//! MQTT 3.1.1: for brokers that speak nothing newer.
//!
//! An acknowledgement has no reason: what the broker does not allow it acknowledges like anything else, or it closes the
//! connection. It tells no limits either; `max_publish` and `in_flight` of the configuration stand in for them.

use std::time::Duration;

use porin_core::{config::LinkConfig, status::Presence};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing, Packet, QoS,
    StateError, SubscribeReasonCode, TlsError, mqttbytes::Error,
};

use super::{Answer, Heard};
use crate::{
    link::{CONNECT_S, Identity, MAX_INCOMING_BYTES, REQUESTS},
    tls::{self, Access},
};

pub(crate) struct Listener {
    event_loop: EventLoop,
    host: String,
}

pub(super) fn connection(config: &LinkConfig, identity: Option<&Identity>, access: Access) -> (AsyncClient, Listener) {
    let host = config.broker.host.clone();
    let mut options = MqttOptions::new(&config.client_id, &host, config.broker.port);
    options
        .set_clean_session(true)
        .set_keep_alive(Duration::from_secs(config.keep_alive_s.into()))
        // A publish over the second would end the connection; the loop makes none.
        .set_max_packet_size(MAX_INCOMING_BYTES as usize, config.max_publish_bytes)
        .set_inflight(config.in_flight)
        .set_transport(access.transport);
    if let Some(identity) = identity {
        let payload = identity.payload(Presence::Offline);
        options.set_last_will(LastWill::new(identity.topic(), payload, QoS::AtLeastOnce, true));
    }
    if let Some((username, password)) = access.login {
        options.set_credentials(username, password);
    }
    let (client, mut event_loop) = AsyncClient::new(options, REQUESTS);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_S);
    event_loop.set_network_options(network);
    (client, Listener { event_loop, host })
}

pub(super) async fn publish(client: &AsyncClient, topic: String, retain: bool, payload: Vec<u8>) {
    let _ = client.publish(topic, QoS::AtLeastOnce, retain, payload).await;
}

impl Listener {
    pub(super) async fn poll(&mut self) -> Result<Heard, String> {
        let event = self.event_loop.poll().await.map_err(|error| self.explain(&error))?;
        Ok(match event {
            Event::Incoming(Packet::ConnAck(_)) => Heard::Up { receive_max: None, max_bytes: None },
            Event::Outgoing(Outgoing::Publish(id)) => Heard::Sent(id),
            Event::Outgoing(Outgoing::Disconnect) => Heard::Left,
            Event::Incoming(Packet::PubAck(ack)) => Heard::Acked(ack.pkid, Answer::Taken),
            Event::Incoming(Packet::Publish(publish)) => {
                Heard::Came { topic: publish.topic.into_bytes(), payload: publish.payload.to_vec() }
            }
            Event::Incoming(Packet::SubAck(ack)) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => {
                Heard::NotSubscribed
            }
            Event::Incoming(_) | Event::Outgoing(_) => Heard::Nothing,
        })
    }

    #[allow(clippy::wildcard_enum_match_arm)] // rumqttc's enums: the rest has no better words than its own
    fn explain(&self, error: &ConnectionError) -> String {
        let io = match error {
            ConnectionError::Tls(TlsError::Io(error))
            | ConnectionError::Io(error)
            | ConnectionError::MqttState(StateError::Io(error))
            | ConnectionError::MqttState(StateError::Deserialization(Error::Io(error))) => Some(error),
            _ => None,
        };
        match (error, io.and_then(tls::inside)) {
            (_, Some(error)) => tls::explain(error, &self.host),
            (ConnectionError::ConnectionRefused(code), _) => format!("the broker refuses the connection: {code:?}"),
            (error, _) => error.to_string(),
        }
    }
}
