//! Twenty sources of all kinds at once, which fail and recover as a seed says: nobody delays anybody, the status says what is so, and
//! every packet has one fate.

use std::{
    fs::{self, File},
    io::Write,
    net::UdpSocket,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use porin_e2e::{Broker, Lab, Process, Random, free_port, publish, wait_until};
use porin_test_support::{skip, target_dir, top};
use portable_pty::{MasterPty, PtySize, native_pty_system};
use serde_json::Value;

const NAME: &str = "twenty_sources_fail_and_recover_and_nobody_delays_anybody";

/// Between two polls of what is asked.
const EVERY: Duration = Duration::from_millis(100);

/// Failures and recoveries. `PORIN_STEPS` has more.
const STEPS: u64 = 20;

/// One source, and how it is made to fail.
enum Thing {
    /// A file that is asked for its number.
    Number(PathBuf),
    /// A device on TCP, and the file that says how it behaves.
    Device(PathBuf),
    /// A bus that is not there.
    Nothing,
    /// A command, and the file that says whether it goes on.
    Command(PathBuf),
    /// A serial line, by a link to a pty.
    Serial(PathBuf, Option<Pty>),
    /// A file that grows. When it goes on again it may be another.
    Log(PathBuf, File),
    /// Datagrams to this port.
    Datagrams(u16),
    /// A local broker. When it goes on again it may have been killed.
    Mqtt(Broker),
}

type Pty = (Box<dyn MasterPty + Send>, Box<dyn Write + Send>);

struct Source {
    name: String,
    thing: Thing,
    is_well: bool,
    /// Numbers that the test has said so far.
    said: u64,
}

fn plug(path: &Path) -> Pty {
    let pair = native_pty_system().openpty(PtySize::default()).expect("a pty");
    let device = pair.master.tty_name().expect("a name");
    let _ = fs::remove_file(path);
    symlink(device, path).expect("a link");
    let writer = pair.master.take_writer().expect("its other end");
    (pair.master, writer)
}

impl Source {
    /// Whether it is asked: its one part has a health of its own.
    fn is_asked(&self) -> bool {
        matches!(self.thing, Thing::Number(_) | Thing::Device(_) | Thing::Nothing)
    }

    /// Whether each number that is said arrives, in order.
    fn loses_nothing(&self) -> bool {
        matches!(self.thing, Thing::Log(..) | Thing::Datagrams(_) | Thing::Mqtt(_))
    }

    /// Says the next number, if it is the test that says what it makes.
    fn speak(&mut self, socket: &UdpSocket) {
        if !self.is_well {
            return;
        }
        let text = self.said.to_string();
        match &mut self.thing {
            Thing::Log(_, file) => writeln!(file, "{text}").expect("written"),
            Thing::Serial(_, line) => {
                // Nobody may have the other end open.
                let _ = line.as_mut().map(|(_, line)| write!(line, "{text}\r\n"));
            }
            Thing::Datagrams(port) => drop(socket.send_to(text.as_bytes(), ("127.0.0.1", *port)).expect("sent")),
            Thing::Mqtt(broker) => publish(broker.port, "n/mqtt", text.as_bytes()),
            Thing::Number(_) | Thing::Device(_) | Thing::Nothing | Thing::Command(_) => return,
        }
        self.said += 1;
    }

    fn fail(&mut self, random: &mut Random) {
        self.is_well = false;
        match &mut self.thing {
            Thing::Number(path) if random.below(2) == 0 => fs::remove_file(path).expect("it was there"),
            Thing::Number(path) => fs::write(path, "no number").expect("written"),
            Thing::Device(mode) => put(mode, "slow"),
            Thing::Command(mode) => put(mode, if random.below(2) == 0 { "end" } else { "hang" }),
            Thing::Serial(path, line) => {
                *line = None;
                fs::remove_file(path).expect("it was there");
            }
            // Silence.
            Thing::Nothing | Thing::Log(..) | Thing::Datagrams(_) | Thing::Mqtt(_) => {}
        }
    }

    fn recover(&mut self, random: &mut Random) {
        self.is_well = true;
        match &mut self.thing {
            Thing::Number(path) => put(path, "1"),
            Thing::Device(mode) | Thing::Command(mode) => put(mode, "good"),
            Thing::Serial(path, line) => *line = Some(plug(path)),
            Thing::Log(path, file) if random.below(2) == 0 => {
                fs::rename(&*path, path.with_extension("old")).expect("renamed");
                *file = File::options().create(true).append(true).open(path).expect("made");
            }
            Thing::Mqtt(broker) if random.below(2) == 0 => broker.restart(Process::kill),
            Thing::Nothing | Thing::Log(..) | Thing::Datagrams(_) | Thing::Mqtt(_) => {}
        }
    }
}

/// Never half written.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::rename(new, path).expect("renamed");
}

