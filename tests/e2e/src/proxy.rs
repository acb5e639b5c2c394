//! A bad link between agent and broker: it cuts, delays and flips bits, by a seed. For a link that notices flipped bits: TLS.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::Random;

/// A proxy to one port.
#[derive(Debug)]
pub struct Proxy {
    /// Where the agent connects to.
    pub port: u16,
    counts: Arc<Counts>,
}

/// What went wrong so far.
#[derive(Debug, Default)]
struct Counts {
    cuts: AtomicU64,
    flips: AtomicU64,
    delays: AtomicU64,
}

impl Proxy {
    /// A proxy to a port of loopback. After some thousand bytes from the agent something goes wrong, until there were `cuts` cuts.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn to(broker: u16, cuts: u64, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let counts = Arc::new(Counts::default());
        let proxy = Self { port, counts: counts.clone() };
        let random = Arc::new(Mutex::new(Random::new(seed)));
        thread::spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) else { continue };
                let (back_from, back_to) =
                    (broker.try_clone().expect("a socket"), agent.try_clone().expect("a socket"));
                let (counts, random) = (counts.clone(), random.clone());
                thread::spawn(move || drop(std::io::copy(&mut &back_from, &mut &back_to)));
                thread::spawn(move || carry(agent, broker, cuts, &counts, &random));
            }
        });
        proxy
    }

    /// Connections that it cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.counts.cuts.load(Ordering::SeqCst)
    }

    /// Bits that it flipped, and delays.
    #[must_use]
    pub fn flips_and_delays(&self) -> (u64, u64) {
        (self.counts.flips.load(Ordering::SeqCst), self.counts.delays.load(Ordering::SeqCst))
    }
}

/// From the agent to the broker, with what goes wrong on the way.
fn carry(mut agent: TcpStream, mut broker: TcpStream, cuts: u64, counts: &Counts, random: &Mutex<Random>) {
    let next = |bound| random.lock().expect("no panic").below(bound);
    let mut left = 2_000 + next(20_000);
    let mut buffer = [0; 1_024];
    while let Ok(read @ 1..) = agent.read(&mut buffer) {
        let mut piece = &mut buffer[..read];
        left = left.saturating_sub(read as u64);
        if left == 0 && counts.cuts.load(Ordering::SeqCst) < cuts {
            left = 1_000 + next(20_000);
            match next(10) {
                0..2 => {
                    counts.delays.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(next(40)));
                }
                2..4 => {
                    counts.flips.fetch_add(1, Ordering::SeqCst);
                    #[allow(clippy::cast_possible_truncation)]
                    let (byte, bit) = (next(read as u64) as usize, next(8));
                    piece[byte] ^= 1 << bit;
                }
                _ => {
                    counts.cuts.fetch_add(1, Ordering::SeqCst);
                    // In the middle of whatever it is.
                    #[allow(clippy::cast_possible_truncation)]
                    let half = next(read as u64) as usize;
                    piece = &mut piece[..half];
                    let _ = broker.write_all(piece);
                    break;
                }
            }
        }
        if broker.write_all(piece).is_err() {
            break;
        }
    }
    let _ = agent.shutdown(Shutdown::Both);
    let _ = broker.shutdown(Shutdown::Both);
}
