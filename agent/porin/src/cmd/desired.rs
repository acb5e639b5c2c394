//! `porin desired`: what gateways are to run: shown, compared with what they run, or given from a file.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Context;
use porin_core::{config::wanted, trust::Target};
use serde_json::json;

use super::push::Operator;
use crate::{
    cloud::{BrokerArguments, Cloud},
    failure::{Exit, Failure},
    fleet::{self, NewKey},
    keys::KeyFolder,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the desired state of a gateway or a group
    Show(Show),
    /// Compare it with what the gateways report; exit code 3 if it differs
    Diff(Show),
    /// Sign and publish routes and slots from a file for a gateway or a group
    Apply(Apply),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// A gateway's id, or group:NAME
    #[arg(value_name = "GW", value_parser = fleet::target)]
    of: Target,
    #[command(flatten)]
    broker: BrokerArguments,
    /// Folder with the roots [default: `porin/keys` in the folder of the user's configuration]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Apply {
    /// TOML: routes, slots with `cell = "release:<digest>"` or `cell = "local"`, probation
    file: PathBuf,
    /// A gateway's id, or group:NAME
    #[arg(long, value_name = "GW", value_parser = fleet::target)]
    to: Target,
    #[command(flatten)]
    operator: Operator,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Show(arguments) => show(arguments),
        Command::Diff(arguments) => diff(arguments),
        Command::Apply(arguments) => apply(arguments),
    }
}

fn show(arguments: &Show) -> anyhow::Result<()> {
    let keys = KeyFolder::at(arguments.keys.as_deref())?;
    let mut cloud = Cloud::connect(&arguments.broker)?;
    let mut stdout = crate::output::stdout();
    let Some(desired) = fleet::current(&mut cloud, &keys, &arguments.of)? else {
        return none(&arguments.of);
    };
    if arguments.json {
        let (issued, expires) = (desired.issued.0, desired.expires.0);
        let said = json!({
            "target": fleet::name(&desired.target), "seq": desired.seq, "issued_us": issued, "expires_us": expires, "set": desired.set,
        });
        writeln!(stdout, "{said}")?;
    } else {
        writeln!(stdout, "# desired state {} for {}", desired.seq, fleet::name(&desired.target))?;
        write!(stdout, "{}", desired.set)?;
    }
    Ok(())
}

fn none(of: &Target) -> anyhow::Result<()> {
    Err(Failure {
        exit: Exit::Failed,
        message: format!("there is no desired state for {}", fleet::name(of)),
        hint: None,
    }
    .into())
}

fn diff(arguments: &Show) -> anyhow::Result<()> {
    let keys = KeyFolder::at(arguments.keys.as_deref())?;
    let mut cloud = Cloud::connect(&arguments.broker)?;
    let members = fleet::members(&mut cloud, &keys, &arguments.of, NewKey::Refused)?;
    let Some(desired) = fleet::current(&mut cloud, &keys, &arguments.of)? else {
        return none(&arguments.of);
    };
    if desired.set.is_empty() {
        let message =
            format!("{} has none of its own that says anything: it goes by its group's", fleet::name(&arguments.of));
        return Err(Failure { exit: Exit::Failed, message, hint: Some("porin desired diff group:NAME".into()) }.into());
    }
    let mut stdout = crate::output::stdout();
    let mut differs = false;
    for (gateway, account) in &members {
        let same = fleet::is_same(&desired.set, &account.set);
        differs |= !same;
        if arguments.json {
            writeln!(
                stdout,
                "{}",
                json!({ "gateway": gateway, "same": same, "state": account.state.name(), "reason": account.reason })
            )?;
            continue;
        }
        let why = account.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        writeln!(stdout, "{gateway}: {}{why}", if same { "runs it" } else { account.state.name() })?;
        if !same {
            lines(&account.set, &desired.set).iter().try_for_each(|line| writeln!(stdout, "  {line}"))?;
        }
    }
    if differs {
        let message = format!("what runs is not what desired state {} says", desired.seq);
        return Err(Failure { exit: Exit::Differs, message, hint: None }.into());
    }
    Ok(())
}

/// Lines of one text that the other has not, `-` for what runs and `+` for what is to run.
fn lines(runs: &str, wanted: &str) -> Vec<String> {
    let only = |text: &str, other: &str, sign| {
        let other: Vec<_> = other.lines().collect();
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !other.contains(line));
        lines.map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    [only(runs, wanted, '-'), only(wanted, runs, '+')].concat()
}

fn apply(arguments: &Apply) -> anyhow::Result<()> {
    let Apply { file, to, operator } = arguments;
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    // The rest is checked by the gateways: only they know their sources and policies.
    wanted(&text).map_err(|error| Failure {
        exit: Exit::Usage,
        message: format!("{}: {error}", file.display()),
        hint: Some("[routes] and [slots] as in docs/updates.md, with releases or `local`".into()),
    })?;
    let keys = KeyFolder::at(operator.keys.as_deref())?;
    let mut cloud = Cloud::connect(&operator.broker)?;
    let members = fleet::members(&mut cloud, &keys, to, operator.new_key())?;
    fleet::is_there(&mut cloud, &text)?;
    let order = fleet::order(&mut cloud, &keys, to, &members, |_| Ok(text))?;
    order.publish(&mut cloud, &keys)?;
    let outcomes = fleet::follow(&mut cloud, &keys, &order.desired, &members, operator.patience())?;
    fleet::conclude(&order.desired, &outcomes, &[], operator.json)
}
