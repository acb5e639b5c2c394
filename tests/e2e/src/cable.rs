//! A cable that can be pulled.

use std::{
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// A cable between agent and broker that can be pulled and plugged in again.
#[derive(Debug)]
pub struct Cable {
    /// Where the agent connects to.
    pub port: u16,
    plugged: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

/// Whether a cable carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Plugged {
    In,
    Out,
}

impl Cable {
    /// A cable to the broker, plugged in or not.
    #[must_use]
    pub fn to(broker: u16, plugged: Plugged) -> Self {
        Self::to_any(&[broker], plugged)
    }

    /// A cable to the first of these brokers that accepts a connection, as a name with several addresses would be.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn to_any(brokers: &[u16], plugged: Plugged) -> Self {
        let brokers = brokers.to_vec();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let plugged = Arc::new(AtomicBool::new(plugged == Plugged::In));
        let cable = Self { port, plugged, connections: Arc::default() };
        let (plugged, connections) = (cable.plugged.clone(), cable.connections.clone());
        thread::spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                let connect = |port: &u16| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).ok();
                let broker = brokers.iter().find_map(connect);
                // Else dropped: the agent sees its connection closed at once.
                let (true, Some(broker)) = (plugged.load(Ordering::SeqCst), broker) else { continue };
                for (from, to) in [(&agent, &broker), (&broker, &agent)] {
                    let (mut from, mut to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    connections.lock().expect("no panic").push(from.try_clone().expect("a socket"));
                    thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
                }
            }
        });
        cable
    }

    /// Cuts every connection in the middle of whatever it carries, and lets no new one through.
    ///
    /// # Panics
    /// Never.
    pub fn pull(&self) {
        self.plugged.store(false, Ordering::SeqCst);
        for connection in self.connections.lock().expect("no panic").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through again.
    pub fn plug_in(&self) {
        self.plugged.store(true, Ordering::SeqCst);
    }
}
