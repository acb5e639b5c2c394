//! Sources of lines against the real thing: datagrams, files that are rotated, commands that end, serial lines with noise.

use std::{
    fs::{self, File},
    io::Write,
    net::UdpSocket,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use porin_core::payload;
use porin_e2e::{Lab, free_port, porind, wait_until};
use portable_pty::{PtySize, native_pty_system};
use tempfile::TempDir;

#[test]
fn datagrams_of_lines_become_readings() {
    let port = free_port();
    let lab = Lab::start(&format!(
        "[sources.net.udp]\nlisten = \"127.0.0.1:{port}\"\n\
         lines = {{ pattern = '^(?<node>\\w+) (?<temperature>\\S+)', streams = \"{{node}}/{{channel}}\" }}"
    ));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let send = |bytes: &[u8]| assert_eq!(socket.send_to(bytes, ("127.0.0.1", port)).expect("sent"), bytes.len());
    wait_until("the first one", || {
        send(b"roof 1");
        !lab.values("roof/temperature").is_empty()
    });
    send(b"cellar 2\r\ncellar 3\nroof 4");
    wait_until("the roof", || lab.values("roof/temperature").last() == Some(&4.0));
    lab.wait_for("cellar/temperature", &[2.0, 3.0]);
    // A line is counted as a bad row if it is not text, does not match, is too long or has an impossible name. The next line counts.
    send(&[0xff, 0xfe]);
    lab.wait_for_bad(1, "it is not UTF-8");
    send(b"roof warm");
    lab.wait_for_bad(2, "`temperature` is `warm`, no number");
    send(&[b'x'; 10_000]);
    lab.wait_for_bad(3, "a line has more than 4096 bytes");
    send(b"");
    send(b"cellar 5");
    lab.wait_for("cellar/temperature", &[2.0, 3.0, 5.0]);
    lab.end();
}

/// A gateway that follows a file, which has this already, if it is there; lines that match the pattern are on `meter/kwh`.
fn followed(has: Option<&str>, pattern: &str) -> (TempDir, PathBuf, Lab) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("meter.log");
    has.into_iter().for_each(|has| fs::write(&path, has).expect("written"));
    let lab = Lab::start(&format!(
        "[sources.log.file]\npath = \"{}\"\nlines = {{ pattern = '{pattern}', streams = \"meter/{{channel}}\" }}",
        path.display()
    ));
    (folder, path, lab)
}

#[test]
fn a_file_is_followed_when_it_is_rotated_and_when_it_is_cut() {
    let (folder, path, lab) = followed(Some("kwh 1\nkwh 2\n"), "^kwh (?<kwh>[0-9]+)");
    let mut file = File::options().append(true).open(&path).expect("it is there");
    // What stood there before the agent came is not read; half a line waits for its end.
    wait_until("the first one", || {
        writeln!(file, "kwh 3").expect("written");
        !lab.values("meter/kwh").is_empty()
    });
    write!(file, "kwh 4").expect("written");
    let threes = |values: &[f64]| values.iter().filter(|value| **value < 4.0).count();
    writeln!(file, "4").expect("written");
    wait_until("the whole line", || lab.values("meter/kwh").last() == Some(&44.0));
    // Renamed; what is still written to the old one counts, and then the new one does.
    let old = folder.path().join("meter.log.1");
    fs::rename(&path, &old).expect("renamed");
    writeln!(file, "kwh 5").expect("written");
    // The new one is there, empty, before whoever writes has noticed it (logrotate's `create`): what comes meanwhile counts.
    File::create(&path).expect("made");
    wait_until("the old one's", || lab.values("meter/kwh").last() == Some(&5.0));
    thread::sleep(Duration::from_millis(600));
    writeln!(file, "kwh 55").expect("written");
    wait_until("the old one's last", || lab.values("meter/kwh").last() == Some(&55.0));
    fs::write(&path, format!("kwh 6{}\n", " ".repeat(500))).expect("written");
    wait_until("the new one", || lab.values("meter/kwh").last() == Some(&6.0));
    // Cut and written anew, as `copytruncate` does.
    File::create(&path).expect("cut");
    fs::write(&path, "kwh 7").expect("written");
    wait_until("reading it from its beginning", || {
        let mut file = File::options().append(true).open(&path).expect("it is there");
        writeln!(file).expect("written");
        lab.values("meter/kwh").contains(&7.0)
    });
    let values = lab.values("meter/kwh");
    assert_eq!(values[threes(&values)..], [44.0, 5.0, 55.0, 6.0, 7.0]);
    lab.end();
}

