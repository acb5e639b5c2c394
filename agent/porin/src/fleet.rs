//! What an operator knows of gateways, and how a desired state is made and followed.
//!
//! The broker has everything that counts: what gateways report, what they are to run. The folder of the keys has the desired states that were signed here,
//! for a way back.

mod base;
mod follow;
mod history;
mod order;
mod seen;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use porin_core::{
    reason::Code,
    status::Presence,
    topic::{Topic, TopicKind},
    trust::{self, Desired, Envelope, Reported, Target, Verified},
    words::Word,
};
use serde_json::Value as Json;
use toml::{Table, Value};

pub(crate) use self::{
    base::{agreed, base},
    follow::{Outcome, conclude, follow},
    history::History,
    order::{is_there, order},
    seen::NewKey,
};
use crate::{
    cloud::Cloud,
    failure::{Exit, Failure},
    keys::KeyFolder,
};

/// Time for a gateway's account to come, where it is retained.
const ACCOUNT: Duration = Duration::from_secs(5);

/// A text that may end up on a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How a target is written on the command line: a gateway's id, or `group:NAME`.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    let (target, name) = match text.strip_prefix("group:") {
        Some(group) => (Target::Group(group.into()), group),
        None => (Target::Gateway(text.into()), text),
    };
    match trust::documents::is_name(name) && !name.contains('/') {
        true => Ok(target),
        false => Err("a gateway's id, or group:NAME".into()),
    }
}

pub(crate) fn name(target: &Target) -> String {
    match target {
        Target::Gateway(id) => id.clone(),
        Target::Group(group) => format!("group:{group}"),
    }
}

