//! The real programs as processes, with a broker: what the end-to-end tests are written with.
//!
//! Everything listens on loopback, on ports that the system gives, and is killed when it goes out of scope.

#![allow(clippy::panic)] // this is test code, in a crate of its own

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use porin_core::payload::{self, Decoded};
use porin_test_support::target_dir;
use serde_json::Value;

/// How long anything may take before a test fails. Never what a test measures.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
///
/// # Panics
/// If it does not become so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A program of porin, as `make test` built it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    target_dir().join("debug").join(name)
}

/// A child process that does not outlive its test.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Kills it as a power cut would: no signal handler runs.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to end, as systemd would.
    ///
    /// # Panics
    /// If it cannot be asked.
    pub fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -TERM");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("the process ends", || {
            ended = self.0.try_wait().expect("a child can be waited for");
            ended.is_some()
        });
        ended.expect("it ended")
    }

    /// What it printed, after its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn output(mut self) -> (ExitStatus, String) {
        let mut stdout = self.0.stdout.take().expect("stdout is a pipe");
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).expect("stdout is text");
            text
        });
        (self.wait(), reader.join().expect("the reader does not panic"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A free port of loopback.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

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
        let (port, folder) = (free_port(), tempfile::tempdir().expect("a temporary folder"));
        let place = folder.path().display();
        let file = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence_location {place}/\nuser root\n{lines}\n"
        );
        fs::write(folder.path().join("mosquitto.conf"), file).expect("the folder can be written to");
        let process = Self::run(port, Command::new("mosquitto").arg("-c").arg(folder.path().join("mosquitto.conf")));
        Self { port, process, folder: Some(folder) }
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

    /// The embedded broker, rumqttd.
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

/// `how` reads standard input: `-l` by lines, `-s` whole.
fn mosquitto_pub(port: u16, topic: &str, how: &str, input: &[u8]) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-V", "5", "-q", "1", how, "-p", &port.to_string(), "-t", topic])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("mosquitto_pub: {error}; `make test` installs it"));
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "mosquitto_pub");
}

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
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn to(broker: u16, plugged: Plugged) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let plugged = Arc::new(AtomicBool::new(plugged == Plugged::In));
        let cable = Self { port, plugged, connections: Arc::default() };
        let (plugged, connections) = (cable.plugged.clone(), cable.connections.clone());
        thread::spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                let broker = TcpStream::connect((Ipv4Addr::LOCALHOST, broker));
                // Else dropped: the agent sees its connection closed at once.
                let (true, Ok(broker)) = (plugged.load(Ordering::SeqCst), broker) else { continue };
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

/// What mosquitto's own subscriber received: topic and payload, in order.
#[derive(Debug)]
pub struct Subscriber {
    _process: Process,
    publishes: Arc<Mutex<Vec<Received>>>,
}

/// A publish as a subscriber has it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where it was published.
    pub topic: String,
    /// MQTT's property.
    pub content_type: String,
    /// As it came.
    pub payload: Vec<u8>,
}

/// A packet by its name: gateway, epoch, seq.
pub type Name = (String, String, u64);