#[test]
fn a_file_that_was_not_there_is_read_from_its_beginning() {
    let (_folder, path, lab) = followed(None, "^(?<kwh>[0-9]+)");
    wait_until("it is looked for", || lab.source(0)["restarts"].as_u64() >= Some(1));
    fs::write(&path, "1\n2\n").expect("written");
    lab.wait_for("meter/kwh", &[1.0, 2.0]);
    lab.end();
}

#[test]
fn a_file_is_not_believed_from_the_middle_of_a_line_and_is_gone_on_with_after_a_failure() {
    // Whoever writes is in the middle of `12345`.
    let (folder, path, lab) = followed(Some("1\n12"), "^(?<kwh>[0-9a-z]+)");
    let append = |text: &str| {
        let mut file = File::options().append(true).open(&path).expect("it is there");
        file.write_all(text.as_bytes()).expect("written");
    };
    lab.wait_for_open(&path);
    append("345\n6\n");
    lab.wait_for("meter/kwh", &[6.0]);
    // What cannot be a measurement is none.
    append("nan\ninf\n7\n");
    lab.wait_for_bad(2, "`kwh` is `inf`, no number");
    lab.wait_for("meter/kwh", &[6.0, 7.0]);
    // Its place is taken by what cannot be read; what has come when it can be again is new.
    fs::rename(&path, folder.path().join("meter.log.1")).expect("renamed");
    fs::create_dir(&path).expect("made");
    wait_until("it fails", || lab.source(0)["restarts"].as_u64() >= Some(1));
    let error = lab.source(0)["last_error"].clone();
    assert!(error.as_str().is_some_and(|error| error.ends_with("it is not a regular file")));
    let new = folder.path().join("new");
    fs::write(&new, "8\n9\n").expect("written");
    fs::remove_dir(&path).expect("removed");
    fs::rename(&new, &path).expect("renamed");
    lab.wait_for("meter/kwh", &[6.0, 7.0, 8.0, 9.0]);
    lab.end();
}

#[test]
fn a_pipe_instead_of_a_file_is_refused_and_holds_nothing_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().is_ok_and(|status| status.success()));
    let lab = Lab::start(&format!(
        "[sources.pipe.file]\npath = \"{0}\"\nlines = {{ pattern = '^(?<v>[0-9]+)', streams = \"pipe/v\" }}\n\
         [sources.number.sysfs]\ninputs = [{{ file = \"{0}\", every = \"100ms\", stream = \"pipe/n\" }}]",
        path.display()
    ));
    wait_until("it fails", || lab.source(1)["restarts"].as_u64() >= Some(1));
    wait_until("it has no number", || lab.part(0, 0)["ok"] == false);
    let error = lab.part(0, 0)["last_error"].clone();
    assert!(error.as_str().is_some_and(|error| error.ends_with("not a regular file")), "{error}");
    lab.end();
}

#[test]
fn a_command_that_closes_its_output_and_stays_is_ended_and_started_again() {
    let lab = Lab::start(
        "[sources.command.process]\ncommand = [\"/bin/sh\", \"-c\", \"echo t=1; exec sleep 1000 >&-\"]\n\
         lines = { pattern = '^t=(?<t>[0-9]+)', streams = \"command/t\" }",
    );
    wait_until("twice", || lab.values("command/t").len() >= 2);
    assert_eq!(lab.source(0)["last_error"], "/bin/sh closed its output without ending: it is killed");
    lab.end();
}

