//! A broker that does what none should, one thing on each connection, and at last behaves.
//!
//! It reads as much of MQTT as it takes to be hostile: it does not check what the agent sends.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use porin_core::config::Protocol;

/// What it does on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Closes without an answer.
    ClosesAtOnce,
    /// Answers with something that is no MQTT.
    Garbage,
    /// Answers with half a CONNACK, and closes.
    HalfAnswer,
    /// Refuses the connection.
    Refuses,
    /// Acknowledges four at a time, the last first.
    Backwards,
    /// Acknowledges each publish twice.
    Twice,
    /// Acknowledges publishes that nobody sent.
    Unasked,
    /// Begins a packet of 200 MB.
    Oversize,
    /// Acknowledges some, then half of one, and closes.
    HalfPacket,
    /// Sends noise after some acknowledgements.
    Noise,
    /// Acknowledges nothing, ever, and answers pings.
    NeverAcknowledges,
    /// Reads on and answers nothing any more, not even pings.
    Silent,
    /// Says that its quota is exceeded (MQTT 5).
    Quota,
    /// Allows two publishes under way (MQTT 5).
    SmallWindow,
    /// Answers the first three publishes on data topics with this reason (MQTT 5), and behaves then.
    Answers(u8),
    /// Behaves.
    Behaves,
}

/// Everything that goes wrong, in order; the last one is for all further connections.
pub const DEEDS: [Deed; 15] = [
    Deed::ClosesAtOnce,
    Deed::Garbage,
    Deed::HalfAnswer,
    Deed::Refuses,
    Deed::Backwards,
    Deed::Twice,
    Deed::Unasked,
    Deed::Oversize,
    Deed::HalfPacket,
    Deed::Noise,
    Deed::NeverAcknowledges,
    Deed::Silent,
    Deed::Quota,
    Deed::SmallWindow,
    Deed::Behaves,
];

/// Publishes on a connection before what goes wrong on it.
const BEFORE: usize = 10;

/// The broker.
#[derive(Debug)]
pub struct Hostile {
    /// Where it listens.
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
}

/// What came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections that got as far as a CONNECT.
    pub connections: usize,
    /// Payloads of publishes on data topics, in order, whether they were acknowledged or not.
    pub payloads: Vec<Vec<u8>>,
    /// The most publishes that were under way at a time, of the connection that allowed two.
    pub small_window: usize,
}

impl Hostile {
    /// Listens on loopback.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn start(protocol: Protocol) -> Self {
        Self::that_does(protocol, &DEEDS)
    }

    /// The same with other deeds, one for each connection, and at last it behaves.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn that_does(protocol: Protocol, deeds: &[Deed]) -> Self {
        let deeds = deeds.to_vec();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        thread::spawn(move || {
            let mut deeds = deeds.into_iter();
            for agent in listener.incoming().map_while(Result::ok) {
                let deed = deeds.next().unwrap_or(Deed::Behaves);
                // One at a time: the agent has one connection.
                let mut connection = Connection { agent, protocol, seen: shared.clone() };
                let _ = connection.serve(deed);
            }
        });
        Self { port, seen }
    }

    /// What came so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("no panic").clone()
    }
}

struct Connection {
    agent: TcpStream,
    protocol: Protocol,
    seen: Arc<Mutex<Seen>>,
}

impl Connection {
    fn serve(&mut self, deed: Deed) -> std::io::Result<()> {
        let (_, _) = self.read()?;
        self.seen.lock().expect("no panic").connections += 1;
        let v5 = self.protocol == Protocol::V5;
        // Accepted, no properties; with a receive maximum of 10, of which the agent keeps 8 for itself.
        let (accepted, small): (&[u8], &[u8]) = if v5 {
            (&[0x20, 3, 0, 0, 0], &[0x20, 6, 0, 0, 3, 0x21, 0, 10])
        } else {
            (&[0x20, 2, 0, 0], &[0x20, 2, 0, 0])
        };
        match deed {
            Deed::ClosesAtOnce => return Ok(()),
            Deed::Garbage => return self.agent.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n\xff\xff\xff\xff\xff"),
            Deed::HalfAnswer => return self.agent.write_all(&accepted[..2]),
            Deed::Refuses => return self.agent.write_all(if v5 { &[0x20, 3, 0, 0x88, 0] } else { &[0x20, 2, 0, 3] }),
            Deed::SmallWindow => self.agent.write_all(small)?,
            Deed::Backwards
            | Deed::Twice
            | Deed::Unasked
            | Deed::Oversize
            | Deed::HalfPacket
            | Deed::Noise
            | Deed::NeverAcknowledges
            | Deed::Silent
            | Deed::Quota
            | Deed::Answers(_)
            | Deed::Behaves => self.agent.write_all(accepted)?,
        }
        let mut waiting = Vec::new();
        let (mut publishes, mut answered) = (0, 0);
        loop {
            let (kind, body) = self.read()?;
            match kind >> 4 {
                3 => {
                    publishes += 1;
                    let before = self.seen.lock().expect("no panic").payloads.len();
                    let id = self.publish(&body);
                    let is_data = self.seen.lock().expect("no panic").payloads.len() > before;
                    if let Deed::Answers(reason) = deed
                        && is_data
                        && answered < 3
                    {
                        answered += 1;
                        self.agent.write_all(&[0x40, 4, id[0], id[1], reason, 0])?;
                        continue;
                    }
                    self.answer(deed, id, publishes, &mut waiting)?;
                }
                12 if deed != Deed::Silent => self.agent.write_all(&[0xd0, 0])?,
                14 => return Ok(()),
                _ => {}
            }
        }
    }