/// Twenty sources, and their configuration.
fn sources(folder: &Path, devices: &mut Vec<Process>) -> (Vec<Source>, String) {
    let (mut all, mut text) = (Vec::new(), String::new());
    let mut add = |name: String, thing: Thing, config: String| {
        text += &format!("[sources.{name}.{config}\n");
        all.push(Source { name, thing, is_well: true, said: 0 });
    };
    let (every, lines) = (EVERY.as_millis(), |name: &str| {
        format!("lines = {{ pattern = '^(?<n>[0-9]+)$', streams = \"{name}/{{channel}}\" }}")
    });
    for number in 0..4 {
        let (name, path) = (format!("number{number}"), folder.join(format!("number{number}")));
        put(&path, "1");
        let config = format!(
            "sysfs]\ninputs = [{{ file = \"{}\", stream = \"{name}/n\", every = \"{every}ms\" }}]",
            path.display()
        );
        add(name, Thing::Number(path), config);
    }
    for number in 0..3 {
        let (name, mode, port) = (format!("device{number}"), folder.join(format!("device{number}")), free_port());
        put(&mode, "good");
        let mut command = Command::new("python3");
        command.arg(top().join("tests/reference/modbus_slave.py")).arg(target_dir().join("python")).arg(&mode);
        command.args(["tcp", &port.to_string()]).stderr(Stdio::null()).stdout(Stdio::null());
        devices.push(Process::spawn(&mut command));
        let config = format!(
            "modbus]\ntcp = \"127.0.0.1:{port}\"\ntimeout = \"300ms\"\n[[sources.{name}.modbus.slaves]]\nevery = \"{every}ms\"\n\
             registers = [{{ stream = \"{name}/n\", address = 0 }}]"
        );
        add(name, Thing::Device(mode), config);
    }
    let nothing = format!(
        "sensor]\nbus = \"/dev/i2c-99\"\nchips = [{{ chip = \"bme280\", streams = \"nothing/{{channel}}\", every = \"{every}ms\" }}]"
    );
    add("nothing".into(), Thing::Nothing, nothing);
    for number in 0..3 {
        let (name, mode) = (format!("command{number}"), folder.join(format!("command{number}")));
        put(&mode, "good");
        let script = format!(
            "i=0; while :; do case $(cat {}) in end) exit 3;; good) i=$((i+1)); echo $i;; hang) ;; *) exit 4;; esac; sleep 0.1; done",
            mode.display()
        );
        let config = format!("process]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n{}", lines(&name));
        add(name, Thing::Command(mode), config);
    }
    for number in 0..2 {
        let (name, path) = (format!("serial{number}"), folder.join(format!("tty{number}")));
        let line = Some(plug(&path));
        let config = format!("serial]\ndevice = \"{}\"\n{}", path.display(), lines(&name));
        add(name, Thing::Serial(path, line), config);
    }
    for number in 0..3 {
        let (name, path) = (format!("log{number}"), folder.join(format!("log{number}")));
        let file = File::options().create(true).append(true).open(&path).expect("made");
        let config = format!("file]\npath = \"{}\"\n{}", path.display(), lines(&name));
        add(name, Thing::Log(path, file), config);
    }
    for number in 0..3 {
        let (name, port) = (format!("udp{number}"), free_port());
        let config = format!("udp]\nlisten = \"127.0.0.1:{port}\"\n{}", lines(&name));
        add(name, Thing::Datagrams(port), config);
    }
    let broker = Broker::mosquitto_with("persistence true\nmax_queued_messages 0");
    let config = format!(
        "mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\ntopics = [{{ filter = \"n/mqtt\", payload = \"number\", stream = \"mqtt/n\" }}]",
        broker.port
    );
    add("mqtt".into(), Thing::Mqtt(broker), config);
    assert_eq!(all.len(), 20);
    (all, text)
}

/// What the status says of each source.
struct Look(Value);

