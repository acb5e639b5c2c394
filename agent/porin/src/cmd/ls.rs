//! `porin ls`: the gateways of a broker, what they run, and how they are.

use std::io::Write;

use porin_core::{
    topic::TopicKind,
    trust::{Reported, Verified, reported::ClockWord},
    words::Word,
};
use serde_json::{Value, json};

use crate::{
    cloud::{BrokerArguments, Cloud},
    failure::{Exit, Failure},
    fleet,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this gateway
    gateway: Option<String>,
    #[command(flatten)]
    broker: BrokerArguments,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cloud = Cloud::connect(&arguments.broker)?;
    let whom = arguments.gateway.as_deref();
    let mut retained = cloud.retained(&TopicKind::Reported.filter(whom.as_slice()))?;
    retained.extend(cloud.retained(&TopicKind::State.filter(whom.as_slice()))?);
    let mut stdout = crate::output::stdout();
    let accounts = fleet::accounts(&retained);
    for (gateway, account) in &accounts {
        let online = fleet::presence(&retained, gateway).map_or("unknown", Word::word);
        if arguments.json {
            writeln!(stdout, "{}", as_json(account, online))?;
        } else {
            write!(stdout, "{}", readable(account, online))?;
        }
    }
    if let (true, Some(gateway)) = (accounts.is_empty(), &arguments.gateway) {
        return Err(Failure {
            exit: Exit::Unreachable,
            message: format!("no gateway `{}` has reported itself on this broker", fleet::plain(gateway)),
            hint: None,
        }
        .into());
    }
    if accounts.is_empty() {
        eprintln!("no gateway has reported itself on this broker");
    }
    Ok(())
}

fn as_json(account: &Verified<Reported>, online: &str) -> Value {
    let slots = account.slots.iter().map(|slot| {
        let release = slot.release.as_ref().map(|release| {
            json!({ "digest": release.digest.to_string(), "cell": release.cell, "semver": release.semver, "seq": release.seq })
        });
        json!({
            "slot": slot.name, "sha256": slot.sha256.to_string(), "state": slot.state, "release": release, "fresh": slot.fresh,
        })
    });
    json!({
        "gateway": account.gateway, "online": online, "agent": account.agent, "epoch": account.epoch,
        "key": account.key.id().to_string(), "at_us": account.at.0, "fleet": account.fleet, "root": account.root_version,
        "groups": account.groups, "board": account.board, "clock_set": account.clock == ClockWord::Synchronised,
        "desired": account.desired.as_ref().map(|(target, seq)| json!({ "target": fleet::name(target), "seq": seq })),
        "state": account.state.name(), "reason": account.reason, "refused": account.refused,
        "slots": slots.collect::<Vec<_>>(),
        "floors": account.floors.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "wants_nonce": account.nonce.is_some(),
    })
}

fn readable(account: &Verified<Reported>, online: &str) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let desired = account.desired.as_ref();
    let desired =
        desired.map_or_else(String::new, |(target, seq)| format!(" desired state {seq} for {}", fleet::name(target)));
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{}  {online}, porin {}, root {} of {}, {}{desired}, key {}",
        account.gateway,
        account.agent,
        account.root_version,
        account.fleet,
        account.state.name(),
        &account.key.id().to_string()[..16],
    );
    if let Some(reason) = &account.reason {
        let _ = writeln!(text, "  why: {reason} ({})", reason.code.meaning());
    }
    if let Some(refused) = &account.refused {
        let _ = writeln!(text, "  last refused: {refused} ({})", refused.code.meaning());
    }
    for slot in &account.slots {
        let what = match &slot.release {
            Some(release) => format!("{} {}, number {}", release.cell, release.semver, release.seq),
            None => "its own component".into(),
        };
        let fresh = slot.fresh.as_ref().map_or_else(String::new, |why| format!("; began afresh: {why}"));
        let _ =
            writeln!(text, "  {}: {what}, {}, sha256:{}{fresh}", slot.name, slot.state, &slot.sha256.to_string()[..16]);
    }
    text
}
