//! Sources of lines against the real thing: datagrams, files that are rotated, commands that end, serial lines with noise.

use std::{
    fs::{self, File},
    io::Write,
    net::UdpSocket,
};

use porin_core::payload::{self, Decoded};
use porin_e2e::{Broker, Gateway, Process, Subscriber, free_port, wait_until};
use portable_pty::{PtySize, native_pty_system};
use serde_json::Value;

struct Running {
    gateway: Gateway,
    subscriber: Subscriber,
    agent: Process,
    _broker: Broker,
}

/// A gateway with one source, running.
fn start(source: &str) -> Running {
    let broker = Broker::mosquitto();
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    let gateway = Gateway::new("lab", broker.port, &format!("{source}\n[routes.all]\nstreams = [\"#\"]\n"));
    let agent = gateway.run(&[]);
    wait_until("the agent runs", || gateway.status().is_some());
    Running { gateway, subscriber, agent, _broker: broker }
}

impl Running {
    /// Values of a stream, in order.
    fn values(&self, stream: &str) -> Vec<f64> {
        let payloads = self.subscriber.publishes().into_iter();
        let packets = payloads.flat_map(|publish| {
            let Decoded { packets, .. } = payload::decode(&publish.payload).expect("whole");
            packets
        });
        packets.filter(|packet| packet.stream == stream).map(|packet| packet.value).collect()
    }

    fn wait_for(&self, stream: &str, expected: &[f64]) {
        wait_until("the values", || self.values(stream).len() >= expected.len());
        assert_eq!(self.values(stream), expected);
    }

    fn source(&self, key: &str) -> Value {
        self.gateway.status().map_or(Value::Null, |status| status["sources"][0][key].clone())
    }

    fn wait_for_bad(&self, count: u64, expected: &str) {
        wait_until("lines that mean nothing", || self.source("bad_rows").as_u64() == Some(count));
        let said = self.source("last_bad_row");
        assert!(said.as_str().is_some_and(|said| said.contains(expected)), "{said}");
    }

    fn end(self) {
        let status = self.gateway.status().expect("it runs");
        assert_eq!(status["imbalance"], Value::Array(Vec::new()), "{status}");
        self.agent.terminate();
        assert!(self.agent.output().0.success());
    }
}

#[test]
fn datagrams_of_lines_become_readings() {
    let port = free_port();
    let running = start(&format!(
        "[sources.net.udp]\nlisten = \"127.0.0.1:{port}\"\n\
         lines = {{ pattern = '^(?<node>\\w+) (?<temperature>\\S+)', streams = \"{{node}}/{{channel}}\" }}"
    ));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let send = |bytes: &[u8]| assert_eq!(socket.send_to(bytes, ("127.0.0.1", port)).expect("sent"), bytes.len());
    wait_until("the first one", || {
        send(b"roof 1");
        !running.values("roof/temperature").is_empty()
    });
    send(b"cellar 2\r\ncellar 3\nroof 4");
    wait_until("the roof", || running.values("roof/temperature").last() == Some(&4.0));
    running.wait_for("cellar/temperature", &[2.0, 3.0]);
    // What is no text, means nothing, is too long or names what cannot be is counted, and the next one counts.
    send(&[0xff, 0xfe]);
    running.wait_for_bad(1, "it is not UTF-8");
    send(b"roof warm");
    running.wait_for_bad(2, "`temperature` is `warm`, no number");
    send(&[b'x'; 10_000]);
    running.wait_for_bad(3, "it has more than 4096 bytes");
    send(b"");
    send(b"cellar 5");
    running.wait_for("cellar/temperature", &[2.0, 3.0, 5.0]);
    running.end();
}

#[test]
fn a_file_is_followed_when_it_is_rotated_and_when_it_is_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meter.log");
    fs::write(&path, "kwh 1\nkwh 2\n").expect("written");
    let running = start(&format!(
        "[sources.log.file]\npath = \"{}\"\nlines = {{ pattern = '^kwh (?<kwh>[0-9]+)', streams = \"meter/{{channel}}\" }}",
        path.display()
    ));
    let mut file = File::options().append(true).open(&path).expect("it is there");
    // What stood there before the agent came is not read; half a line waits for its end.
    wait_until("the first one", || {
        writeln!(file, "kwh 3").expect("written");
        !running.values("meter/kwh").is_empty()
    });
    write!(file, "kwh 4").expect("written");
    let threes = |values: &[f64]| values.iter().filter(|value| **value < 4.0).count();
    writeln!(file, "4").expect("written");
    wait_until("the whole line", || running.values("meter/kwh").last() == Some(&44.0));
    // Renamed; what is still written to the old one counts, and then the new one does.
    let old = folder.path().join("meter.log.1");
    fs::rename(&path, &old).expect("renamed");
    writeln!(file, "kwh 5").expect("written");
    fs::write(&path, format!("kwh 6{}\n", " ".repeat(500))).expect("written");
    wait_until("the new one", || running.values("meter/kwh").last() == Some(&6.0));
    // Cut and written anew, as `copytruncate` does.
    File::create(&path).expect("cut");
    fs::write(&path, "kwh 7").expect("written");
    wait_until("it is read from its beginning", || {
        let mut file = File::options().append(true).open(&path).expect("it is there");
        writeln!(file).expect("written");
        running.values("meter/kwh").contains(&7.0)
    });
    let values = running.values("meter/kwh");
    assert_eq!(values[threes(&values)..], [44.0, 5.0, 6.0, 7.0]);
    running.end();
}