    fn answer(&mut self, deed: Deed, id: [u8; 2], publishes: usize, waiting: &mut Vec<[u8; 2]>) -> std::io::Result<()> {
        let ack = |[high, low]: [u8; 2]| [0x40, 2, high, low];
        let soured = publishes > BEFORE;
        match deed {
            Deed::NeverAcknowledges => Ok(()),
            Deed::Silent if soured => Ok(()),
            Deed::Backwards => {
                waiting.push(id);
                // The window is never smaller than this, and what is left over waits for the next connection.
                if waiting.len() == 4 {
                    while let Some(id) = waiting.pop() {
                        self.agent.write_all(&ack(id))?;
                    }
                }
                if publishes > 10 * BEFORE { Err(std::io::ErrorKind::Other.into()) } else { Ok(()) }
            }
            Deed::SmallWindow => {
                waiting.push(id);
                let most = &mut self.seen.lock().expect("no panic").small_window;
                *most = waiting.len().max(*most);
                // Whoever sends a third one before an acknowledgement has it counted.
                if waiting.len() >= 2 {
                    thread::sleep(Duration::from_millis(20));
                    self.agent.set_nonblocking(true)?;
                    let third = self.agent.peek(&mut [0; 1]).is_ok();
                    self.agent.set_nonblocking(false)?;
                    *most += usize::from(third);
                    for id in waiting.drain(..) {
                        self.agent.write_all(&ack(id))?;
                    }
                }
                if publishes > BEFORE { Err(std::io::ErrorKind::Other.into()) } else { Ok(()) }
            }
            Deed::Twice if soured => self.agent.write_all(&[ack(id), ack(id)].concat()),
            Deed::Unasked if soured => self.agent.write_all(&ack([0xff, 0xee])),
            Deed::Oversize if soured => self.agent.write_all(&[0x30, 0xff, 0xff, 0xff, 0x5f, 0, 1, b'x', 0]),
            Deed::HalfPacket if soured => {
                self.agent.write_all(&ack(id)[..3])?;
                Err(std::io::ErrorKind::Other.into())
            }
            Deed::Noise if soured => self.agent.write_all(&[0, 0xf0, 0xff, 0x81, 0x40, 0x40, 0x40, 7, 1, 2, 3]),
            // With the reason 0x97, which the agent waits for on this connection; so it ends after some.
            Deed::Quota if soured && self.protocol == Protocol::V5 && publishes <= 2 * BEFORE => {
                self.agent.write_all(&[0x40, 4, id[0], id[1], 0x97, 0])
            }
            Deed::Quota if soured => Err(std::io::ErrorKind::Other.into()),
            Deed::ClosesAtOnce
            | Deed::Garbage
            | Deed::HalfAnswer
            | Deed::Refuses
            | Deed::Twice
            | Deed::Unasked
            | Deed::Oversize
            | Deed::HalfPacket
            | Deed::Noise
            | Deed::Silent
            | Deed::Quota
            | Deed::Answers(_)
            | Deed::Behaves => self.agent.write_all(&ack(id)),
        }
    }

    /// Keeps the payload of a QoS 1 publish and gives its packet id.
    fn publish(&self, body: &[u8]) -> [u8; 2] {
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = &body[2..2 + length];
        let id = [body[2 + length], body[3 + length]];
        let mut rest = &body[4 + length..];
        if self.protocol == Protocol::V5 {
            // The agent's properties are shorter than 128 bytes.
            rest = &rest[1 + usize::from(rest[0])..];
        }
        if String::from_utf8_lossy(topic).contains("/data/") {
            self.seen.lock().expect("no panic").payloads.push(rest.to_vec());
        }
        id
    }

    /// The first byte and the body of a packet.
    fn read(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.agent.read_exact(&mut byte)?;
        let kind = byte[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.agent.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.agent.read_exact(&mut body)?;
        Ok((kind, body))
    }
}
