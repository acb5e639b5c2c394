//! `porin up` as somebody at a terminal has it: start, live values, a smaller window, ctrl-C, summary; and into a file.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use porin_e2e::{Process, Signal, program, wait_until};
use porin_test_support::{skip, target_dir};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use serde_json::Value;

/// A configuration that names neither broker nor paths.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "[gateway]\nid = \"lab\"\n[sources.sim.simulator]\nstreams = \"sim/a-stream-with-a-long-name/{{n}}\"\ncount = 3\nevery = \"10ms\"\n\
         [slots.quiet]\ncell = \"{}/cells/deadband.wasm\"\nparams = {{ absolute = 0.3 }}\n[routes.all]\nstreams = [\"sim/#\"]\nslots = [\"quiet\"]\n",
        target_dir().display()
    );
    fs::write(folder.path().join("porin.toml"), text).expect("written");
    folder
}

/// What is on the screen, without the colours and movements between the texts.
fn plain(screen: &str) -> String {
    let mut text = String::new();
    let mut rest = screen.chars();
    while let Some(character) = rest.next() {
        if character == '\u{1b}' {
            // Up to the letter that ends the sequence.
            rest.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(character);
        }
    }
    text
}

/// The largest number of packets that a text speaks of.
fn packets(text: &str) -> u64 {
    let before = text.match_indices(" packets in").filter_map(|(at, _)| text[..at].rsplit([' ', '\n']).next());
    before.filter_map(|number| number.parse().ok()).max().unwrap_or(0)
}

#[test]
fn at_a_terminal_there_is_a_live_table_and_a_summary_at_the_end() {
    let folder = folder();
    let size = |rows, cols| PtySize { rows, cols, pixel_width: 0, pixel_height: 0 };
    let pty = native_pty_system().openpty(size(24, 80)).expect("a pseudo-terminal");
    let mut command = CommandBuilder::new(program("porin"));
    command.args(["up", "--config"]);
    command.arg(folder.path().join("porin.toml"));
    let mut child = pty.slave.spawn_command(command).expect("it starts");
    drop(pty.slave);
    let screen = Arc::new(Mutex::new(String::new()));
    let (shared, mut reader) = (screen.clone(), pty.master.try_clone_reader().expect("a reader"));
    let reading = thread::spawn(move || {
        let mut bytes = [0; 4_096];
        let mut whole = Vec::new();
        while let Ok(count @ 1..) = reader.read(&mut bytes) {
            whole.extend_from_slice(&bytes[..count]);
            *shared.lock().expect("no panic") = String::from_utf8_lossy(&whole).into_owned();
        }
    });
    let seen = || plain(&screen.lock().expect("no panic"));
    let since = |from: usize| plain(&screen.lock().expect("no panic")[from..]);
    wait_until("it says where its broker is", || seen().contains("its own"));
    wait_until("the table is there", || packets(&seen()) > 0);
    let first = packets(&seen());
    wait_until("its values are live", || packets(&seen()) > first + 10);
    assert!(seen().contains("cell in slot") && seen().contains("outbox:") && seen().contains("fuel/packet"));
    assert!(seen().contains("bytes saved"));
    // In 80 columns nothing but a long name is cut: value, rate, share and sparkline are there.
    let row = || seen().lines().rev().find(|line| line.starts_with("sim/")).map(str::to_owned).unwrap_or_default();
    wait_until("there is a sparkline", || row().contains('█') && row().contains('▁'));
    let row = row();
    assert!(row.chars().count() < 80 && row.contains(" %  ") && !row.contains('…'), "{row}");

    // A smaller window: no line is wider than it from the first frame that knows.
    pty.master.resize(size(12, 50)).expect("a smaller window");
    let at = screen.lock().expect("no panic").len();
    wait_until("it is drawn anew", || since(at).matches("stream").count() > 2);
    let text = since(at);
    let frame = text.rsplit("stream  ").next().expect("the last frame");
    assert!(frame.lines().all(|line| line.chars().count() <= 50), "{frame}");

    let at = screen.lock().expect("no panic").len();
    pty.master.take_writer().expect("the keyboard").write_all(b"\x03").expect("ctrl-C");
    let status = child.wait().expect("it ends");
    reading.join().expect("no panic");
    assert!(status.success(), "{status:?}");
    let text = since(at);
    assert!(text.contains("stopping") && text.contains("bytes saved at the same batching"), "{text}");
    assert!(text.contains("outbox: 0 waiting"), "{text}");
    assert!(!text.contains("error:"), "{text}");
}

