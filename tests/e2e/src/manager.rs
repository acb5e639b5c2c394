//! The service manager's end of the line: what the agent says to systemd.

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::Gateway;

/// Listens where `NOTIFY_SOCKET` points to.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    place: PathBuf,
}

impl ServiceManager {
    /// Listens in the folder of this gateway.
    ///
    /// # Panics
    /// If there can be no socket.
    #[must_use]
    pub fn of(gateway: &Gateway) -> Self {
        let place = gateway.path("notify");
        Self { socket: UnixDatagram::bind(&place).expect("a socket"), place }
    }

    /// For `NOTIFY_SOCKET`.
    #[must_use]
    pub fn place(&self) -> String {
        self.place.display().to_string()
    }

    /// The next word, unless nothing is said for so long. A read with a time limit is interrupted when the machine was suspended
    /// or the process stopped, and nobody starts it again but us.
    ///
    /// # Panics
    /// If the socket fails.
    #[must_use]
    pub fn hear(&self, within: Duration) -> Option<String> {
        let begun = Instant::now();
        loop {
            let left = within.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("a socket");
            let mut word = [0; 256];
            match self.socket.recv(&mut word) {
                Ok(length) => return Some(String::from_utf8_lossy(&word[..length]).trim().to_owned()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                    return None;
                }
            }
        }
    }
}
