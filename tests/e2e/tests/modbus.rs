//! Modbus against pymodbus, over TCP and over a pair of ptys: values, exceptions, slow answers, damaged ones, devices that go away.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use porin_core::packet::Quality;
use porin_e2e::{Lab, Process, free_port, wait_until};
use porin_test_support::{skip, target_dir, top};
use portable_pty::{MasterPty, PtySize, native_pty_system};

const BAD: u32 = Quality::BAD.0;

/// Devices of an independent library; `None`: it is not there, and the test is skipped.
struct Devices {
    folder: tempfile::TempDir,
    place: [String; 2],
    process: Process,
}

impl Devices {
    fn start(test: &str, kind: &str, place: &str) -> Option<Self> {
        if !target_dir().join("python/pymodbus").is_dir() {
            skip(test, "pymodbus is not there; `make test` installs it");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("mode"), "good").expect("written");
        let place = [kind.to_owned(), place.to_owned()];
        let process = Self::run(folder.path(), &place);
        Some(Self { folder, place, process })
    }

    fn run(folder: &Path, place: &[String; 2]) -> Process {
        let mut command = Command::new("python3");
        command.arg(top().join("tests/reference/modbus_slave.py")).arg(target_dir().join("python"));
        Process::spawn(command.arg(folder.join("mode")).args(place).stderr(Stdio::null()).stdout(Stdio::null()))
    }

    fn mode(&self, mode: &str) {
        // Never half written.
        let new = self.folder.path().join("new");
        fs::write(&new, mode).expect("written");
        fs::rename(new, self.folder.path().join("mode")).expect("renamed");
    }
}

fn start(line: &str) -> Lab {
    Lab::start(&format!(
        r##"
[sources.plc.modbus]
{line}
timeout = "300ms"
[[sources.plc.modbus.slaves]]
every = "50ms"
registers = [
    {{ stream = "one/float", address = 0, type = "f32" }},
    {{ stream = "one/scaled", address = 2, type = "i16", scale = 0.1 }},
    {{ stream = "one/swapped", address = 4, type = "u32", words = "little" }},
    {{ stream = "one/double", address = 6, type = "f64" }},
    {{ stream = "one/input", table = "input", address = 3 }},
    {{ stream = "one/coil", table = "coil", address = 2 }},
    {{ stream = "one/discrete", table = "discrete", address = 1 }},
]
[[sources.plc.modbus.slaves]]
unit = 2
every = "50ms"
registers = [{{ stream = "two/first", address = 0 }}, {{ stream = "two/last", address = 9 }}]
[[sources.plc.modbus.slaves]]
unit = 2
every = "50ms"
registers = [{{ stream = "wrong/register", address = 500 }}]
"##
    ))
}

fn last(lab: &Lab, stream: &str) -> Option<f64> {
    lab.values(stream).last().copied()
}

fn answers(lab: &Lab) {
    let expected = [
        ("one/float", 21.5),
        ("one/scaled", -20.0),
        ("one/swapped", 123_456.0),
        ("one/double", -0.125),
        ("one/input", 10.0),
        ("one/coil", 1.0),
        ("one/discrete", 1.0),
        ("two/first", 100.0),
        ("two/last", 109.0),
    ];
    for (stream, expected) in expected {
        wait_until(stream, || last(lab, stream).is_some_and(|value| (value - expected).abs() < 1e-9));
    }
}

fn says(lab: &Lab, part: usize, expected: &str) {
    wait_until(expected, || {
        let status = lab.part(0, part);
        status["ok"] == false && status["last_error"].as_str().is_some_and(|error| error.contains(expected))
    });
}

#[test]
fn registers_over_tcp_are_read_and_each_trouble_is_told_apart() {
    let port = free_port();
    let test = "registers_over_tcp_are_read_and_each_trouble_is_told_apart";
    let Some(mut devices) = Devices::start(test, "tcp", &port.to_string()) else { return };
    let lab = start(&format!("tcp = \"127.0.0.1:{port}\""));
    answers(&lab);
    // Registers that it does not have: the slave says so, and what it has goes on.
    says(&lab, 2, "holding 500 to 500: the slave refuses it: Illegal data address");
    assert!(last(&lab, "wrong/register").is_some_and(f64::is_nan));
    // One is slow: it has no values, the other one has.
    devices.mode("slow");
    says(&lab, 0, "holding 0 to 9: no answer within 300ms");
    wait_until("no value", || last(&lab, "one/float").is_some_and(f64::is_nan));
    let before = lab.part(0, 1)["polls"].as_u64();
    wait_until("the other one goes on", || lab.part(0, 1)["polls"].as_u64() > before.map(|polls| polls + 20));
    assert_eq!(lab.part(0, 1)["ok"], true);
    devices.mode("good");
    answers(&lab);
    // Away and back again.
    devices.process.kill();
    says(&lab, 1, "cannot connect to 127.0.0.1");
    devices.process = Devices::run(devices.folder.path(), &devices.place);
    answers(&lab);
    lab.end();
}