/// A terminal of this size in which `porin up` runs with 40 streams.
struct Terminal {
    _folder: tempfile::TempDir,
    keyboard: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    child: Box<dyn portable_pty::Child + Send + Sync>,
    _pty: Box<dyn portable_pty::MasterPty + Send>,
}

impl Terminal {
    fn start(rows: u16, cols: u16) -> Self {
        let folder = folder();
        let config = folder.path().join("porin.toml");
        let text = fs::read_to_string(&config).expect("it is there").replace("count = 3", "count = 40");
        fs::write(&config, text).expect("written");
        let pty =
            native_pty_system().openpty(PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }).expect("a terminal");
        let mut command = CommandBuilder::new(program("porin"));
        command.args(["up", "--config"]);
        command.arg(&config);
        let child = pty.slave.spawn_command(command).expect("it starts");
        drop(pty.slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, cols, 0)));
        let (shared, mut reader) = (screen.clone(), pty.master.try_clone_reader().expect("a reader"));
        thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                shared.lock().expect("no panic").process(&bytes[..count]);
            }
        });
        let keyboard = pty.master.take_writer().expect("a keyboard");
        Self { _folder: folder, keyboard, screen, child, _pty: pty.master }
    }

    /// The lines on the screen.
    fn lines(&self) -> Vec<String> {
        self.screen.lock().expect("no panic").screen().contents().lines().map(str::to_owned).collect()
    }

    /// The numbers of the streams on the screen, once the table is there and has this many.
    fn streams(&self, wanted: usize) -> Vec<usize> {
        let shown = || {
            let number =
                |line: &String| line.strip_prefix("sim/a-stream-with-a-long-name/")?.split(' ').next()?.parse().ok();
            self.lines().iter().filter_map(number).collect::<Vec<usize>>()
        };
        wait_until("the table has its streams", || shown().len() == wanted);
        shown()
    }

    fn press(&mut self, key: &[u8]) {
        self.keyboard.write_all(key).expect("it takes a key");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended, or a test has failed.
        let _ = self.child.kill();
    }
}

#[test]
fn the_table_fits_both_sizes_and_scrolls() {
    // Everything but streams is the same in both: heads, the slot, the outbox, what was saved.
    let mut small = Terminal::start(24, 80);
    let large = Terminal::start(40, 120);
    let (few, many) = (small.streams(10), large.streams(26));
    assert_eq!((few, many), ((1..=10).collect(), (1..=26).collect()));
    let heads = |terminal: &Terminal| -> Vec<String> {
        let lines = terminal.lines();
        let heads = lines.iter().filter(|line| !line.starts_with("sim/") && !line.trim().is_empty());
        // Without numbers, which differ, and what is only in the log.
        let is_word = |word: &&str| !word.is_empty() && !word.contains(|c: char| c.is_ascii_digit());
        let words = heads.map(|line| line.split(' ').filter(is_word).collect::<Vec<_>>().join(" "));
        words.filter(|line| !line.contains("INFO")).collect()
    };
    assert_eq!(heads(&small), heads(&large));
    assert!(small.lines().iter().all(|line| line.chars().count() < 80), "{:?}", small.lines());
    assert!(small.lines().iter().any(|line| line == "1 to 10 of 40 streams; arrows and page keys scroll"));

    let first = |terminal: &Terminal| terminal.streams(10)[0];
    for (key, expected) in [
        (&b"\x1b[B"[..], 2),
        (b"\x1b[6~", 12),
        (b"\x1b[F", 31),
        (b"\x1b[B", 31),
        (b"\x1b[A", 30),
        (b"\x1b[5~", 20),
        (b"\x1b[H", 1),
    ] {
        small.press(key);
        wait_until("it has scrolled", || first(&small) == expected);
    }
    small.press(b"\x03");
    assert!(small.child.wait().expect("it ends").success());
    let lines = small.lines();
    assert!(!lines.iter().any(|line| line.contains("^[")), "no key is printed: {lines:?}");
}

