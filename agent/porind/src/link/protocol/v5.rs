//! MQTT 5: acknowledgements have reasons, the broker tells its limits, payloads their content type.

use std::time::Duration;

use porin_core::{config::LinkConfig, status::Presence};
use rumqttc::{
    NetworkOptions, Outgoing, TlsError,
    v5::{
        AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError,
        mqttbytes::{
            Error, QoS,
            v5::{LastWill, Packet, PubAckReason, PublishProperties, SubscribeReasonCode},
        },
    },
};

use super::{Answer, Heard};
use crate::{
    link::{CONNECT_S, Identity, MAX_INCOMING_BYTES, REQUESTS},
    tls::{self, Access},
};

pub(crate) struct Listener {
    event_loop: EventLoop,
    host: String,
    is_up: bool,
}

pub(super) fn connection(config: &LinkConfig, identity: Option<&Identity>, access: Access) -> (AsyncClient, Listener) {
    let host = config.broker.host.clone();
    let mut options = MqttOptions::new(&config.client_id, &host, config.broker.port);
    options
        .set_clean_start(true)
        .set_keep_alive(Duration::from_secs(config.keep_alive_s.into()))
        .set_max_packet_size(Some(MAX_INCOMING_BYTES))
        .set_outgoing_inflight_upper_limit(config.in_flight)
        .set_connection_timeout(CONNECT_S)
        .set_transport(access.transport);
    if let Some(identity) = identity {
        let payload = identity.payload(Presence::Offline);
        options.set_last_will(LastWill::new(identity.topic(), payload, QoS::AtLeastOnce, true, None));
    }
    if let Some((username, password)) = access.login {
        options.set_credentials(username, password);
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, event_loop) = AsyncClient::new(options, REQUESTS);
    (client, Listener { event_loop, host, is_up: false })
}

pub(super) async fn publish(client: &AsyncClient, topic: String, retain: bool, payload: Vec<u8>, content_type: &str) {
    let properties = PublishProperties { content_type: Some(content_type.into()), ..PublishProperties::default() };
    let _ = client.publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties).await;
}

impl Listener {
    pub(super) async fn poll(&mut self) -> Result<Heard, String> {
        let event = self.event_loop.poll().await.map_err(|error| explain(&error, &self.host, self.is_up))?;
        Ok(match event {
            Event::Incoming(Packet::ConnAck(connack)) => {
                self.is_up = true;
                let properties = connack.properties.as_ref();
                Heard::Up {
                    receive_max: properties.and_then(|properties| properties.receive_max),
                    max_bytes: properties.and_then(|properties| properties.max_packet_size).map(|bytes| bytes as usize),
                }
            }
            Event::Outgoing(Outgoing::Publish(id)) => Heard::Sent(id),
            Event::Outgoing(Outgoing::Disconnect) => Heard::Left,
            Event::Incoming(Packet::PubAck(ack)) => Heard::Acked(ack.pkid, answer(ack.reason)),
            // rumqttc would remember as many as the broker likes, and we have announced none.
            Event::Incoming(Packet::Publish(publish))
                if publish.properties.as_ref().is_some_and(|properties| properties.topic_alias.is_some()) =>
            {
                return Err("the broker uses a topic alias, and was told of none".into());
            }
            Event::Incoming(Packet::Publish(publish)) => {
                Heard::Came { topic: publish.topic.to_vec(), payload: publish.payload.to_vec() }
            }
            Event::Incoming(Packet::SubAck(ack))
                if ack.return_codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_))) =>
            {
                Heard::NotSubscribed
            }
            Event::Incoming(_) | Event::Outgoing(_) => Heard::Nothing,
        })
    }
}

/// What is wrong, in words that say what to do.
#[allow(clippy::wildcard_enum_match_arm)] // rumqttc's enums: the rest has no better words than its own
pub(crate) fn explain(error: &ConnectionError, host: &str, is_up: bool) -> String {
    let io = match error {
        ConnectionError::Tls(TlsError::Io(error))
        | ConnectionError::Io(error)
        | ConnectionError::MqttState(StateError::Io(error))
        | ConnectionError::MqttState(StateError::Deserialization(Error::Io(error))) => Some(error),
        _ => None,
    };
    match (error, io.and_then(tls::inside)) {
        (_, Some(error)) => tls::explain(error, host),
        // What rumqttc makes of an answer that is two bytes too short.
        (ConnectionError::MqttState(StateError::ConnectionAborted), _) if !is_up => {
            "the broker closed the connection before it answered; if it speaks no MQTT 5, set protocol = \"3.1.1\""
                .into()
        }
        (ConnectionError::ConnectionRefused(code), _) => format!("the broker refuses the connection: {code:?}"),
        (error, _) => error.to_string(),
    }
}

/// What each reason of an acknowledgement means (MQTT 5, 3.4.2.1), as `docs/brokers.md` lists them. The words are those of the counters.
fn answer(reason: PubAckReason) -> Answer {
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Answer::Taken,
        // Brokers use the first two for a queue that is full or not there now, and for rules that timed out.
        PubAckReason::UnspecifiedError => Answer::Later("UnspecifiedError"),
        PubAckReason::ImplementationSpecificError => Answer::Later("ImplementationSpecificError"),
        PubAckReason::QuotaExceeded => Answer::Later("QuotaExceeded"),
        // The two sides disagree about what is under way: a new connection begins with nothing.
        PubAckReason::PacketIdentifierInUse => Answer::Reconnect("PacketIdentifierInUse"),
        PubAckReason::NotAuthorized => Answer::Never("NotAuthorized"),
        PubAckReason::TopicNameInvalid => Answer::Never("TopicNameInvalid"),
        PubAckReason::PayloadFormatInvalid => Answer::Never("PayloadFormatInvalid"),
    }
}
