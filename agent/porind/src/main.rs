//! `porind`: the gateway program.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use lexopt::{Arg, Parser, ValueExt};
use porin_core::config::{Config, Policy};
use porind::{
    Until,
    command::{self, Exit, Failure, HELP},
};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

const DEFAULT_CONFIG: &str = "/etc/porin/porin.toml";

/// The cell that `selftest` times.
const TIMED_CELL: &str = "/usr/lib/porin/cells/deadband.wasm";

const DEFAULT_POLICY: &str = "/etc/porin/policy.toml";

#[derive(Clone, Copy, PartialEq)]
enum Command {
    Run,
    Check,
    Status,
    Doctor,
    Dead,
    Boards,
    Selftest,
}

struct Arguments {
    command: Command,
    /// What follows `dead`, `boards` or `selftest`.
    words: Vec<String>,
    all: bool,
    config: String,
    policy: Option<String>,
    board: Option<String>,
    until: Until,
    json: bool,
}

fn main() -> ExitCode {
    let Err(failure) = arguments().and_then(|arguments| arguments.map_or(Ok(()), execute)) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {failure}");
    if let Some(hint) = failure.hint("porind") {
        eprintln!("hint: {hint}");
    }
    failure.exit().into()
}

/// `None`: help or the version was asked for and printed.
fn arguments() -> Result<Option<Arguments>, Failure> {
    let mut command = None;
    let mut arguments = Arguments {
        command: Command::Run,
        words: Vec::new(),
        all: false,
        config: DEFAULT_CONFIG.into(),
        policy: std::env::var("PORIN_POLICY").ok(),
        board: None,
        until: Until::Stopped,
        json: false,
    };
    let mut parser = Parser::from_env();
    let usage = |error: lexopt::Error| Failure::Usage(error.to_string());
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return print(HELP).map(|()| None),
            Arg::Short('V') | Arg::Long("version") => {
                return print(concat!("porind ", env!("CARGO_PKG_VERSION"), "\n")).map(|()| None);
            }
            Arg::Short('c') | Arg::Long("config") => {
                arguments.config = parser.value().and_then(|value| value.string()).map_err(usage)?;
            }
            Arg::Long("policy") => {
                arguments.policy = Some(parser.value().and_then(|value| value.string()).map_err(usage)?);
            }
            Arg::Long("board") => {
                arguments.board = Some(parser.value().and_then(|value| value.string()).map_err(usage)?);
            }
            Arg::Long("all") if command == Some(Command::Dead) => arguments.all = true,
            Arg::Value(value) if matches!(command, Some(Command::Dead | Command::Boards | Command::Selftest)) => {
                arguments.words.push(value.to_string_lossy().into_owned());
            }
            Arg::Long("until-drained") => arguments.until = Until::Drained,
            Arg::Long("json") => arguments.json = true,
            Arg::Value(value) if command.is_none() => {
                command = Some(match value.to_string_lossy().as_ref() {
                    "run" => Command::Run,
                    "check" => Command::Check,
                    "status" => Command::Status,
                    "doctor" => Command::Doctor,
                    "dead" => Command::Dead,
                    "boards" => Command::Boards,
                    "selftest" => Command::Selftest,
                    other => return Err(Failure::Usage(format!("there is no command `{other}`"))),
                });
            }
            other @ (Arg::Short(_) | Arg::Long(_) | Arg::Value(_)) => return Err(usage(other.unexpected())),
        }
    }
    let Some(command) = command else { return Err(Failure::Usage("a command is missing".into())) };
    if arguments.until == Until::Drained && command != Command::Run {
        return Err(Failure::Usage("--until-drained goes with run".into()));
    }
    if arguments.board.is_some() && command != Command::Check {
        return Err(Failure::Usage("--board goes with check".into()));
    }
    Ok(Some(Arguments { command, ..arguments }))
}

fn execute(arguments: Arguments) -> Result<(), Failure> {
    let path = &arguments.config;
    let files = Files { config: path.clone(), policy: arguments.policy.clone() };
    let whole = || files.read().map_err(Failure::Config);
    // Who only asks need not be able to read what is for root.
    let without_policy = || files.config().map_err(Failure::Config);
    match arguments.command {
        Command::Run => run(whole()?, files, arguments.until, arguments.json),
        Command::Check => print(&command::check(&whole()?, path, arguments.board.as_deref(), arguments.json)?),
        Command::Status => print(&command::status(&without_policy()?.gateway.socket, arguments.json)?),
        Command::Doctor => {
            let (text, outcome) = command::doctor(&whole()?, arguments.json)?;
            print(&text).and(outcome)
        }
        Command::Dead => {
            let Arguments { words, all, json, .. } = &arguments;
            print(&command::dead(&without_policy()?.gateway.socket, words, *all, *json)?)
        }
        Command::Boards => boards(&arguments),
        Command::Selftest => selftest(&arguments.words),
    }
}

