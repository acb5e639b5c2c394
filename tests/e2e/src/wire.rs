//! The wire between agent and broker: bytes both ways are counted, pieces of components are seen, and it can be cut when one is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// What comes before component and number of a piece in its topic.
const BLOB: &[u8] = b"/blob/";

/// Of a component's digest.
const DIGITS: usize = 64;

/// A wire to one port.
#[derive(Debug)]
pub struct Wire {
    /// Where the agent connects to.
    pub port: u16,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: AtomicU64,
    cuts: AtomicU64,
    /// Pieces at whose first subscription the wire is cut.
    cut_at: Mutex<BTreeSet<u8>>,
    /// How often each piece came from the broker.
    pieces: Mutex<BTreeMap<u8, u64>>,
}

impl Wire {
    /// A wire to a port of loopback, which is cut once when each of these pieces is asked for.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn to(broker: u16, cut_at: &[u8]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let seen = Arc::new(Seen { cut_at: Mutex::new(cut_at.iter().copied().collect()), ..Seen::default() });
        let shared = seen.clone();
        thread::spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) else { continue };
                let clone = |stream: &TcpStream| stream.try_clone().expect("a socket");
                let (up, down) = ((clone(&agent), clone(&broker)), (broker, agent));
                let (upward, downward) = (shared.clone(), shared.clone());
                thread::spawn(move || {
                    carry(up.0, up.1, &upward, |seen, piece| seen.cut_at.lock().expect("no panic").remove(&piece))
                });
                thread::spawn(move || {
                    carry(down.0, down.1, &downward, |seen, piece| {
                        *seen.pieces.lock().expect("no panic").entry(piece).or_default() += 1;
                        false
                    });
                });
            }
        });
        Self { port, seen }
    }

    /// Bytes so far, both ways.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.seen.bytes.load(Ordering::SeqCst)
    }

    /// How often it was cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.seen.cuts.load(Ordering::SeqCst)
    }

    /// How often each piece came from the broker.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn pieces(&self) -> BTreeMap<u8, u64> {
        self.seen.pieces.lock().expect("no panic").clone()
    }
}

/// One direction. `cuts` says of each piece that is named whether the wire is to be cut before that goes on.
fn carry(mut from: TcpStream, mut to: TcpStream, seen: &Seen, cuts: impl Fn(&Seen, u8) -> bool) {
    let mut buffer = [0; 4_096];
    // The end of what has passed: a topic may lie across two reads.
    let mut tail: Vec<u8> = Vec::new();
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..read];
        seen.bytes.fetch_add(read as u64, Ordering::SeqCst);
        tail.extend_from_slice(bytes);
        let mut end = 0;
        let mut cut = false;
        for at in 0..tail.len().saturating_sub(BLOB.len() + DIGITS + 1) {
            if tail[at..].starts_with(BLOB) && tail[at + BLOB.len() + DIGITS] == b'/' {
                end = at + BLOB.len();
                cut |= cuts(seen, tail[at + BLOB.len() + DIGITS + 1] - b'0');
            }
        }
        if cut {
            seen.cuts.fetch_add(1, Ordering::SeqCst);
            break;
        }
        // What was found is not found again.
        tail.drain(..end.max(tail.len().saturating_sub(BLOB.len() + DIGITS + 1)));
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