#[test]
fn into_a_file_there_are_lines_and_the_same_summary() {
    let folder = folder();
    let mut child = Process::spawn(
        Command::new(program("porin"))
            .args(["up", "--config"])
            .arg(folder.path().join("porin.toml"))
            .stdout(fs::File::create(folder.path().join("out")).expect("a file"))
            .stderr(Stdio::null()),
    );
    let out = || fs::read_to_string(folder.path().join("out")).expect("a file");
    wait_until("there are lines", || out().lines().filter(|line| line.contains("packets in")).count() >= 2);
    child.signal(Signal::INT);
    assert!(child.wait().success());
    let text = out();
    assert!(!text.contains('\u{1b}'), "no colours in a file: {text}");
    assert!(text.contains("bytes saved at the same batching") && text.contains("outbox: 0 waiting"), "{text}");
}

#[test]
fn to_the_end_it_can_give_json() {
    let folder = folder();
    let config = folder.path().join("porin.toml");
    let text = fs::read_to_string(&config)
        .expect("it is there")
        .replace("every = \"10ms\"", "speed = \"max\"\nreadings = 3000");
    fs::write(&config, text).expect("written");
    let output = Command::new(program("porin"))
        .args(["up", "--until-drained", "--json", "--config"])
        .arg(&config)
        .output()
        .expect("it runs");
    let last: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&last["sources"][0]["received"], &last["imbalance"]), (&Value::from(3_000), &Value::Array(vec![])));
    let wrong = fs::read_to_string(&config).expect("it is there").replace("simulator]", "simulatr]");
    fs::write(&config, wrong).expect("written");
    let output = Command::new(program("porin")).args(["up", "-c"]).arg(&config).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("line 3") && text.contains("did you mean `simulator`?"), "{text}");
}

/// `porin` with these arguments, in a folder: exit code, standard output, standard error.
fn porin(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program("porin")).args(args).current_dir(folder).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn commands_find_the_agent_of_porin_up_in_this_folder_and_below() {
    let folder = folder();
    let below = folder.path().join("notes/today");
    fs::create_dir_all(&below).expect("a folder");
    // Before the first `porin up` only the folder itself has a configuration.
    let (code, stdout, stderr) = porin(folder.path(), &["check"]);
    assert!(code == Some(0) && stdout.contains("1 sources, 1 routes, 1 slots"), "{stdout}{stderr}");
    assert_eq!(porin(folder.path(), &["status"]).0, Some(4));
    let mut agent = Process::spawn(
        Command::new(program("porin"))
            .args(["up", "--plain"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    for at in [folder.path(), &below] {
        wait_until("it answers and is connected", || {
            let (_, status, _) = porin(at, &["status", "--json"]);
            serde_json::from_str::<Value>(&status).is_ok_and(|status| status["uplink"]["connected"] == true)
        });
        let (code, stdout, stderr) = porin(at, &["doctor"]);
        assert!(code == Some(0) && stdout.contains("broker"), "{stdout}{stderr}");
        let (code, stdout, _) = porin(at, &["dead", "--json"]);
        assert!(code == Some(0) && serde_json::from_str::<Value>(&stdout).is_ok(), "{stdout}");
        let (code, stdout, _) = porin(at, &["tap", "#", "--count", "1"]);
        assert!(code == Some(0) && stdout.contains("sim/"), "{stdout}");
        // RFC 3339 with microseconds.
        let time = stdout.split(' ').next().unwrap_or_default();
        assert!(time.len() == 27 && time.starts_with("20") && time.ends_with('Z'), "{stdout}");
    }
    agent.terminate();
    assert!(agent.wait().success());
    assert!(!folder.path().join(".porin/broker").exists(), "its broker is gone");
}

#[test]
fn without_any_configuration_the_error_names_both_places() {
    let empty = tempfile::tempdir().expect("a folder");
    if Path::new("/etc/porin/porin.toml").exists() {
        return skip("without_any_configuration_the_error_names_both_places", "this machine has an agent installed");
    }
    for command in ["status", "check", "doctor", "dead"] {
        let (code, _, stderr) = porin(empty.path(), &[command]);
        assert_eq!(code, Some(78), "{command}: {stderr}");
        assert!(stderr.contains("no porin.toml here, and no /etc/porin/porin.toml"), "{stderr}");
        assert!(stderr.contains("hint: `porin init` writes one"), "{stderr}");
    }
}