/// Writes what this machine is, and how fast, into a file, or prints it.
fn selftest(words: &[String]) -> Result<(), Failure> {
    let file = match words {
        [] => None,
        [file] => Some(Path::new(file)),
        _ => return Err(Failure::Usage("selftest: at most one file".into())),
    };
    let folder = file.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cell = std::env::var("PORIN_CELL").unwrap_or_else(|_| TIMED_CELL.into());
    let found = porind::selftest(&cell, folder).map_err(Failure::Failed)?;
    let text = format!("{found:#}\n");
    let Some(file) = file else { return print(&text) };
    fs::write(file, text).with_context(|| format!("writing {}", file.display())).map_err(Failure::Failed)?;
    print(&format!("wrote {}; it has no configuration, key, host name or address\n", file.display()))
}

/// The files that say what the agent is to do; read again on SIGHUP.
struct Files {
    config: String,
    policy: Option<String>,
}

impl Files {
    fn config(&self) -> anyhow::Result<Config> {
        let path = &self.config;
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        Config::parse(&text).map_err(|error| anyhow::anyhow!("{path}: {error}"))
    }

    /// The configuration with its policy.
    fn read(&self) -> anyhow::Result<Config> {
        let policy = match &self.policy {
            Some(path) => porind::read_policy(path)?,
            None => match Path::new(DEFAULT_POLICY).symlink_metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Policy::default(),
                // Whatever keeps it from being read, it is not taken for allowing everything.
                Ok(_) | Err(_) => porind::read_policy(DEFAULT_POLICY)?,
            },
        };
        Ok(Config { policy, ..self.config()? })
    }
}

fn run(config: Config, files: Files, until: Until, json: bool) -> Result<(), Failure> {
    log_to_stderr()?;
    // A cell that is wrong is a configuration that is wrong; it is found before the store is touched.
    porind::check(&config).map_err(Failure::Config)?;
    let (stop, stopped) = watch::channel(false);
    let (reload, reloads) = mpsc::channel(1);
    listen_for_signals(stop, reload, files).map_err(Failure::Failed)?;
    let last = porind::run(config, until, stopped, reloads, || tracing::info!("ready")).map_err(Failure::Failed)?;
    if json {
        let text = serde_json::to_string(&last).map_err(|error| Failure::Failed(error.into()))?;
        print(&format!("{text}\n"))?;
    }
    Ok(())
}

fn boards(arguments: &Arguments) -> Result<(), Failure> {
    let boards = porind::boards().map_err(Failure::Failed)?;
    let this = || boards.iter().filter(|(_, is_this)| *is_this).map(|(board, _)| board.name.as_str());
    let words = arguments.words.iter().map(String::as_str).collect::<Vec<_>>();
    match words[..] {
        [] if arguments.json => {
            let list = boards.iter().map(|(board, is_this)| {
                serde_json::json!({ "name": board.name, "title": board.title, "target": board.target, "this": is_this })
            });
            print(&format!("{}\n", serde_json::Value::from(list.collect::<Vec<_>>())))
        }
        [] => {
            let line = |(board, is_this): &(porin_core::config::Board, bool)| {
                format!("{:<18} {}{}\n", board.name, board.title, if *is_this { " (this one)" } else { "" })
            };
            print(&boards.iter().map(line).collect::<String>())
        }
        ["detect"] => {
            let compatible = porind::compatible();
            let board = this().next();
            if arguments.json {
                return print(&format!("{}\n", serde_json::json!({ "board": board, "compatible": compatible })));
            }
            match (board, compatible.first()) {
                (Some(board), _) => print(&format!("{board}\n")),
                (None, Some(name)) => Err(Failure::Failed(anyhow::anyhow!(
                    "no board is known that is a {name}; generic-{} says nothing of its buses",
                    std::env::consts::ARCH.replace("arm", "armv7")
                ))),
                (None, None) => {
                    Err(Failure::Failed(anyhow::anyhow!("this machine has no device tree, so the board is unknown")))
                }
            }
        }
        [other, ..] => Err(Failure::Usage(format!("boards: there is no `{other}`; known is detect"))),
    }
}

/// SIGINT and SIGTERM stop the agent; a second one ends the process as if we did not listen. SIGHUP reads the configuration again.
fn listen_for_signals(stop: watch::Sender<bool>, reload: mpsc::Sender<Config>, files: Files) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
            else {
                eprintln!("warning: signals cannot be listened for; the agent ends by SIGKILL only");
                return std::future::pending().await;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => break,
                    _ = terminate.recv() => break,
                    _ = hangup.recv() => match files.read() {
                        // The loop says what becomes of it.
                        Ok(config) => {
                            if reload.try_send(config).is_err() {
                                tracing::error!("the last configuration is still waiting; send SIGHUP again later");
                            }
                        }
                        Err(error) => {
                            tracing::error!(error = format!("{error:#}"), "the new configuration is refused; the old one runs on");
                        }
                    },
                }
            }
            stop.send_replace(true);
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            Exit::Interrupted.now();
        });
    })?;
    Ok(())
}

fn log_to_stderr() -> Result<(), Failure> {
    let level = porind::log_level().map_err(Failure::Usage)?.unwrap_or(tracing::Level::INFO);
    // rumqttc and redb say at `debug` what we say better.
    let filter = Targets::new().with_target("porind", level).with_default(tracing::Level::WARN);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    Ok(())
}

/// stdout is data. Whoever closed it does not want the rest.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Failed(error.into())),
        _ => Ok(()),
    }
}