/// What gateways report, by gateway. What is no account, or not signed by the key that it names, is said and left out.
pub(crate) fn accounts(publishes: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Verified<Reported>> {
    publishes.iter().filter_map(|(topic, payload)| account(topic, payload)).collect()
}

fn account(topic: &str, payload: &[u8]) -> Option<(String, Verified<Reported>)> {
    let Some(Topic::Reported { gateway }) = Topic::parse(topic) else { return None };
    match trust::reported(payload) {
        Ok(account) if account.gateway == gateway => Some((gateway.to_owned(), account)),
        Ok(account) => {
            eprintln!("warning: {} has the account of another gateway, {}", plain(topic), account.gateway);
            None
        }
        Err(refusal) => {
            eprintln!("warning: {}: {refusal}", plain(topic));
            None
        }
    }
}

/// The gateways that a target means, as they report themselves.
pub(crate) fn members(
    cloud: &mut Cloud,
    keys: &KeyFolder,
    target: &Target,
    new_key: NewKey,
) -> anyhow::Result<BTreeMap<String, Verified<Reported>>> {
    let (filter, whom) = match target {
        Target::Gateway(id) => (TopicKind::Reported.filter(&[id]), format!("gateway `{id}`")),
        Target::Group(group) => (TopicKind::Reported.filter(&[]), format!("gateway of group `{group}`")),
    };
    let start = Instant::now();
    let mut retained = cloud.retained(&filter)?;
    // One that connects at this moment.
    while retained.is_empty() && start.elapsed() < ACCOUNT {
        retained.extend(cloud.next(ACCOUNT.saturating_sub(start.elapsed()))?);
    }
    let mut members = accounts(&retained);
    members.retain(|_, account| match target {
        Target::Gateway(id) => account.gateway == *id,
        Target::Group(group) => account.groups.contains(group),
    });
    for gateway in members.keys().cloned().collect::<Vec<_>>() {
        let Err(strange) = seen::look(keys, &members[&gateway], new_key)? else { continue };
        if let Target::Gateway(_) = target {
            let (message, hint) = (strange.to_string(), Some(strange.hint().into()));
            return Err(Failure { exit: Exit::Refused, message, hint }.into());
        }
        eprintln!("warning: {strange}; it is left out ({})", strange.hint());
        members.remove(&gateway);
    }
    if let Target::Group(group) = target {
        leave_out_others(cloud, keys, group, &mut members)?;
    }
    if members.is_empty() {
        return Err(Failure {
            exit: Exit::Unreachable,
            message: format!("no {whom} has reported itself on this broker"),
            hint: Some("does its configuration have [updates] with this root, and is it connected?".into()),
        }
        .into());
    }
    for (gateway, account) in &members {
        if let Some(reason) =
            account.reason.as_ref().filter(|reason| matches!(reason.code, Code::LostStore | Code::Unproven))
        {
            eprintln!("note: {gateway}: {reason}");
        }
    }
    History::of(keys, target).settle(target, &members)?;
    Ok(members)
}

/// Whether a gateway is connected, by what is retained of it.
pub(crate) fn presence(retained: &BTreeMap<String, Vec<u8>>, gateway: &str) -> Option<Presence> {
    let state = retained.get(&Topic::State { gateway }.to_string())?;
    let state: Json = serde_json::from_slice(state).ok()?;
    Presence::of_word(state["state"].as_str()?)
}

/// Leaves out of a group whoever has something that wins over it, and whoever is not there now: they are not waited for.
fn leave_out_others(
    cloud: &mut Cloud,
    keys: &KeyFolder,
    group: &str,
    members: &mut BTreeMap<String, Verified<Reported>>,
) -> anyhow::Result<()> {
    let states = cloud.retained(&TopicKind::State.filter(&[]))?;
    let forgetful: Vec<_> =
        members.iter().filter(|(_, account)| account.nonce.is_some()).map(|(id, _)| id.clone()).collect();
    for gateway in forgetful {
        let own = current(cloud, keys, &Target::Gateway(gateway.clone()))?;
        if own.is_some_and(|own| !own.set.is_empty()) {
            eprintln!(
                "note: {gateway} remembers no numbers, and has a desired state of its own: push to it, or give it that again"
            );
            members.remove(&gateway);
        }
    }
    members.retain(|gateway, account| {
        let rank = |name: &str| account.groups.iter().position(|group| group == name);
        let wins = account.desired.as_ref().filter(|(target, _)| match target {
            Target::Gateway(_) => true,
            Target::Group(other) => rank(other) < rank(group),
        });
        if let Some((winner, _)) = wins {
            eprintln!("note: {gateway} goes by the desired state for {}, which wins over its group's", name(winner));
            return false;
        }
        if presence(&states, gateway) == Some(Presence::Offline) {
            eprintln!("note: {gateway} is not connected; it will take this up when it is");
            return false;
        }
        true
    });
    Ok(())
}

/// The desired state that is retained for a target, if it is one of ours: whoever may publish there could have put anything in its place, which must
/// neither be signed nor counted from.
pub(crate) fn current(cloud: &mut Cloud, keys: &KeyFolder, target: &Target) -> anyhow::Result<Option<Desired>> {
    let topic = Topic::desired(target).to_string();
    let Some(payload) = cloud.retained(&topic)?.remove(&topic).filter(|payload| !payload.is_empty()) else {
        return Ok(None);
    };
    let root = keys.root()?;
    let envelope = Envelope::decode(&payload);
    let signed = envelope
        .as_ref()
        .is_ok_and(|envelope| envelope.signers(&root.operator.keys) >= usize::from(root.operator.threshold));
    match envelope.and_then(|envelope| trust::recall::<Desired>(&envelope.payload)) {
        Ok(desired) if signed && desired.target == *target => Ok(Some((*desired).clone())),
        Ok(_) | Err(_) => {
            eprintln!(
                "warning: what is retained at {topic} is not signed by an operator who counts; it is left out of account"
            );
            Ok(None)
        }
    }
}

/// Whether two texts mean the same, but for what must rise.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    meaning(one) == meaning(other)
}

/// What a text means.
fn meaning(text: &str) -> Table {
    let mut table: Table = toml::from_str(text).unwrap_or_default();
    table.remove("probation");
    for (_, slot) in slots(&mut table) {
        slot.remove("retry");
    }
    table
}

/// The slots of a text.
pub(crate) fn slots(table: &mut Table) -> Vec<(String, &mut Table)> {
    let slots = table.get_mut("slots").and_then(Value::as_table_mut);
    let slots = slots.into_iter().flat_map(|slots| slots.iter_mut());
    slots.filter_map(|(name, slot)| Some((name.clone(), slot.as_table_mut()?))).collect()
}

/// Reads the text of routes and slots.
pub(crate) fn table(text: &str) -> anyhow::Result<Table> {
    toml::from_str(text).map_err(|error| anyhow!("routes and slots: {error}"))
}
