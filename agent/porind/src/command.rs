//! What `porind` answers about an agent: `check`, `status`, `doctor`, `dead`. `porin` gives the same answers.

use std::{
    fmt::{self, Write as _},
    process::ExitCode,
};

use porin_core::config::Config;

use crate::{Finding, Verdict, report::report_dead, status};

/// The help of `porind`. `porin` makes the completions of shells from its commands and options.
pub const HELP: &str = "\
porind, the gateway program of porin

Usage: porind COMMAND [OPTIONS]

Commands:
  run      read sources, let cells decide, send what they keep
  check    check the configuration and its cells without starting
  status   show what a running agent does
  doctor   find out why no data arrives
  boards   list known boards; `boards detect` names this one
  dead     list packets on which cells failed; `dead replay ID...` gives them to their slots again,
           `dead discard ID...` deletes them, `--all` means all of them
  selftest print what this machine is and how fast; `selftest FILE` writes it into a file that you can send to porin

Options:
  -c, --config FILE   the configuration [default: /etc/porin/porin.toml]
      --policy FILE   upper bounds of grants and limits [default: /etc/porin/policy.toml, if it exists]
      --board NAME    check: compare with a board of /usr/share/porin/boards, or a file
      --until-drained run: stop when every source has ended and the broker has everything
      --json          check, status, doctor, dead, boards: print JSON; run: print the last status as JSON at the end
  -h, --help          print this
  -V, --version       print the version

Environment:
  PORIN_POLICY        instead of --policy
  PORIN_BOARDS        the folder with board files [default: /usr/share/porin/boards]
  PORIN_CELL          selftest: the deadband to time [default: /usr/lib/porin/cells/deadband.wasm]
  PORIN_LOG           log level: error, warn, info, debug, trace [default: info]
  NO_COLOR            no colours in the log

Signals: SIGTERM and SIGINT end `run`: it sends what waits and makes the rest durable, within some seconds.
SIGHUP makes it read its configuration again.

Exit codes: 0 success, 1 failed, 2 usage, 4 no agent answers, 5 refused, 78 bad configuration,
130 ended by a second signal
";

/// How a command of `porin` or `porind` ends if it does not succeed. `docs/cli.md` describes each code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything without a code of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A comparison found a difference.
    Differs = 3,
    /// No agent or gateway answers.
    Unreachable = 4,
    /// Too large, not signed, not granted, rolled back.
    Refused = 5,
    /// The configuration is wrong; nothing was started.
    Config = 78,
    /// Asked twice to end, it did not wait for what is being sent.
    Interrupted = 130,
}