#[test]
fn a_file_that_was_not_there_is_read_from_its_beginning() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("later.log");
    let running = start(&format!(
        "[sources.log.file]\npath = \"{}\"\nlines = {{ pattern = '^(?<v>[0-9]+)', streams = \"later/v\" }}",
        path.display()
    ));
    wait_until("it is looked for", || running.source("restarts").as_u64() >= Some(1));
    fs::write(&path, "1\n2\n").expect("written");
    running.wait_for("later/v", &[1.0, 2.0]);
    running.end();
}

#[test]
fn a_command_that_ends_is_started_again_and_its_lines_count() {
    let running = start(
        "[sources.command.process]\ncommand = [\"/bin/sh\", \"-c\", \"echo t=1; echo nothing; echo t=2; exit 3\"]\n\
         lines = { pattern = '^t=(?<t>[0-9]+)', streams = \"command/t\" }",
    );
    wait_until("twice", || running.values("command/t").len() >= 4);
    assert_eq!(running.values("command/t")[..4], [1.0, 2.0, 1.0, 2.0]);
    let error = running.source("last_error");
    assert!(error.as_str().is_some_and(|error| error == "/bin/sh has ended: exit status: 3"), "{error}");
    let said = running.source("last_bad_row");
    assert_eq!(said, "/bin/sh: `nothing`: it does not match the pattern");
    running.end();
}

#[test]
fn a_serial_line_has_noise_half_lines_and_is_unplugged() {
    let pair = native_pty_system().openpty(PtySize::default()).expect("a pty");
    let device = pair.master.tty_name().expect("a name");
    let mut line = pair.master.take_writer().expect("its other end");
    let pattern = r"^\$IIMTW,(?<temperature>[-0-9.]+),C\*";
    let running = start(&format!(
        "[sources.boat.serial]\ndevice = \"{}\"\nbaud = 4800\n\
         lines = {{ pattern = '{pattern}', streams = \"water/{{channel}}\", checksum = \"nmea\" }}",
        device.display()
    ));
    let sentence = |celsius: &str| {
        let data = format!("IIMTW,{celsius},C");
        format!("${data}*{:02X}\r\n", data.bytes().fold(0, |sum, byte| sum ^ byte))
    };
    wait_until("the first one", || {
        line.write_all(sentence("17.5").as_bytes()).expect("written");
        !running.values("water/temperature").is_empty()
    });
    // Noise before a sentence spoils that one alone; one that comes in two pieces counts; one that was changed does not.
    line.write_all(&[0x00, 0xfe, b'$', b'\n']).expect("written");
    let (first, second) = (sentence("18.0"), sentence("19.0"));
    line.write_all(&first.as_bytes()[..7]).expect("written");
    line.write_all(&first.as_bytes()[7..]).expect("written");
    line.write_all(second.replace("19.0", "99.0").as_bytes()).expect("written");
    line.write_all(sentence("20.0").as_bytes()).expect("written");
    wait_until("the last one", || running.values("water/temperature").last() == Some(&20.0));
    let values = running.values("water/temperature");
    assert_eq!(values[values.len() - 2..], [18.0, 20.0]);
    running.wait_for_bad(2, "the checksum is wrong");
    drop((line, pair));
    wait_until("it is unplugged", || running.source("restarts").as_u64() >= Some(1));
    let error = running.source("last_error");
    assert!(error.as_str().is_some_and(|error| error.contains(&device.display().to_string())), "{error}");
    running.end();
}

#[test]
fn lines_may_stay_messages_for_a_cell() {
    let port = free_port();
    let running =
        start(&format!("[sources.net.udp]\nlisten = \"127.0.0.1:{port}\"\nlines = {{ message = \"raw/lines\" }}"));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // No route wants messages here: they are counted.
    wait_until("it comes", || {
        socket.send_to(b"anything", ("127.0.0.1", port)).expect("sent");
        running.source("unrouted").as_u64() >= Some(1)
    });
    running.end();
}
