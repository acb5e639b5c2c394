//! `porin init`: what it makes of brokers, lines and files is a configuration that the agent accepts, and that gives values.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::UdpSocket,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use porin_e2e::{Broker, Process, Signal, free_port, porind, program, publish_retained};
use porin_test_support::{all_data, skip, target_dir, top};
use portable_pty::{PtySize, native_pty_system};

fn init(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program("porin"));
    command.args(["init", "--uplink", "own", "--cell", "deadband"]).args(args);
    command.args(["--cells", &target_dir().join("cells").display().to_string()]).current_dir(folder);
    command
}

fn said(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// The configuration, with what `porin up` would add, is accepted by the agent.
fn accepted(folder: &Path) -> String {
    let path = folder.join("porin.toml");
    let text = fs::read_to_string(&path).expect("it was written");
    let complete = folder.join("complete.toml");
    fs::write(&complete, text.replacen("[uplink]\n", "[uplink]\nbroker = \"mqtt://127.0.0.1:1\"\n", 1))
        .expect("written");
    let (code, said) = said(porind(&complete).arg("check"));
    assert_eq!(code, Some(0), "{said}\n{text}");
    text
}

/// Runs it with something that sends until it ends.
fn while_sending(mut command: Command, mut send: impl FnMut() + Send) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    errors.read_line(&mut line).expect("it says something");
    assert!(line.starts_with("listening"), "{line}");
    while child.try_wait().expect("it can be asked").is_none() {
        send();
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn devices_that_publish_become_streams_and_values_come_through() {
    let broker = Broker::mosquitto();
    let fixtures = top().join("docs/fixtures/mqtt");
    let mut count = 0;
    for entry in fs::read_dir(fixtures).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        publish_retained(broker.port, &format!("site/{name}"), &fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count >= 3, "{count} fixtures");
    publish_retained(broker.port, "zigbee2mqtt/bath", br#"{"temperature":21.5,"battery":90,"contact":true}"#);
    publish_retained(broker.port, "zigbee2mqtt/hall", br#"{"temperature":19.5}"#);
    publish_retained(broker.port, "text/only", b"hello");
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let (code, said_first) = said(&mut init(folder.path(), &["--from", &url, "--seconds", "2"]));
    assert_eq!(code, Some(0), "{said_first}");
    assert!(
        said_first.contains("zigbee2mqtt/{device}: 2 topics, json") && said_first.contains("text/only"),
        "{said_first}"
    );
    let text = accepted(folder.path());
    assert!(text.contains("\"{device}/temperature\" = \"/temperature\""), "{text}");
    // It replaces nothing without being asked to.
    let (code, again) = said(&mut init(folder.path(), &["--from", &url, "--seconds", "1"]));
    assert!(code == Some(5) && again.contains("porin.toml is there already"), "{again}");
    // Two commands from devices that publish to filtered values.
    let mut up = Process::spawn(
        Command::new(program("porin"))
            .arg("up")
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let lines = BufReader::new(up.stdout()).lines().map_while(Result::ok);
    let forwarded = lines.filter_map(|line| line.split(" packets in, ").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    assert!(forwarded.take(60).any(|forwarded| forwarded >= 4), "values are forwarded");
    up.signal(Signal::INT);
    up.wait();
}

#[test]
fn datagrams_and_lines_of_a_serial_device_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = format!("127.0.0.1:{}", free_port());
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let command = init(folder.path(), &["--from", &format!("udp://{place}"), "--seconds", "2"]);
    let (code, said) = while_sending(command, || drop(sender.send_to(b"21.5, 3\n", &place)));
    assert!(code == Some(0) && said.contains("→ numbers"), "{said}");
    assert!(accepted(folder.path()).contains("[sources.net.udp]"));

    let folder = tempfile::tempdir().expect("a folder");
    let pty = native_pty_system().openpty(PtySize::default()).expect("a pseudo-terminal");
    let device = pty.master.tty_name().expect("it has a name").display().to_string();
    let mut writer = pty.master.take_writer().expect("the other end");
    let command = init(folder.path(), &["--from", &device, "--seconds", "2", "--baud", "19200"]);
    let (code, said) = while_sending(command, || writer.write_all(b"door open\n").expect("written"));
    assert!(code == Some(0) && said.contains("→ text"), "{said}");
    let text = accepted(folder.path());
    assert!(text.contains("baud = 19200") && text.contains("packets = \"messages\""), "{text}");
}

#[test]
fn every_recorded_file_and_nothing_at_all_give_a_configuration() {
    let files = all_data().unwrap_or_else(|| {
        skip(
            "every_recorded_file_and_nothing_at_all_give_a_configuration",
            "only the sets that the project carries are there",
        );
        ["buoy", "glucose", "vehicle_gps"]
            .map(|set| top().join("tests/data").join(set).with_extension("csv.gz"))
            .to_vec()
    });
    for file in files {
        let folder = tempfile::tempdir().expect("a folder");
        let (code, text) = said(&mut init(folder.path(), &["--from", &file.display().to_string()]));
        assert_eq!(code, Some(0), "{text}");
        accepted(folder.path());
    }
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(said(&mut init(folder.path(), &[])).0, Some(0));
    assert!(accepted(folder.path()).contains("simulator"));
    let (code, text) = said(&mut init(folder.path(), &["--force", "--from", "/etc/passwd"]));
    assert!(code == Some(2) && text.contains("timestamp,channel,value"), "{text}");
    let (code, text) = said(&mut init(folder.path(), &["--force", "--from", "mqtt://127.0.0.1:1"]));
    assert!(code == Some(4) && text.contains("no connection to 127.0.0.1:1"), "{text}");
}
