//! The command line: one variant per command, one file per command under `cmd/`.

use std::path::PathBuf;

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use crate::cmd;

/// Filter sensor streams with WebAssembly cells, here and on your gateways.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(help_template = "{about}\n\n{usage-heading} {usage}{after-help}\n{options}")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The visible commands by topic, in the order of the help.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Start", &["demo", "init", "up"]),
    ("Look at the agent on this computer", &["status", "tap", "check", "doctor", "dead"]),
    ("Write a cell", &["cell", "decode", "record"]),
    ("Set up", &["flash", "keys", "completions"]),
    ("Run gateways", &["ls", "events", "release", "push", "rollback", "desired", "prune"]),
    ("Test a broker", &["load"]),
];

#[derive(Debug, Subcommand)]
enum Command {
    /// Build, check and call cells
    #[command(subcommand)]
    Cell(CellCommand),
    /// Run the main job on recorded data and print what it saves
    Demo(cmd::demo::Arguments),
    /// Print a published payload (standard input) as JSON lines
    Decode(cmd::decode::Arguments),
    /// Listen to a source and write a configuration for it
    Init(cmd::init::Arguments),
    /// Run the agent here and watch it; starts a broker if needed
    Up(cmd::up::Arguments),
    /// Publish as many gateways would, and check what arrives
    #[command(subcommand)]
    Load(cmd::load::Command),
    /// Make, show and rotate the keys that sign cells
    #[command(subcommand)]
    Keys(cmd::keys::Command),
    /// Sign a cell as a release
    Release(cmd::release::Arguments),
    /// Put a cell into a slot of running gateways, and follow the update
    Push(cmd::push::Arguments),
    /// Return to the previous desired state
    Rollback(cmd::rollback::Arguments),
    /// Fetch the recorded input of a route from a gateway
    Record(cmd::record::Arguments),
    /// List the gateways of a broker and what they run
    Ls(cmd::ls::Arguments),
    /// Print the events that gateways publish
    Events(cmd::events::Arguments),
    /// Show, compare or apply the desired state of gateways
    #[command(subcommand)]
    Desired(cmd::desired::Command),
    /// Delete unreferenced releases from the broker
    Prune(cmd::prune::Arguments),
    /// Write the appliance image to a card, or prepare a stock card
    Flash(cmd::flash::Arguments),
    /// Print packets of a running agent before and after its cells
    Tap(cmd::tap::Arguments),
    /// Show what a running agent does
    Status(cmd::agent::Ask),
    /// Check a configuration and its cells without starting
    Check(cmd::agent::Check),
    /// Find out why no data arrives
    Doctor(cmd::agent::Ask),
    /// List, replay or discard packets on which cells failed
    Dead(cmd::agent::Dead),
    /// Print completions for bash, zsh or fish
    Completions(cmd::completions::Arguments),
    /// Write completions and manual pages for a package
    #[command(hide = true, name = "package-files")]
    PackageFiles { folder: PathBuf },
    /// Run an MQTT broker for demos and tests on loopback
    #[command(hide = true)]
    Broker {
        /// TCP port
        #[arg(long)]
        port: u16,
        /// End when standard input is closed
        #[arg(long)]
        while_stdin: bool,
    },
    /// Measure messages per second of processor time through a real broker
    #[command(hide = true, name = "bench-e2e")]
    BenchE2e(cmd::bench_e2e::Arguments),
    /// Measure bytes per reading by data set, encoding, batch and cell
    #[command(hide = true)]
    Reduction(cmd::reduction::Arguments),
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

/// Reads the command line. Ends the program after help, the version or an error of usage.
pub(crate) fn parse() -> Cli {
    let command = Cli::command().after_help(grouped(&Cli::command()));
    let matches = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    matches.unwrap_or_else(|error| without_hidden(error).exit())
}

/// The commands with their summaries, by topic.
fn grouped(command: &clap::Command) -> String {
    let line = |name: &&str| {
        let about = command.find_subcommand(name).and_then(clap::Command::get_about).map(ToString::to_string);
        format!("  {name:<12}{}\n", about.unwrap_or_default())
    };
    let group = |(topic, names): &(&str, &[&str])| format!("{topic}:\n{}", names.iter().map(line).collect::<String>());
    GROUPS.iter().map(group).collect::<String>()
}

/// Takes hidden commands out of "did you mean".
fn without_hidden(mut error: clap::Error) -> clap::Error {
    let is_visible = |name: &String| GROUPS.iter().any(|(_, names)| names.contains(&name.as_str()));
    if let Some(ContextValue::Strings(names)) = error.remove(ContextKind::SuggestedSubcommand) {
        let names: Vec<_> = names.into_iter().filter(is_visible).collect();
        if !names.is_empty() {
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(names));
        }
    }
    error
}

pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Cell(CellCommand::Build { packages, out }) => cmd::cell_build::run(&packages, out.as_deref()),
        Command::Cell(CellCommand::Call(arguments)) => cmd::cell_call::run(&arguments),
        Command::Demo(arguments) => cmd::demo::run(&arguments),
        Command::Decode(arguments) => cmd::decode::run(&arguments),
        Command::Tap(arguments) => cmd::tap::run(&arguments),
        Command::Status(ask) => cmd::agent::status(&ask),
        Command::Check(arguments) => cmd::agent::check(&arguments),
        Command::Doctor(ask) => cmd::agent::doctor(&ask),
        Command::Dead(arguments) => cmd::agent::dead(&arguments),
        Command::Init(arguments) => cmd::init::run(&arguments),
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
        Command::Completions(arguments) => cmd::completions::run(&arguments, Cli::command()),
        Command::PackageFiles { folder } => cmd::completions::package_files(&folder, Cli::command()),
        Command::Broker { port, while_stdin } => cmd::broker::run(port, while_stdin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_fits_a_screen_and_has_every_visible_command_once() {
        let command = Cli::command();
        let visible = command.get_subcommands().filter(|command| !command.is_hide_set()).map(clap::Command::get_name);
        let mut listed: Vec<_> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        listed.sort_unstable();
        let mut visible: Vec<_> = visible.collect();
        visible.sort_unstable();
        assert_eq!(listed, visible);
        let help = Cli::command().after_help(grouped(&command)).render_help().to_string();
        assert!(help.lines().count() <= 39 && help.lines().all(|line| line.len() <= 80), "{help}");
    }

    #[test]
    fn hidden_commands_are_not_suggested() {
        for (typed, suggested) in [("broke", None), ("package-file", None), ("pus", Some("'push'"))] {
            let error = Cli::command().try_get_matches_from(["porin", typed]).expect_err("there is no such command");
            let text = without_hidden(error).to_string();
            assert_eq!(text.contains("similar"), suggested.is_some(), "{text}");
            assert!(suggested.is_none_or(|name| text.contains(name)), "{text}");
        }
    }
}
