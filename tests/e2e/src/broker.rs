//! Brokers as processes, and their own tools to publish.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    process::{Command, Stdio},
};

use crate::{Process, free_port, program, wait_until};

/// A broker, killed when dropped.
#[derive(Debug)]
pub struct Broker {
    /// Where it listens.
    pub port: u16,
    process: Process,
    /// Of a mosquitto with a file: the file's folder.
    folder: Option<tempfile::TempDir>,
}

impl Broker {
    /// Debian's mosquitto, as it comes: no file, no persistence.
    #[must_use]
    pub fn mosquitto() -> Self {
        let port = free_port();
        Self::start(port, Command::new("mosquitto").args(["-p", &port.to_string()]))
    }

    /// Debian's mosquitto with these lines in its file, and a place to keep sessions over a restart.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn mosquitto_with(lines: &str) -> Self {
        Self::mosquitto_after("", lines)
    }

    fn mosquitto_after(first: &str, lines: &str) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().expect("a temporary folder"));
        let place = folder.path().display();
        let file = format!(
            "{first}listener {port} 127.0.0.1\nallow_anonymous true\npersistence_location {place}/\nuser root\n{lines}\n"
        );
        fs::write(folder.path().join("mosquitto.conf"), file).expect("the folder can be written to");
        let process = Self::run(port, Command::new("mosquitto").arg("-c").arg(folder.path().join("mosquitto.conf")));
        Self { port, process, folder: Some(folder) }
    }

    /// The same where each listener has settings of its own. The first one, without any, is the test's.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn mosquitto_with_each(lines: &str) -> Self {
        Self::mosquitto_after("per_listener_settings true\n", lines)
    }

    /// Ends it as `end` does, and starts it again at the same port with the same file.
    ///
    /// # Panics
    /// If it has no file, or does not start.
    pub fn restart(&mut self, end: impl FnOnce(&mut Process)) {
        end(&mut self.process);
        let folder = self.folder.as_ref().expect("only a mosquitto with a file is restarted");
        let file = folder.path().join("mosquitto.conf");
        self.process = Self::run(self.port, Command::new("mosquitto").arg("-c").arg(file));
    }

    /// Ends it for good.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The embedded broker of `porin`.
    #[must_use]
    pub fn embedded() -> Self {
        let port = free_port();
        Self::start(port, Command::new(program("porin")).args(["broker", "--port", &port.to_string()]))
    }

    fn start(port: u16, command: &mut Command) -> Self {
        Self { port, process: Self::run(port, command), folder: None }
    }

    fn run(port: u16, command: &mut Command) -> Process {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = Process(child.unwrap_or_else(|error| panic!("{command:?}: {error}; `make test` installs it")));
        wait_until("the broker accepts connections", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        process
    }
}

/// Publishes each line at QoS 1 and returns when the broker has them all.
///
/// # Panics
/// If the broker does not take them.
pub fn publish_lines(port: u16, topic: &str, lines: &str) {
    mosquitto_pub(port, topic, "-l", lines.as_bytes());
}

/// Publishes one payload, whatever its bytes, at QoS 1.
///
/// # Panics
/// If the broker does not take it.
pub fn publish(port: u16, topic: &str, payload: &[u8]) {
    mosquitto_pub(port, topic, "-s", payload);
}

/// Publishes one payload for whoever subscribes, now and later; an empty one is forgotten.
///
/// # Panics
/// If the broker does not take it.
pub fn publish_retained(port: u16, topic: &str, payload: &[u8]) {
    let how = if payload.is_empty() { "-n" } else { "-s" };
    mosquitto_pub_with(port, topic, &["-V", "5", "-r", how], payload);
}

/// `how` reads standard input: `-l` by lines, `-s` whole.
fn mosquitto_pub(port: u16, topic: &str, how: &str, input: &[u8]) {
    mosquitto_pub_with(port, topic, &["-V", "5", how], input);
}

fn mosquitto_pub_with(port: u16, topic: &str, how: &[&str], input: &[u8]) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-q", "1", "-p", &port.to_string(), "-t", topic])
        .args(how)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("mosquitto_pub: {error}; `make test` installs it"));
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "mosquitto_pub");
}
