//! `porin load`: many gateways' worth of packets to any broker, and the books on what arrives.

mod check;
mod ledger;
mod send;

use anyhow::bail;
use porin_core::config;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Publish as so many gateways would, or as the sensors of one
    Send(send::Arguments),
    /// Subscribe, and check by (gateway, epoch, seq): nothing missing, twice, or out of order
    Check(check::Arguments),
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        Command::Send(arguments) => runtime.block_on(send::run(arguments)),
        Command::Check(arguments) => runtime.block_on(check::run(arguments)),
    }
}

/// Host and port of `mqtt://HOST` or `mqtt://HOST:PORT`.
fn address(broker: &str) -> anyhow::Result<(String, u16)> {
    match config::address(broker) {
        Ok((false, host, port)) => Ok((host, port)),
        Ok((true, ..)) => bail!("broker `{broker}`: `porin load` speaks plain mqtt:// only"),
        Err(error) => bail!("broker `{broker}`: {error}"),
    }
}

/// A part of a client id that nobody else has.
fn unique() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:x}", std::process::id(), now.as_nanos())
}
