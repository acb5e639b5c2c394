//! The real programs as processes, with a broker: what the end-to-end tests are written with.
//!
//! Everything listens on loopback, on ports that the system gives, and is killed when it goes out of scope.

#![allow(clippy::panic)] // this is test code, in a crate of its own

mod accounts;
pub mod appliance;
mod broker;
mod cable;
pub mod certificates;
pub mod emulator;
mod gateway;
pub mod hostile;
mod lab;
mod manager;
pub mod nats;
mod numbers;
mod operator;
pub mod proxy;
mod random;
mod subscriber;
pub mod time_server;
pub mod wire;
pub mod write_log;

use std::{
    io::Read,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use porin_test_support::target_dir;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

pub use self::{
    accounts::Accounts,
    broker::{Broker, publish, publish_lines, publish_retained},
    cable::{Cable, Plugged},
    gateway::{Gateway, library, porind},
    lab::Lab,
    manager::ServiceManager,
    numbers::Numbers,
    operator::Operator,
    random::Random,
    subscriber::{Name, Received, Subscriber},
};

/// How long anything may take before a test fails. Never what a test measures.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until something is so.
///
/// # Panics
/// If it does not become so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "timed out: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A program of porin, as `make test` built it; `PORIN_PROFILE=release`: as `make demo` did.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    target_dir().join(std::env::var("PORIN_PROFILE").unwrap_or_else(|_| "debug".into())).join(name)
}

/// A child process that does not outlive its test.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Kills it as a power cut would: no signal handler runs.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// The number by which the system knows it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end, as systemd would.
    ///
    /// # Panics
    /// If it cannot be asked.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, name: Signal) {
        // Not by the program `kill`: a small system has none.
        let id = self.id().try_into().ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(id, name).unwrap_or_else(|error| panic!("{name:?}: {error}"));
    }

    /// Its standard output.
    ///
    /// # Panics
    /// If it is no pipe, or was taken before.
    pub fn stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("stdout is a pipe")
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
        let mut stdout = self.stdout();
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

/// A free port of loopback, given out once. Not one of those that the kernel gives to connections: whoever waits for a listener there may be given the
/// very port as its own, and then talks to itself.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs may run at the same time.
    let first = std::process::id().wrapping_mul(199);
    let free = (0..22_000).find_map(|_| {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + number % 22_000).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    });
    free.expect("a free port")
}
