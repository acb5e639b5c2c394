//! A gateway: a folder, and the agent in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use porin_test_support::target_dir;
use serde_json::Value;

use crate::{Process, program};

/// A folder with a configuration, and the agent in it.
#[derive(Debug)]
pub struct Gateway {
    folder: tempfile::TempDir,
    /// A file that says how wrong the agent's wall clock is.
    clock: Option<PathBuf>,
}

impl Gateway {
    /// A gateway with this id; `rest` is the configuration after `[gateway]`, `[uplink]` and `[outbox]`.
    ///
    /// # Panics
    /// If the folder cannot be made.
    #[must_use]
    pub fn new(id: &str, port: u16, rest: &str) -> Self {
        let gateway = Self { folder: tempfile::tempdir().expect("a temporary folder"), clock: None };
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

    /// The same with a piece of its configuration replaced.
    ///
    /// # Panics
    /// If the piece is not there, or the configuration cannot be written.
    #[must_use]
    pub fn edit(self, old: &str, new: &str) -> Self {
        let text = fs::read_to_string(self.config()).expect("it was written");
        assert!(text.contains(old), "{old} is not in {text}");
        fs::write(self.config(), text.replacen(old, new, 1)).expect("it can be written again");
        self
    }

    /// The same with commits as rare as this, e.g. `1s`.
    ///
    /// # Panics
    /// If the configuration cannot be written.
    #[must_use]
    pub fn commit_every(self, time: &str) -> Self {
        self.edit("50ms", time)
    }

    /// The same with a wall clock of its own: see [`Gateway::set_clock`].
    #[must_use]
    pub fn with_clock(mut self) -> Self {
        self.clock = Some(self.path("clock"));
        self
    }

    /// Sets the agent's wall clock to so many seconds from the right time; the clock that never steps goes on.
    ///
    /// # Panics
    /// If the gateway has no clock of its own.
    pub fn set_clock(&self, seconds: i64) {
        let clock = self.clock.as_ref().expect("with_clock");
        // Renamed into place: the agent may read it at any moment.
        fs::write(self.path("clock.new"), format!("{seconds:+}\n")).expect("written");
        fs::rename(self.path("clock.new"), clock).expect("renamed");
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
        self.run_with(args, &[])
    }

    /// The same with these variables in its environment.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Process {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).expect("a log");
        let mut command = porind(&self.config());
        if let Some(clock) = &self.clock {
            command.env("LD_PRELOAD", library("faketime/libfaketime.so.1")).env("FAKETIME_TIMESTAMP_FILE", clock);
            command
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("DONT_FAKE_MONOTONIC", "1");
        }
        command.envs(variables.iter().copied());
        let child = command.arg("run").args(args).stdout(Stdio::piped()).stderr(log).spawn();
        Process::of(child.unwrap_or_else(|error| panic!("porind: {error}; run `make test`")))
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
    ///
    /// # Panics
    /// If the counters do not add up.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let output = porind(&self.config()).args(["status", "--json"]).output().ok()?;
        let status: Option<Value> =
            output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("the status is JSON"));
        // Whatever happens, at any moment: every packet has a fate.
        if let Some(status) = &status {
            assert_eq!(status["imbalance"], Value::Array(vec![]), "{status}");
        }
        status
    }
}

/// A library of Debian's that gives a process another time, or other names of hosts.
///
/// # Panics
/// If it is not installed.
#[must_use]
pub fn library(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("a system").map_while(Result::ok);
    let mut found = folders.map(|folder| folder.path().join(name));
    found.find(|path| path.exists()).unwrap_or_else(|| panic!("{name}; `make test` installs it"))
}

/// `porind` with a configuration.
#[must_use]
pub fn porind(config: &Path) -> Command {
    let mut command = Command::new(program("porind"));
    command.arg("--config").arg(config).env_remove("PORIN_LOG");
    command
}
