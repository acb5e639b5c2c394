//! Emulated boards: QEMU, its monitor and the serial console.

mod pi;
mod virt;

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use porin_core::{config::Level, words::Word};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::{
    pi::{Medium, Part, fat_file, partition, read_part},
    virt::BUTTON,
};
use crate::{Process, wait_until};

/// A boot takes a minute on an idle machine.
const BOOT_PATIENCE: Duration = Duration::from_secs(600);

/// A running board.
#[derive(Debug)]
pub struct Board {
    process: Process,
    folder: TempDir,
    typing: Option<UnixStream>,
    monitor: Rc<RefCell<Monitor>>,
    /// The address of the register with the levels of its lines.
    levels: u64,
}

/// QEMU's ear.
#[derive(Debug)]
struct Monitor(BufReader<UnixStream>);

impl Board {
    /// Switches on what the command describes, with a console and a monitor besides.
    fn start(mut command: Command, folder: TempDir, levels: u64) -> Self {
        let place = |name: &str| folder.path().join(name);
        command.args(["-display", "none", "-no-reboot"]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", place("monitor").display())]);
        let (socket, log) = (place("console"), place("console.log"));
        let chardev =
            format!("socket,id=console,path={},server=on,wait=off,logfile={}", socket.display(), log.display());
        command.args(["-chardev", &chardev, "-serial", "chardev:console"]);
        let errors = File::create(place("qemu.log")).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn();
        let mut process = Process::of(child.expect("qemu-system-aarch64; `make test-image` installs it"));
        let mut monitor = None;
        wait_until("QEMU listens", || {
            assert!(!process.has_ended(), "{}", fs::read_to_string(place("qemu.log")).unwrap_or_default());
            monitor = Monitor::open(&place("monitor"));
            monitor.is_some()
        });
        let monitor = Rc::new(RefCell::new(monitor.expect("it was opened")));
        Self { process, folder, typing: None, monitor, levels }
    }

    /// Waits until a line of the GPIO controller has this level, as the emulated register says. From outside: nothing in the board is asked.
    ///
    /// # Panics
    /// If it does not get it.
    pub fn wait_for_line(&mut self, line: u32, level: Level) {
        let (monitor, levels) = (self.monitor.clone(), self.levels);
        let has_it = || level_of_line(&mut monitor.borrow_mut(), levels, line) == level;
        self.wait_until(&format!("line {line} is {}", level.word()), has_it);
    }

    /// The level of a line now.
    #[must_use]
    pub fn line(&self, line: u32) -> Level {
        level_of_line(&mut self.monitor.borrow_mut(), self.levels, line)
    }

    /// Tells QEMU something, and gives its answer.
    fn tell(&self, what: &str, arguments: &Value) -> Value {
        self.monitor.borrow_mut().tell(what, arguments)
    }

    /// What the serial console has said so far.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("console.log")).unwrap_or_default()).into_owned()
    }

    /// Types a line on the serial console.
    ///
    /// # Panics
    /// If QEMU is gone.
    pub fn type_line(&mut self, line: &str) {
        if self.typing.is_none() {
            let console = UnixStream::connect(self.folder.path().join("console")).expect("QEMU runs");
            let mut echo = console.try_clone().expect("a second handle");
            // What nobody reads would hold the board up; it is in the log as well.
            thread::spawn(move || std::io::copy(&mut echo, &mut std::io::sink()));
            self.typing = Some(console);
        }
        writeln!(self.typing.as_mut().expect("just made"), "{line}").expect("QEMU reads");
    }

    /// Logs in as root on the serial console.
    ///
    /// # Panics
    /// If that is not allowed.
    pub fn log_in(&mut self, password: &str) {
        self.type_line("");
        self.wait_for("login:");
        self.type_line("root");
        self.wait_for("Password:");
        self.type_line(password);
        self.wait_for("built-in shell");
    }

    /// What a command prints, for who is logged in on the serial console.
    ///
    /// # Panics
    /// If it does not end.
    pub fn ask(&mut self, command: &str) -> String {
        let before = self.console().len();
        // Not as it is typed, since what is typed is echoed.
        self.type_line(&format!("{command}; echo en''ded"));
        let log = self.folder.path().join("console.log");
        let said = move || fs::read(&log).map(|said| String::from_utf8_lossy(&said).into_owned()).unwrap_or_default();
        self.wait_until(command, || said().get(before..).is_some_and(|said| said.contains("ended")));
        said()[before..].replace('\r', "")
    }

    /// Waits until something is so; the board has as long as booting may take.
    ///
    /// # Panics
    /// If it does not become so: with the end of what the console said.
    pub fn wait_until(&mut self, what: &str, mut so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !so() {
            let ended = self.process.has_ended();
            if ended || start.elapsed() > BOOT_PATIENCE {
                let errors = fs::read_to_string(self.folder.path().join("qemu.log")).unwrap_or_default();
                let errors = errors.lines().filter(|line| !line.starts_with("usbnet:")).collect::<Vec<_>>().join("\n");
                let console = self.console();
                let lines = console.lines().rev().take(40).collect::<Vec<_>>();
                let console = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
                panic!("waited in vain (QEMU has ended: {ended}): {what}\n{console}\n{errors}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the console has said this.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_for(&mut self, text: &str) {
        let log = self.folder.path().join("console.log");
        self.wait_until(text, || fs::read(&log).is_ok_and(|said| String::from_utf8_lossy(&said).contains(text)));
    }
}

/// A register that has a bit for each line.
fn level_of_line(monitor: &mut Monitor, levels: u64, line: u32) -> Level {
    assert!(line < 32, "a register has 32 bits");
    let answer = monitor.tell("human-monitor-command", &json!({ "command-line": format!("xp /1wx {levels:#x}") }));
    let word = answer.as_str().and_then(|said| said.trim().rsplit_once("0x")).map(|(_, digits)| digits);
    let word = word.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let word = word.unwrap_or_else(|| panic!("no register: {answer}"));
    if word >> line & 1 == 1 { Level::High } else { Level::Low }
}

impl Monitor {
    fn open(socket: &Path) -> Option<Self> {
        let mut monitor = Self(BufReader::new(UnixStream::connect(socket).ok()?));
        assert!(monitor.line().to_string().contains("QMP"), "QEMU greets");
        monitor.tell("qmp_capabilities", &json!({}));
        Some(monitor)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("QEMU runs");
        serde_json::from_str(&line).expect("JSON")
    }

    fn tell(&mut self, what: &str, arguments: &Value) -> Value {
        writeln!(self.0.get_ref(), "{}", json!({ "execute": what, "arguments": arguments })).expect("QEMU reads");
        // What it tells by itself comes in between.
        let mut answer = self.line();
        while answer.get("event").is_some() {
            answer = self.line();
        }
        assert!(answer.get("return").is_some(), "{what}: {answer}");
        answer["return"].take()
    }
}