impl Exit {
    /// Ends this process at once.
    pub fn now(self) -> ! {
        std::process::exit(self as i32)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Anything without an exit code of its own.
    Failed(anyhow::Error),
    /// The command line is wrong.
    Usage(String),
    /// No agent answers.
    Unreachable(anyhow::Error),
    /// The agent refuses.
    Refused(String),
    /// The configuration is wrong; nothing was started.
    Config(anyhow::Error),
}

impl Failure {
    /// Returns how the command ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Failed(_) => Exit::Failed,
            Self::Usage(_) => Exit::Usage,
            Self::Unreachable(_) => Exit::Unreachable,
            Self::Refused(_) => Exit::Refused,
            Self::Config(_) => Exit::Config,
        }
    }

    /// Returns one action that may help, for a command of this program.
    #[must_use]
    pub fn hint(&self, program: &str) -> Option<String> {
        match self {
            Self::Failed(_) => None,
            Self::Usage(_) => Some(format!("{program} --help")),
            Self::Unreachable(_) => Some("does an agent run with the same configuration?".into()),
            Self::Refused(_) => Some(format!("sudo {program} dead ...")),
            Self::Config(_) => Some("docs/config.md describes each key; nothing was started".into()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) | Self::Unreachable(error) | Self::Config(error) => write!(f, "{error:#}"),
            Self::Usage(message) | Self::Refused(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Failure {}

/// Reads a configuration with its cells, tries parameters with made-up streams, and compares it with a board.
///
/// # Errors
/// Something in the configuration is wrong.
pub fn check(config: &Config, path: &str, board: Option<&str>, json: bool) -> Result<String, Failure> {
    let slots = crate::check(config).map_err(Failure::Config)?;
    let warnings = crate::try_made_up(config).map_err(Failure::Config)?;
    let routes = config.cells.routes.len();
    let findings = match board {
        None => Vec::new(),
        Some(name) => {
            let board = crate::read_board(name).map_err(Failure::Config)?;
            board.carries(config).map_err(|why| Failure::Config(anyhow::anyhow!("{path}: {why}")))?;
            crate::check_board(&board, config)
        }
    };
    if json {
        let text = |text: serde_json::Result<String>| text.map_err(|error| Failure::Failed(error.into()));
        let (slots, found) = (text(serde_json::to_string(&slots))?, text(serde_json::to_string(&findings))?);
        let warnings = text(serde_json::to_string(&warnings))?;
        return Ok(format!(
            "{{\"ok\":true,\"routes\":{routes},\"slots\":{slots},\"warnings\":{warnings},\"board\":{found}}}\n"
        ));
    }
    let mut text =
        format!("{path}: {} sources, {routes} routes, {} slots\n", config.gateway.sources.len(), slots.len());
    for slot in slots {
        let _ = writeln!(text, "  {slot}");
    }
    Ok(text + &listed(&warnings) + &listed(&findings))
}

/// Asks a running agent for its status.
///
/// # Errors
/// No agent answers at the socket.
pub fn status(socket: &str, json: bool) -> Result<String, Failure> {
    let text = if json { status::ask(socket).map(|text| text + "\n") } else { status::ask_report(socket) };
    text.map_err(Failure::Unreachable)
}

/// Asks a running agent about its dead letters: `list` (also without words), `replay` or `discard` with numbers or `all`.
///
/// # Errors
/// The words are none of these; no agent answers at the socket; it refuses.
pub fn dead(socket: &str, words: &[String], all: bool, json: bool) -> Result<String, Failure> {
    let (verb, numbers) = words.split_first().map_or(("list", &[][..]), |(verb, numbers)| (verb.as_str(), numbers));
    let question = match (verb, numbers, all) {
        ("list", [], false) => "list".to_owned(),
        ("replay" | "discard", [], true) => format!("{verb} all"),
        ("replay" | "discard", [_, ..], false) => {
            if let Some(other) = numbers.iter().find(|number| number.parse::<u64>().is_err()) {
                return Err(Failure::Usage(format!("`{other}` is not a number of a dead letter")));
            }
            format!("{verb} {}", numbers.join(" "))
        }
        ("list" | "replay" | "discard", ..) => {
            return Err(Failure::Usage(format!("dead {verb}: either numbers or --all, and neither with list")));
        }
        _ => return Err(Failure::Usage(format!("dead: there is no `{verb}`; known is list, replay, discard"))),
    };
    let text = status::ask_dead(socket, &question).map_err(Failure::Unreachable)?;
    let answer: serde_json::Value = serde_json::from_str(&text).map_err(|error| Failure::Failed(error.into()))?;
    if let Some(error) = answer["error"].as_str() {
        return Err(Failure::Refused(error.to_owned()));
    }
    Ok(if json { format!("{text}\n") } else { report_dead(&answer) })
}

/// Looks for reasons why a gateway is silent. Returns the findings as text, and whether there are problems.
///
/// # Errors
/// The findings cannot be written as JSON.
pub fn doctor(config: &Config, json: bool) -> Result<(String, Result<(), Failure>), Failure> {
    let findings = crate::doctor(config);
    let text = if json {
        serde_json::to_string(&findings).map_err(|error| Failure::Failed(error.into()))? + "\n"
    } else {
        listed(&findings)
    };
    let outcome = match findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count() {
        0 => Ok(()),
        wrong => Err(Failure::Failed(anyhow::anyhow!("{wrong} problems found"))),
    };
    Ok((text, outcome))
}

fn listed(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { verdict, what, found, hint } in findings {
        let verdict = match verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Wrong => "WRONG  ",
        };
        let _ = writeln!(text, "{verdict} {what:<11} {found}");
        if !hint.is_empty() {
            let _ = writeln!(text, "        hint: {hint}");
        }
    }
    text
}