impl Subscriber {
    /// `mosquitto_sub` on a topic filter.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(port: u16, filter: &str) -> Self {
        // `-d` says when the subscription stands; everything after is complete. Into a pipe it would write by blocks.
        let mut child = Command::new("stdbuf")
            .args([
                "-oL",
                "mosquitto_sub",
                "-V",
                "5",
                "-q",
                "1",
                "-d",
                "-F",
                "%t %x %C",
                "-p",
                &port.to_string(),
                "-t",
                filter,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("mosquitto_sub: {error}; `make test` installs it"));
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let publishes = Arc::new(Mutex::new(Vec::new()));
        let subscribed = Arc::new(Mutex::new(false));
        let (shared, ready) = (publishes.clone(), subscribed.clone());
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("Subscribed") {
                    *ready.lock().expect("no panic") = true;
                } else if let [topic, payload, content_type] = *line.split(' ').collect::<Vec<_>>()
                    && let Some(payload) = from_hex(payload)
                {
                    let (topic, content_type) = (topic.to_owned(), content_type.to_owned());
                    shared.lock().expect("no panic").push(Received { topic, content_type, payload });
                }
            }
        });
        wait_until("the subscription stands", || *subscribed.lock().expect("no panic"));
        Self { _process: Process(child), publishes }
    }

    /// Everything received so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn publishes(&self) -> Vec<Received> {
        self.publishes.lock().expect("no panic").clone()
    }

    /// Everything received so far that is JSON, by topic.
    #[must_use]
    pub fn received(&self) -> Vec<(String, Value)> {
        let json = |publish: Received| Some((publish.topic, serde_json::from_slice(&publish.payload).ok()?));
        self.publishes().into_iter().filter_map(json).collect()
    }

    /// The packets received so far, each once: by name, stream, time and value.
    ///
    /// # Panics
    /// If a payload is not as documented.
    #[must_use]
    pub fn packets(&self) -> BTreeMap<Name, (String, u64, f64)> {
        let mut packets = BTreeMap::new();
        for publish in self.publishes().iter().filter(|publish| publish.topic.contains("/data/")) {
            let Decoded { gateway, epoch, packets: list, .. } =
                payload::decode(&publish.payload).unwrap_or_else(|error| panic!("{error}: {publish:?}"));
            for packet in list {
                let name = (gateway.clone(), epoch.to_string(), packet.seq.0);
                let reading = (packet.stream, packet.time_us, packet.value);
                if let Some(before) = packets.insert(name.clone(), reading.clone()) {
                    assert_eq!(before, reading, "{name:?} names two packets");
                }
            }
        }
        packets
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(byte).collect()
}

/// A folder with a configuration, and the agent in it.
#[derive(Debug)]
pub struct Gateway {
    folder: tempfile::TempDir,
}

impl Gateway {
    /// A gateway with this id; `rest` is the configuration after `[gateway]`, `[uplink]` and `[outbox]`.
    ///
    /// # Panics
    /// If the folder cannot be made.
    #[must_use]
    pub fn new(id: &str, port: u16, rest: &str) -> Self {
        let gateway = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let place = gateway.folder.path().display();
        let cells = target_dir().join("cells");
        let text = format!(
            "[gateway]\nid = \"{id}\"\nsocket = \"{place}/status.sock\"\n[uplink]\nbroker = \"mqtt://127.0.0.1:{port}\"\n\
             [outbox]\npath = \"{place}/porin.redb\"\ncommit_every = \"50ms\"\n{rest}"
        );
        let text = text.replace("CELLS", &cells.display().to_string()).replace("HERE", &place.to_string());
        fs::write(gateway.config(), text).expect("the folder can be written to");
        gateway
    }

    /// The same with commits as rare as this, e.g. `1s`.
    ///
    /// # Panics
    /// If the configuration cannot be written.
    #[must_use]
    pub fn commit_every(self, time: &str) -> Self {
        let text = fs::read_to_string(self.config()).expect("it was written");
        fs::write(self.config(), text.replace("50ms", time)).expect("it can be written again");
        self
    }

    /// The configuration's file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("porin.toml")
    }

    /// A file beside it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The agent's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `porind run` with these arguments.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Process {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log");
        let child = porind(&self.config()).arg("run").args(args).stdout(Stdio::piped()).stderr(log).spawn();
        Process(child.unwrap_or_else(|error| panic!("porind: {error}; run `make test`")))
    }

    /// `porind run --until-drained --json`: its last status.
    ///
    /// # Panics
    /// If it fails.
    #[allow(clippy::must_use_candidate)] // that it succeeds may be all that is asked
    pub fn run_to_the_end(&self) -> Value {
        let (status, stdout) = self.run(&["--until-drained", "--json"]).output();
        assert!(status.success(), "{status}: {}", self.log());
        serde_json::from_str(&stdout).expect("the status is JSON")
    }

    /// `porind status --json`, if an agent answers.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let output = porind(&self.config()).args(["status", "--json"]).output().ok()?;
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("the status is JSON"))
    }
}

/// `porind` with a configuration.
#[must_use]
pub fn porind(config: &Path) -> Command {
    let mut command = Command::new(program("porind"));
    command.arg("--config").arg(config).env_remove("PORIN_LOG");
    command
}