impl Look {
    fn at(lab: &Lab) -> Self {
        Self(lab.gateway.status().expect("it runs, and its numbers add up"))
    }

    fn of(&self, source: &Source) -> &Value {
        let list = self.0["sources"].as_array().expect("a list");
        list.iter().find(|one| one["name"] == source.name.as_str()).expect("each is there")
    }

    fn number(&self, source: &Source, pointer: &str) -> u64 {
        self.of(source).pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    fn is_well(&self, source: &Source) -> bool {
        self.of(source).pointer("/parts/0/ok") != Some(&Value::Bool(false))
    }
}

#[test]
fn twenty_sources_fail_and_recover_and_nobody_delays_anybody() {
    if !target_dir().join("python/pymodbus").is_dir() {
        return skip(NAME, "pymodbus is not there; `make test` installs it");
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, steps) = (number("PORIN_SEED", 1), number("PORIN_STEPS", STEPS));
    println!("PORIN_SEED={seed}");
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let mut devices = Vec::new();
    let (mut sources, config) = sources(folder.path(), &mut devices);
    let lab = Lab::start(&config);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // A log is read from its end, a datagram that nobody waits for is lost: the first numbers wait until all listen.
    wait_until("all listen", || {
        let look = Look::at(&lab);
        lab.gateway.log().contains("listening to the local broker")
            && sources.iter().all(|source| {
                !source.is_asked() || source.name == "nothing" || look.number(source, "/parts/0/polls") > 3
            })
    });
    for _ in 0..steps {
        // One of the nineteen that can.
        let which = usize::try_from(random.below(19)).expect("19");
        let chosen =
            sources.iter_mut().filter(|source| !matches!(source.thing, Thing::Nothing)).nth(which).expect("19");
        let is_well = chosen.is_well;
        println!("{} {}", chosen.name, if is_well { "fails" } else { "recovers" });
        if is_well {
            chosen.fail(&mut random)
        } else {
            chosen.recover(&mut random)
        }
        step(&lab, &mut sources, &socket);
    }
    println!("all recover");
    for source in &mut sources {
        if !source.is_well {
            source.recover(&mut random);
        }
    }
    wait_until("all are well", || {
        sources.iter_mut().for_each(|source| source.speak(&socket));
        thread::sleep(EVERY);
        let look = Look::at(&lab);
        sources.iter().all(|source| look.is_well(source) || matches!(source.thing, Thing::Nothing))
    });
    for source in sources.iter().filter(|source| source.loses_nothing()) {
        let stream = format!("{}/n", source.name);
        wait_until(&stream, || lab.values(&stream).len() as u64 >= source.said);
        #[allow(clippy::cast_precision_loss)] // some hundred
        let expected: Vec<_> = (0..source.said).map(|number| number as f64).collect();
        assert_eq!(lab.values(&stream), expected, "{stream}");
    }
    lab.end();
}

/// Lets all go on for a while, then compares what each has made with the time that has passed.
fn step(lab: &Lab, sources: &mut [Source], socket: &UdpSocket) {
    // Whoever has just recovered may be asked late: those who were well before, and are still, must not notice anything.
    let before = Look::at(lab);
    let start = Instant::now();
    while start.elapsed() < 8 * EVERY {
        sources.iter_mut().for_each(|source| source.speak(socket));
        thread::sleep(EVERY);
    }
    let elapsed = start.elapsed();
    let after = Look::at(lab);
    for source in sources.iter().filter(|source| source.is_well && source.is_asked() && before.is_well(source)) {
        let polls = after.number(source, "/parts/0/polls") - before.number(source, "/parts/0/polls");
        let due = elapsed.as_millis() / EVERY.as_millis();
        // Half of them: the machine may be busy. A slave that does not answer would cost three quarters.
        assert!(u128::from(polls) * 2 >= due, "{}: asked {polls} times of {due}", source.name);
    }
    wait_until("what was said has come", || {
        let look = Look::at(lab);
        sources.iter().all(|source| !source.loses_nothing() || look.number(source, "/received") == source.said)
    });
    // Health: what fails is said to, with why.
    wait_until("the status", || {
        let look = Look::at(lab);
        let is_right = |source: &Source| {
            source.is_well || !look.is_well(source) && !look.of(source)["parts"][0]["last_error"].is_null()
        };
        sources.iter().filter(|source| source.is_asked()).all(is_right)
    });
}
