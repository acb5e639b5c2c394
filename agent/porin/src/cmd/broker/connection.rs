//! One client's connection: the codec is rumqttc's, what is sent and to whom is the router's.

use std::{cell::RefCell, rc::Rc, time::Duration};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::{
    Error, QoS,
    v5::{
        ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode as End, LastWill,
        Packet,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    time::timeout,
};

use super::router::{Id, Router};

/// Of a packet, whichever side sends it.
const MAX_PACKET: u32 = 262_144;

/// From the connection to its CONNECT, and for the last bytes to a client that is disconnected.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection ended.
enum Ended {
    /// With a normal DISCONNECT.
    Disconnected,
    /// By the client or the network.
    Lost,
    /// By us, for this reason.
    Refused(End),
}

pub(super) async fn serve(stream: TcpStream, router: Rc<RefCell<Router>>) {
    let _ = stream.set_nodelay(true);
    let (read, mut write) = stream.into_split();
    let mut reader = Reader { read, buffer: BytesMut::new() };
    let Ok(Ok((connect, will))) = timeout(PATIENCE, greet(&mut reader, &mut write, &router)).await else { return };
    let Connect { keep_alive, client_id, properties, .. } = connect;
    let window = properties.and_then(|properties| properties.receive_maximum).unwrap_or(u16::MAX);
    let (id, bell) = router.borrow_mut().come(client_id, window, will);
    let ended = tokio::select! {
        ended = listen(&mut reader, keep_alive, id, &router) => ended,
        ended = tell(&mut write, &bell, id, &router) => ended,
    };
    if let Ended::Disconnected = ended {
        router.borrow_mut().cancel_will(id);
    }
    router.borrow_mut().leave(id);
    if let Ended::Refused(reason) = ended {
        // rumqttc's codec gives a DISCONNECT with a reason a byte too many.
        let _ = timeout(PATIENCE, write.write_all(&[0xe0, 1, reason as u8])).await;
    }
}

/// Waits for CONNECT and answers it. Without a name the client is given one.
async fn greet(
    reader: &mut Reader,
    write: &mut OwnedWriteHalf,
    router: &RefCell<Router>,
) -> Result<(Connect, Option<LastWill>), Ended> {
    let (mut connect, will) = match reader.packet().await {
        Ok(Packet::Connect(connect, will, _)) => (connect, will),
        Err(Failed::Codec(Error::InvalidProtocolLevel(_))) => {
            // As MQTT 3.1.1 says it: unacceptable protocol version.
            let _ = write.write_all(&[0x20, 2, 0, 1]).await;
            return Err(Ended::Lost);
        }
        _ => return Err(Ended::Lost),
    };
    let assigned = connect.client_id.is_empty().then(|| router.borrow_mut().new_name());
    let code = if router.borrow().is_full() { ConnectReturnCode::ServerBusy } else { ConnectReturnCode::Success };
    let properties = ConnAckProperties {
        session_expiry_interval: Some(0),
        receive_max: None,
        max_qos: Some(QoS::AtLeastOnce as u8),
        retain_available: None,
        max_packet_size: Some(MAX_PACKET),
        assigned_client_identifier: assigned.clone(),
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: Some(0),
        shared_subscription_available: Some(0),
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    let answer = ConnAck { session_present: false, code, properties: Some(properties) };
    send(write, &[Packet::ConnAck(answer)]).await.map_err(|_| Ended::Lost)?;
    if code != ConnectReturnCode::Success {
        return Err(Ended::Lost);
    }
    connect.client_id = assigned.unwrap_or(connect.client_id);
    Ok((connect, will))
}

/// Takes what the client sends, until the connection ends.
async fn listen(reader: &mut Reader, keep_alive: u16, id: Id, router: &RefCell<Router>) -> Ended {
    // MQTT 3.1.2.10: one and a half times what the client promises; 0 is no promise.
    let patience = match keep_alive {
        0 => Duration::MAX,
        seconds => Duration::from_secs(u64::from(seconds) * 3 / 2 + 1),
    };
    loop {
        match timeout(patience, reader.packet()).await {
            Err(_) => return Ended::Refused(End::KeepAliveTimeout),
            Ok(Err(Failed::Network)) => return Ended::Lost,
            Ok(Err(Failed::Codec(Error::PayloadSizeLimitExceeded { .. }))) => {
                return Ended::Refused(End::PacketTooLarge);
            }
            Ok(Err(Failed::Codec(_))) => return Ended::Refused(End::MalformedPacket),
            Ok(Ok(Packet::Disconnect(Disconnect { reason_code: End::NormalDisconnection, .. }))) => {
                return Ended::Disconnected;
            }
            Ok(Ok(Packet::Disconnect(_))) => return Ended::Lost,
            Ok(Ok(packet)) => {
                if let Err(reason) = router.borrow_mut().take(id, packet) {
                    return Ended::Refused(reason);
                }
            }
        }
    }
}

/// Sends what waits for the client, until the connection ends.
async fn tell(write: &mut OwnedWriteHalf, bell: &Notify, id: Id, router: &RefCell<Router>) -> Ended {
    /// For each write to the network.
    const AT_ONCE: usize = 64;
    loop {
        let mut packets = Vec::new();
        while packets.len() < AT_ONCE {
            match router.borrow_mut().next(id) {
                Err(reason) => return Ended::Refused(reason),
                Ok(None) => break,
                Ok(Some(packet)) => packets.push(packet),
            }
        }
        if packets.is_empty() {
            bell.notified().await;
        } else if send(write, &packets).await.is_err() {
            return Ended::Lost;
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, packets: &[Packet]) -> std::io::Result<()> {
    let mut bytes = BytesMut::new();
    for packet in packets {
        packet.write(&mut bytes, None).map_err(std::io::Error::other)?;
    }
    write.write_all(&bytes).await
}

enum Failed {
    Network,
    Codec(Error),
}

struct Reader {
    read: OwnedReadHalf,
    buffer: BytesMut,
}

impl Reader {
    async fn packet(&mut self) -> Result<Packet, Failed> {
        loop {
            // rumqttc's codec does not know a DISCONNECT without a reason.
            if self.buffer.starts_with(&[0xe0, 0]) {
                return Ok(Packet::Disconnect(Disconnect::new(End::NormalDisconnection)));
            }
            match Packet::read(&mut self.buffer, Some(MAX_PACKET)) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(Failed::Codec(error)),
            }
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(Failed::Network),
                Ok(_) => {}
            }
        }
    }
}
