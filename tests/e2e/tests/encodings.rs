//! The cloud side of every encoding: `porin decode`, the Python decoder, and an independent SenML library agree.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use porin_core::{
    ids::{Epoch, Seq},
    payload::{self, Encoding, Packet},
};
use porin_e2e::program;
use porin_test_support::{rows, skip, target_dir, top};
use serde_json::Value;

const EPOCH: Epoch = Epoch { store: 0xa1b2_c3d4, starts: 7 };

/// Runs a command on some input and gives what it prints.
fn piped(command: &mut Command, input: &[u8]) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be started");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn python(script: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg(script);
    command
}

/// JSON lines, compared as values: `4.0` and `4` are the same number.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// Stream, time in µs, value.
type Rows = Vec<(String, u64, f64)>;

/// Packets of every recorded set that the project carries, some of several streams.
fn recorded() -> Vec<(String, Rows)> {
    let sets = ["buoy", "glucose", "vehicle_gps"];
    let set = |name: &str| {
        let rows = rows(&top().join("tests/data").join(name).with_extension("csv.gz"));
        rows.into_iter().take(700).map(|row| (row.channel, row.time_us, row.value)).collect()
    };
    sets.iter().map(|name| ((*name).to_owned(), set(name))).collect()
}

fn packets(rows: &[(String, u64, f64)]) -> Vec<Packet<'_>> {
    rows.iter()
        .enumerate()
        .map(|(index, (stream, time_us, value))| Packet {
            seq: Seq(1_000 + index as u64),
            stream,
            unit: "Cel",
            time_us: *time_us,
            value: *value,
            quality: u32::from(index % 50 == 7),
        })
        .collect()
}

#[test]
fn the_python_decoder_reads_what_porin_decode_reads() {
    let decoder = top().join("docs/cloud/porin_decode.py");
    let check = |name: &str, payload: &[u8]| {
        let ours = lines(&piped(Command::new(program("porin")).arg("decode"), payload));
        let theirs = lines(&piped(&mut python(&decoder), payload));
        assert!(!ours.is_empty(), "{name}");
        assert_eq!(ours, theirs, "{name}");
    };
    let entries = fs::read_dir(top().join("docs/fixtures")).expect("the fixtures");
    for path in entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()) {
        check(&path.display().to_string(), &fs::read(path).expect("a fixture"));
    }
    for (_, encoding) in Encoding::ALL {
        let empty = payload::encode(encoding, "kitchen", EPOCH, &[]);
        assert_eq!(piped(&mut python(&decoder), &empty), "");
    }
    for (set, rows) in recorded() {
        for (name, encoding) in Encoding::ALL {
            check(&format!("{set} as {name}"), &payload::encode(encoding, "kitchen", EPOCH, &packets(&rows)));
        }
    }
}

#[test]
fn payloads_in_hex_come_one_on_a_line() {
    let (_, rows) = recorded().swap_remove(0);
    let payload = payload::encode(Encoding::Compact, "kitchen", EPOCH, &packets(&rows[..3]));
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let both = piped(Command::new(program("porin")).args(["decode", "--hex"]), format!("{hex}\n{hex}\n").as_bytes());
    assert_eq!(both.lines().count(), 6);
}

#[test]
fn what_is_no_payload_is_said_to_be_none() {
    for (input, expected) in
        [(&b"hello"[..], "begins like none"), (b"", "begins like none"), (b"{\"v\":2}", "version 2")]
    {
        let mut child = Command::new(program("porin"))
            .arg("decode")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be started");
        child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{text}");
    }
}

#[test]
fn an_independent_library_reads_our_senml() {
    let libraries = target_dir().join("python");
    if !libraries.join("senml").exists() {
        skip("an_independent_library_reads_our_senml", "no `senml` from PyPI (pip is missing or has no network)");
        return;
    }
    for (set, rows) in recorded() {
        // SenML has no absolute times before 1978: those of a clock that began at 0 are porin's own label.
        let packets = packets(&rows);
        let absolute = packets.iter().all(|packet| packet.time_us >= 1 << 48);
        for encoding in [Encoding::SenmlJson, Encoding::SenmlCbor] {
            let pack = payload::encode(encoding, "kitchen", EPOCH, &packets);
            let read = lines(&piped(python(&top().join("tests/reference/senml_read.py")).arg(&libraries), &pack));
            assert_eq!(read.len(), packets.len());
            for (packet, read) in packets.iter().zip(&read) {
                assert_eq!(read[0], format!("kitchen/{}", packet.stream), "{set}");
                assert_eq!(read[2], "Cel", "{set}");
                assert_eq!(read[3].as_f64().expect("a number").to_bits(), packet.value.to_bits(), "{set}");
                if absolute {
                    let seconds = read[1].as_f64().expect("a time");
                    assert!((seconds * 1e6 - packet.time_us as f64).abs() < 1.0, "{set}: {seconds}");
                }
            }
        }
    }
}