#[test]
fn a_serial_line_is_not_believed_from_the_middle_of_a_line() {
    let pair = native_pty_system().openpty(PtySize::default()).expect("a pty");
    let device = pair.master.tty_name().expect("a name");
    let mut line = pair.master.take_writer().expect("its other end");
    // Nobody listens yet: the scale says what it weighs without end.
    let stop = Arc::new(AtomicBool::new(false));
    let until = stop.clone();
    let scale = thread::spawn(move || {
        // What came before the line was opened is gone, here all but the end of a line. Never a whole line at a time, and never a pause.
        line.write_all(b"2.34\r\n").expect("written");
        for piece in b"0012.34\r\n".chunks(4).cycle() {
            line.write_all(piece).expect("written");
            thread::sleep(Duration::from_millis(5));
            if until.load(Ordering::Relaxed) {
                return line;
            }
        }
        unreachable!("a cycle has no end")
    });
    let lab = Lab::start(&format!(
        "[sources.scale.serial]\ndevice = \"{}\"\nlines = {{ pattern = '^(?<weight>[0-9.]+)$', streams = \"scale/{{channel}}\" }}",
        device.display()
    ));
    wait_until("some", || lab.values("scale/weight").len() > 20);
    assert!(lab.values("scale/weight").iter().all(|weight| (weight - 12.34).abs() < 1e-9));
    stop.store(true, Ordering::Relaxed);
    drop(scale.join().expect("it has ended"));
    lab.end();
}

#[test]
fn a_command_that_ends_is_started_again_and_its_lines_count() {
    let lab = Lab::start(
        "[sources.command.process]\ncommand = [\"/bin/sh\", \"-c\", \"echo t=1; echo nothing; printf t=2; exit 3\"]\n\
         lines = { pattern = '^t=(?<t>[0-9]+)', streams = \"command/t\" }",
    );
    wait_until("twice", || lab.values("command/t").len() >= 4);
    assert_eq!(lab.values("command/t")[..4], [1.0, 2.0, 1.0, 2.0]);
    let error = &lab.source(0)["last_error"];
    assert!(error.as_str().is_some_and(|error| error == "/bin/sh has ended: exit status: 3"), "{error}");
    let said = &lab.source(0)["last_bad_row"];
    assert_eq!(said, "/bin/sh: `nothing`: it does not match the pattern");
    lab.end();
}

#[test]
fn lines_that_never_end_and_lines_that_give_nothing_are_counted_with_a_sample() {
    // A carriage return is no line feed.
    let lab = Lab::start(
        "[sources.meter.process]\ncommand = [\"/bin/sh\", \"-c\", \"while :; do printf 'T=20 H=40\\\\r'; sleep 0.01; done\"]\n\
         lines = { pattern = '^T=(?<t>\\S+)', streams = \"{channel}\" }",
    );
    wait_until("much has come", || {
        lab.source(0)["inputs"][0]["unended_bytes"].as_u64().is_some_and(|bytes| bytes > 500)
    });
    let input = lab.source(0)["inputs"][0].clone();
    assert!(input["last_unended"].as_str().is_some_and(|sample| sample.contains("T=20 H=40")), "{input}");
    let doctor = porind(&lab.gateway.config()).arg("doctor").output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        !doctor.status.success() && said.contains("without the end of a line or frame, the last: `T=20 H=40"),
        "{said}"
    );
    lab.end();

    // It matches, and no group of it has a number.
    let lab = Lab::start(
        "[sources.meter.process]\ncommand = [\"/bin/sh\", \"-c\", \"echo hello; exec sleep 1000\"]\n\
         lines = { pattern = '^hello(?: (?<t>\\d+))?', streams = \"{channel}\" }",
    );
    wait_until("it came", || lab.source(0)["inputs"][0]["empty"] == 1);
    assert_eq!(lab.source(0)["inputs"][0]["last_empty"], "`hello`: no group has a number");
    lab.end();
}

