//! `porin up`: the agent in the foreground, with a broker of its own if the configuration names none, and a live table.
//!
//! The agent is the very library that `porind` runs; the table asks its socket, as `porind status` does.

mod keyboard;
mod log;
mod table;
mod values;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use console::Term;
use porin_core::{
    config::{Config, Defaults},
    status::Snapshot,
};
use porind::Until;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use self::{log::Log, table::Table, values::Values};
use super::{
    agent::{self, bad_config, snapshot},
    broker::{self, Broker},
};
use crate::failure::{Exit, Failure};

/// Between two looks at the agent, on a terminal.
const REDRAW: Duration = Duration::from_millis(500);

/// Between two lines, where there is no terminal.
const LINE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration; its uplink and its paths may be left out
    #[arg(short, long, value_name = "FILE", default_value = "porin.toml")]
    config: PathBuf,
    /// Use a broker of its own even if the configuration names one
    #[arg(long)]
    own_broker: bool,
    /// Stop when every source has ended and the broker has everything
    #[arg(long)]
    until_drained: bool,
    /// Lines instead of a live table
    #[arg(long)]
    plain: bool,
    /// Print the last status as JSON instead of the summary
    #[arg(long)]
    json: bool,
}

/// Where the state of a configuration's agent is when it does not say: beside it.
pub(crate) struct Places {
    pub(crate) folder: PathBuf,
    pub(crate) path: String,
    pub(crate) socket: String,
    /// The address of the broker of its own, while it runs.
    pub(crate) broker: PathBuf,
}

impl Places {
    pub(crate) fn beside(config: &Path) -> Self {
        let folder = config.parent().unwrap_or(Path::new("")).join(".porin");
        let place = |name: &str| folder.join(name).display().to_string();
        Self { path: place("porin.redb"), socket: place("status.sock"), broker: folder.join("broker"), folder }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let place = arguments.config.display();
    let text = fs::read_to_string(&arguments.config).with_context(|| format!("cannot read {place}"));
    let text = text.map_err(bad_config)?;
    let places = Places::beside(&arguments.config);
    let own = broker::free_address()?;
    let address = format!("mqtt://{own}");
    let defaults = Defaults { broker: Some(&address), path: Some(&places.path), socket: Some(&places.socket) };
    let mut config = Config::parse_with(&text, defaults).map_err(|error| bad_config(anyhow!("{place}: {error}")))?;
    porind::check(&config).map_err(bad_config)?;
    if arguments.own_broker {
        config.gateway.uplink.broker = agent::own(own);
    }

    let term = Term::stdout();
    let live = term.is_term() && !arguments.plain && !arguments.json;
    let log = Log::start(live)?;

    let uplink = &config.gateway.uplink.broker;
    let embedded = (uplink.host.as_str(), uplink.port) == (own.ip().to_string().as_str(), own.port());
    let _broker = embedded.then(|| Broker::start_at(own)).transpose()?;
    // A `porin up` that was killed leaves its own behind.
    let _ = fs::remove_file(&places.broker);
    let _address = embedded.then(|| Note::write(&places.broker, &address)).transpose()?;
    let whose = if embedded { ", its own" } else { "" };
    eprintln!("porin up: gateway `{}`, broker {}:{}{whose}", config.gateway.id, uplink.host, uplink.port);
    eprintln!("look at what it sends: mosquitto_sub -V 5 -h {} -p {} -v -t 'porin/#'", uplink.host, uplink.port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let last = runtime.block_on(watched(config, arguments, live.then_some(term), log))?;
    let text = if arguments.json { serde_json::to_string(&last)? + "\n" } else { table::summary(&last) };
    crate::output::stdout().write_all(text.as_bytes())?;
    match table::problems(&last) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(Failure { exit: Exit::Failed, message: problems.join("\n  "), hint: None }.into()),
    }
}

/// A file that lasts as long as this.
struct Note(PathBuf);

impl Note {
    fn write(path: &Path, text: &str) -> anyhow::Result<Self> {
        let written = fs::create_dir_all(path.parent().unwrap_or(path)).and_then(|()| fs::write(path, text));
        written.with_context(|| format!("writing {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // A later `porin up` writes it again.
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs the agent on a thread of its own and shows it until it ends. Gives its last status.
async fn watched(config: Config, arguments: &Arguments, term: Option<Term>, log: Log) -> anyhow::Result<Snapshot> {
    let socket = config.gateway.socket.clone();
    let until = if arguments.until_drained { Until::Drained } else { Until::Stopped };
    let (stop, stopped) = watch::channel(false);
    let (ended, mut has_ended) = watch::channel(false);
    let agent = std::thread::Builder::new().name("agent".into()).spawn(move || {
        // Told however the thread ends: the sender is dropped with it.
        let _ended = ended;
        porind::run(config, until, stopped, mpsc::channel(1).1, || {})
    })?;
    let mut table = Table::new(term, log);
    let mut clock = tokio::time::interval(if table.is_live() { REDRAW } else { LINE });
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The terminal was closed.
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut asked, mut follows) = (0, false);
    loop {
        tokio::select! {
            _ = has_ended.changed() => break,
            _ = clock.tick() => {
                // Not there yet, or not any more: the next look tells.
                if let Some(status) = snapshot(&socket) {
                    if table.is_live() && !follows {
                        table.follow(Values::follow(socket.clone())?);
                        follows = true;
                    }
                    table.show(&status)?;
                }
            }
            _ = async { tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} } } => {
                asked += 1;
                if asked > 1 {
                    table.end()?;
                    Exit::Interrupted.now();
                }
                table.say("stopping: sending what waits and making the rest durable; ctrl-C again ends at once")?;
                stop.send_replace(true);
            }
        }
    }
    table.end()?;
    agent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
