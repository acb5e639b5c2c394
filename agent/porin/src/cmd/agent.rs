//! The agent on this computer: `porin status`, `check`, `doctor`, `dead`. The answers are those of `porind`.
//!
//! It is the agent of `porin up` in this folder or one above, else that of `/etc/porin/porin.toml`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use porin_core::{
    config::{Broker, Config, Defaults},
    status::Snapshot,
};
use porind::command;

use super::up::Places;
use crate::{
    failure::{Exit, Failure},
    output,
};

/// The status of the agent at a socket. `None`: none answers.
pub(crate) fn snapshot(socket: &str) -> Option<Snapshot> {
    serde_json::from_str(&porind::ask_status(socket).ok()?).ok()
}

/// The configuration of an agent that runs as a service.
const OF_THE_SERVICE: &str = "/etc/porin/porin.toml";

/// What a configuration without a broker has while no agent of `porin up` runs.
const NO_BROKER: &str = "mqtt://127.0.0.1:1883";

#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Configuration of the agent [default: porin.toml of `porin up` in this folder or above, else /etc/porin/porin.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    #[command(flatten)]
    ask: Ask,
    /// Compare with a board: its name, or a file
    #[arg(long, value_name = "NAME")]
    board: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dead {
    /// list (default), `replay ID...` or `discard ID...`
    words: Vec<String>,
    /// All of them instead of numbers
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    ask: Ask,
}

impl Which {
    /// Returns the configuration's path, and the configuration with what `porin up` adds to it.
    pub(crate) fn read(&self) -> anyhow::Result<(PathBuf, Config)> {
        let path = self.config.clone().map_or_else(found, Ok)?;
        let place = path.display();
        let places = Places::beside(&path);
        // `porin up` has used this configuration; the package's agent has its places in /var and /run.
        let is_up = places.folder.is_dir();
        let own_broker = fs::read_to_string(&places.broker).ok();
        let defaults = Defaults {
            broker: Some(own_broker.as_deref().unwrap_or(NO_BROKER)),
            path: is_up.then_some(&places.path),
            socket: is_up.then_some(&places.socket),
        };
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {place}"));
        let text = text.map_err(bad_config)?;
        let mut config =
            Config::parse_with(&text, defaults).map_err(|error| bad_config(anyhow!("{place}: {error}")))?;
        if let Some(address) = own_broker.and_then(|url| url.strip_prefix("mqtt://").and_then(|rest| rest.parse().ok()))
        {
            config.gateway.uplink.broker = own(address);
        }
        Ok((path, config))
    }
}

/// The embedded broker of `porin up` as an uplink.
pub(super) fn own(address: std::net::SocketAddr) -> Broker {
    Broker { host: address.ip().to_string(), port: address.port(), tls: None, login: None }
}

pub(super) fn bad_config(error: anyhow::Error) -> Failure {
    failure(command::Failure::Config(error))
}

/// The configuration here, or above where an agent of `porin up` was; else that of the service.
fn found() -> anyhow::Result<PathBuf> {
    let here = env::current_dir().context("this folder")?;
    let is_one =
        |folder: &&Path| folder.join("porin.toml").is_file() && (*folder == here || folder.join(".porin").is_dir());
    if let Some(folder) = here.ancestors().find(is_one) {
        return Ok(folder.join("porin.toml"));
    }
    let service = PathBuf::from(OF_THE_SERVICE);
    if service.exists() {
        return Ok(service);
    }
    let message = format!("there is no porin.toml here, and no {OF_THE_SERVICE}");
    Err(Failure { exit: Exit::Config, message, hint: Some("`porin init` writes one; -c FILE names another".into()) }
        .into())
}

pub(crate) fn status(ask: &Ask) -> anyhow::Result<()> {
    let (_, config) = ask.which.read()?;
    answer(command::status(&config.gateway.socket, ask.json))
}

pub(crate) fn check(arguments: &Check) -> anyhow::Result<()> {
    let (path, config) = arguments.ask.which.read()?;
    answer(command::check(&config, &path.display().to_string(), arguments.board.as_deref(), arguments.ask.json))
}

pub(crate) fn doctor(ask: &Ask) -> anyhow::Result<()> {
    let (_, config) = ask.which.read()?;
    let (text, outcome) = command::doctor(&config, ask.json).map_err(failure)?;
    output::print(&text)?;
    outcome.map_err(|error| failure(error).into())
}

pub(crate) fn dead(arguments: &Dead) -> anyhow::Result<()> {
    let Dead { words, all, ask } = arguments;
    let (_, config) = ask.which.read()?;
    answer(command::dead(&config.gateway.socket, words, *all, ask.json))
}

fn answer(answer: Result<String, command::Failure>) -> anyhow::Result<()> {
    output::print(&answer.map_err(failure)?)
}

fn failure(failure: command::Failure) -> Failure {
    Failure { exit: failure.exit(), message: failure.to_string(), hint: failure.hint("porin") }
}