#[test]
fn a_serial_line_has_noise_half_lines_and_is_unplugged() {
    let pair = native_pty_system().openpty(PtySize::default()).expect("a pty");
    let device = pair.master.tty_name().expect("a name");
    let mut line = pair.master.take_writer().expect("its other end");
    let pattern = r"^\$IIMTW,(?<temperature>[-0-9.]+),C\*";
    let lab = Lab::start(&format!(
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
        !lab.values("water/temperature").is_empty()
    });
    // Noise before a sentence spoils that one alone; one that comes in two pieces counts; one that was changed does not.
    line.write_all(&[0x00, 0xfe, b'$', b'\n']).expect("written");
    let (first, second) = (sentence("18.0"), sentence("19.0"));
    line.write_all(&first.as_bytes()[..7]).expect("written");
    line.write_all(&first.as_bytes()[7..]).expect("written");
    line.write_all(second.replace("19.0", "99.0").as_bytes()).expect("written");
    line.write_all(sentence("20.0").as_bytes()).expect("written");
    wait_until("the last one", || lab.values("water/temperature").last() == Some(&20.0));
    let values = lab.values("water/temperature");
    assert_eq!(values[values.len() - 2..], [18.0, 20.0]);
    lab.wait_for_bad(2, "the checksum is wrong");
    drop((line, pair));
    wait_until("it is unplugged", || lab.source(0)["restarts"].as_u64() >= Some(1));
    let error = &lab.source(0)["last_error"];
    assert!(error.as_str().is_some_and(|error| error.contains(&device.display().to_string())), "{error}");
    lab.end();
}

#[test]
fn frames_that_say_their_length_are_messages_for_a_decoder() {
    let pair = native_pty_system().openpty(PtySize::default()).expect("a pty");
    let device = pair.master.tty_name().expect("a name");
    let mut line = pair.master.take_writer().expect("its other end");
    let lab = Lab::start_with(
        &format!(
            "[sources.pm.serial]\ndevice = \"{}\"\nframes = {{ start = [0x42, 0x4d], length = \"u16be\" }}\n\
             lines = {{ message = \"dust/raw\" }}\n[routes.raw]\nstreams = [\"dust/#\"]\npackets = \"messages\"\n",
            device.display()
        ),
        |_| {},
    );
    let frames = || -> Vec<Vec<u8>> {
        let payloads = lab.publishes().into_iter().map(|publish| payload::decode(&publish.payload).expect("whole"));
        payloads.flat_map(|decoded| decoded.messages).map(|message| message.payload).collect()
    };
    let (one, two) = (b"\x42\x4d\x00\x04\n\r\x00\xff".to_vec(), b"\x42\x4d\x00\x01z".to_vec());
    wait_until("the first one", || {
        line.write_all(&one).expect("written");
        !frames().is_empty()
    });
    // Noise, then a frame whose end is lost, after which nothing comes for a while: the next one counts all the same.
    line.write_all(&[b"noise", &one[..6]].concat()).expect("written");
    thread::sleep(Duration::from_millis(1_500));
    line.write_all(&two).expect("written");
    wait_until("the last one", || frames().contains(&two));
    assert!(frames().iter().all(|frame| [&one, &two].contains(&frame)), "{:?}", frames());
    lab.wait_for_bad(1, "11 bytes that belong to no frame");
    lab.end();
}

#[test]
fn lines_may_stay_messages_for_a_cell() {
    let port = free_port();
    let lab =
        Lab::start(&format!("[sources.net.udp]\nlisten = \"127.0.0.1:{port}\"\nlines = {{ message = \"raw/lines\" }}"));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // No route wants messages here: they are counted.
    wait_until("it comes", || {
        socket.send_to(b"anything", ("127.0.0.1", port)).expect("sent");
        lab.source(0)["unrouted"].as_u64() >= Some(1)
    });
    lab.end();
}