#[test]
fn registers_over_a_serial_line_are_read_and_damaged_answers_are_not_believed() {
    let wire = Wire::new();
    let test = "registers_over_a_serial_line_are_read_and_damaged_answers_are_not_believed";
    let [gateways, devices_end] = wire.ends.clone();
    let Some(devices) = Devices::start(test, "rtu", &devices_end.display().to_string()) else { return };
    let lab = start(&format!("serial = \"{}\"\nbaud = 19200", gateways.display()));
    answers(&lab);
    says(&lab, 2, "the slave refuses it: Illegal data address");
    let damaged = |value: Option<f64>| value.is_some_and(|value| !value.is_nan() && (value - 21.5).abs() > 1e-9);
    devices.mode("spoilt");
    says(&lab, 0, "holding 0 to 9");
    wait_until("no value", || last(&lab, "one/float").is_some_and(f64::is_nan));
    assert!(!damaged(last(&lab, "one/float")));
    devices.mode("good");
    answers(&lab);
    lab.end();
}

/// Answers questions for two holding registers, and closes each connection soon after its first answer, as devices do that are asked seldom.
fn hangs_up_after_each_answer(answers: [u16; 2]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it has one").port();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("accepted");
            let mut asked = [0; 12];
            if connection.read_exact(&mut asked).is_err() {
                continue;
            }
            // Transaction and protocol as asked; seven bytes follow: unit, function, four bytes of data.
            let mut answer = asked[..4].to_vec();
            answer.extend([0, 7, asked[6], asked[7], 4]);
            answer.extend(answers.iter().flat_map(|word| word.to_be_bytes()));
            let _ = connection.write_all(&answer);
        }
    });
    port
}

#[test]
fn a_device_that_hangs_up_between_two_polls_is_asked_again_and_not_told_to_be_away() {
    let source = |name: &str, port: u16| {
        format!(
            "[sources.{name}.modbus]\ntcp = \"127.0.0.1:{port}\"\n[[sources.{name}.modbus.slaves]]\nunit = 255\nevery = \"100ms\"\n\
             registers = [{{ stream = \"{name}\", address = 0, type = \"f32\" }}, {{ stream = \"{name}/too\", address = 500, type = \"f32\" }}]\n"
        )
    };
    // The second one says that it has no measurement, as IEEE 754 writes it.
    let lab = Lab::start(
        &(source("good", hangs_up_after_each_answer([0x41ac, 0]))
            + &source("none", hangs_up_after_each_answer([0x7fc0, 0]))),
    );
    wait_until("some", || lab.values("good").len() > 10 && lab.values("none").len() > 10);
    for source in [0, 1] {
        assert_eq!(lab.part(source, 0)["failures"], 0, "{}", lab.part(source, 0));
    }
    assert!(lab.readings("good").iter().all(|(value, quality)| (value - 21.5).abs() < 1e-9 && quality & BAD == 0));
    assert!(lab.readings("none").iter().all(|(value, quality)| value.is_nan() && quality & BAD == BAD));
    lab.end();
}

/// Two ptys, joined: what is written to one end comes out of the other.
struct Wire {
    ends: [PathBuf; 2],
    _masters: [Box<dyn MasterPty + Send>; 2],
}

impl Wire {
    fn new() -> Self {
        let open = || {
            let pair = native_pty_system().openpty(PtySize::default()).expect("a pty");
            let name = pair.master.tty_name().expect("a name");
            (pair.master, name)
        };
        let ((one, first), (two, second)) = (open(), open());
        for (from, to) in [(&one, &two), (&two, &one)] {
            let mut reader = from.try_clone_reader().expect("a reader");
            let mut writer = to.take_writer().expect("a writer");
            thread::spawn(move || {
                let mut bytes = [0; 256];
                loop {
                    match reader.read(&mut bytes) {
                        Ok(count) if count > 0 => {
                            if writer.write_all(&bytes[..count]).is_err() {
                                return;
                            }
                        }
                        // Nobody has the other end open.
                        Ok(_) | Err(_) => thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
        }
        Self { ends: [first, second], _masters: [one, two] }
    }
}
