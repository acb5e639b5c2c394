//! The command line: one variant per command, one file per command under `cmd/`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::cmd;

/// Write, build and try cells; run a gateway here and look at what it sends.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work on cells
    #[command(subcommand)]
    Cell(CellCommand),
    /// Show the main job: recorded data, two cells, a broker, and what it saves
    Demo(cmd::demo::Arguments),
    /// Show what a gateway published: a payload from standard input as JSON lines
    Decode(cmd::decode::Arguments),
    /// Run the agent here, with a broker of its own if none is named, and watch it
    Up(cmd::up::Arguments),
    /// Publish many gateways' worth of packets, and check what arrives
    #[command(subcommand)]
    Load(cmd::load::Command),
    /// Who may push cells: make keys, show them, exchange one
    #[command(subcommand)]
    Keys(cmd::keys::Command),
    /// Sign a cell
    Release(cmd::release::Arguments),
    /// Put a cell into a slot of a gateway that runs, and see how it does
    Push(cmd::push::Arguments),
    /// Go back to what ran before
    Rollback(cmd::rollback::Arguments),
    /// Fetch what a gateway has recorded of a route
    Record(cmd::record::Arguments),
    /// Show the gateways of a broker, and what they run
    Ls(cmd::ls::Arguments),
    /// Show what gateways say has happened
    Events(cmd::events::Arguments),
    /// Show what gateways are to run, compare it with what they run, or say it
    #[command(subcommand)]
    Desired(cmd::desired::Command),
    /// Take what nobody names any more off the broker
    Prune(cmd::prune::Arguments),
    /// Write the appliance image to a card, or prepare the card of a stock system
    Flash(cmd::flash::Arguments),
    /// Show packets as they pass through a running agent, before and after
    Tap(cmd::tap::Arguments),
    /// An MQTT broker for demos and tests, on loopback
    #[command(hide = true)]
    Broker {
        /// TCP port
        #[arg(long)]
        port: u16,
        /// End when standard input is closed
        #[arg(long)]
        while_stdin: bool,
    },
    /// Messages for each second of the filter's processor time, through a real broker (for porin's own developers)
    #[command(hide = true, name = "bench-e2e")]
    BenchE2e(cmd::bench_e2e::Arguments),
    /// Measure bytes for each reading, by data set, encoding, batch and cell (for porin's own developers)
    #[command(hide = true)]
    Reduction(cmd::reduction::Arguments),
    /// Make the files that are derived from `wit/` (for porin's own developers)
    #[command(hide = true)]
    Wit {
        /// Compare with what is there instead of writing; exit 1 if they differ
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, Subcommand)]
enum CellCommand {
    /// Compile a cell to a component of at most 51,200 bytes
    Build {
        /// Folders of the cells' packages
        #[arg(required = true)]
        packages: Vec<PathBuf>,
        /// Where `<name>.wasm` goes [default: `cells` in cargo's target folder]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Call a component of the world `processing-unit` once, on wasmi or on Wasmtime
    Call(cmd::cell_call::Arguments),
}

pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Cell(CellCommand::Build { packages, out }) => cmd::cell_build::run(&packages, out.as_deref()),
        Command::Cell(CellCommand::Call(arguments)) => cmd::cell_call::run(&arguments),
        Command::Demo(arguments) => cmd::demo::run(&arguments),
        Command::Decode(arguments) => cmd::decode::run(&arguments),
        Command::Tap(arguments) => cmd::tap::run(&arguments),
        Command::Up(arguments) => cmd::up::run(&arguments),
        Command::Keys(command) => cmd::keys::run(&command),
        Command::Push(arguments) => cmd::push::run(&arguments),
        Command::Rollback(arguments) => cmd::rollback::run(&arguments),
        Command::Record(arguments) => cmd::record::run(&arguments),
        Command::Ls(arguments) => cmd::ls::run(&arguments),
        Command::Events(arguments) => cmd::events::run(&arguments),
        Command::Desired(command) => cmd::desired::run(&command),
        Command::Flash(arguments) => cmd::flash::run(&arguments),
        Command::Prune(arguments) => cmd::prune::run(&arguments),
        Command::Release(arguments) => cmd::release::run(&arguments),
        Command::Load(command) => cmd::load::run(&command),
        Command::Reduction(arguments) => cmd::reduction::run(&arguments),
        Command::BenchE2e(arguments) => cmd::bench_e2e::run(&arguments),
        Command::Broker { port, while_stdin } => cmd::broker::run(port, while_stdin),
        Command::Wit { check } => cmd::wit::run(check),
    }
}
