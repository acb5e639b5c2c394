//! What a change to one slot begins with: the routes and slots that are to run now; and what a new set changes besides.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use porin_core::trust::{Desired, Reported, Target, Verified};
use toml::{Table, Value};

use super::{History, current, is_same, meaning, name};
use crate::{
    cloud::Cloud,
    failure::{Exit, Failure},
    keys::KeyFolder,
};

/// The routes and slots that are to be changed: the newest that were signed here and did not come to nothing, or what a gateway says it took up after them.
/// Where nothing was signed here, what gateways report; for a group whose gateways differ, what is retained for it.
pub(crate) fn base(
    cloud: &mut Cloud,
    keys: &KeyFolder,
    to: &Target,
    members: &BTreeMap<String, Verified<Reported>>,
) -> anyhow::Result<String> {
    let signed = signed_here(keys, to, members);
    let (target, number) = signed.as_ref().map_or((to, 0), |signed| (&signed.target, signed.seq));
    let number_of = |account: &Reported| match &account.desired {
        Some((of, number)) if of == target => *number,
        Some(_) | None => 0,
    };
    // Signed elsewhere, by another of the role.
    if let Some(account) = members.values().max_by_key(|account| number_of(account))
        && number_of(account) > number
    {
        if account.state.is_under_way()
            && let Some(desired) = current(cloud, keys, target)?.filter(|desired| desired.seq == number_of(account))
        {
            return Ok(desired.set);
        }
        if signed.is_some() {
            return Ok(account.set.clone());
        }
    }
    if let Some(signed) = signed {
        return Ok(signed.set);
    }
    let mut sets = members.values().map(|account| &account.set);
    let first = sets.next().ok_or_else(|| anyhow!("there is no gateway"))?;
    if sets.any(|set| !is_same(set, first)) {
        if let Some(desired) = current(cloud, keys, to)? {
            eprintln!("note: they run different routes and slots; what is retained for all of them is changed");
            return Ok(desired.set);
        }
        return Err(Failure {
            exit: Exit::Failed,
            message: format!("the gateways of {} run different routes and slots", name(to)),
            hint: Some("set it once for all of them: porin desired apply FILE --to group:NAME".into()),
        }
        .into());
    }
    Ok(first.clone())
}

/// The newest that was signed here for the target and did not come to nothing. An own one of a gateway that says nothing leaves the word to its groups'.
fn signed_here(keys: &KeyFolder, to: &Target, members: &BTreeMap<String, Verified<Reported>>) -> Option<Desired> {
    let groups = match to {
        Target::Gateway(id) => members.get(id).map(|account| account.groups.clone()).unwrap_or_default(),
        Target::Group(_) => Vec::new(),
    };
    let targets = [to.clone()].into_iter().chain(groups.into_iter().map(Target::Group));
    targets.filter_map(|target| History::of(keys, &target).newest_set()).find(|desired| !desired.set.is_empty())
}

/// Refuses a set that changes more at its gateways than one slot, unless that was agreed to. Either way it is printed.
pub(crate) fn agreed(
    set: &str,
    slot: &str,
    members: &BTreeMap<String, Verified<Reported>>,
    yes: bool,
) -> anyhow::Result<()> {
    let mut changes: BTreeMap<Vec<String>, Vec<&str>> = BTreeMap::new();
    for (gateway, account) in members {
        changes.entry(besides(&account.set, set, slot)).or_default().push(gateway);
    }
    changes.remove(&Vec::new());
    if changes.is_empty() {
        return Ok(());
    }
    for (lines, gateways) in &changes {
        eprintln!("besides slot `{slot}` this changes at {}:", gateways.join(", "));
        lines.iter().for_each(|line| eprintln!("  {line}"));
    }
    if yes {
        return Ok(());
    }
    Err(Failure {
        exit: Exit::Refused,
        message: format!("this would change more than slot `{slot}`; nothing was signed"),
        hint: Some("a push starts from what was signed here last; --yes deploys it everywhere".into()),
    }
    .into())
}

/// What one set has and the other has not, but for a slot: `-` for what runs, `+` for what is to run.
fn besides(runs: &str, wanted: &str, slot: &str) -> Vec<String> {
    let settings = |text: &str| {
        let mut table = meaning(text);
        if let Some(slots) = table.get_mut("slots").and_then(Value::as_table_mut) {
            slots.remove(slot);
        }
        let mut settings = BTreeSet::new();
        flatten("", &table, &mut settings);
        settings
    };
    let (runs, wanted) = (settings(runs), settings(wanted));
    let gone = runs.difference(&wanted).map(|setting| format!("- {setting}"));
    gone.chain(wanted.difference(&runs).map(|setting| format!("+ {setting}"))).collect()
}

fn flatten(prefix: &str, table: &Table, settings: &mut BTreeSet<String>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value.as_table().filter(|inner| !inner.is_empty()) {
            Some(inner) => flatten(&name, inner, settings),
            None => drop(settings.insert(format!("{name} = {value}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: &str = "[routes.all]\nstreams = [\"#\"]\nslots = [\"a\", \"b\"]\n[slots.a]\ncell = \"local\"\n\
                        [slots.b]\ncell = \"local\"\nparams = { x = 1 }\n[probation]\nshadow = \"1s\"\n";

    #[test]
    fn what_changes_besides_a_slot_is_listed_setting_by_setting() {
        let other_a = RUNS.replacen("local", "release:00", 1).replace("1s", "9s");
        assert_eq!(besides(RUNS, &other_a, "a"), Vec::<String>::new(), "neither the slot nor how it is tried");
        let other_b = other_a.replace("x = 1", "x = 2");
        assert_eq!(besides(RUNS, &other_b, "a"), ["- slots.b.params.x = 1", "+ slots.b.params.x = 2"]);
        assert_eq!(besides(RUNS, &RUNS.replace("\"#\"", "\"a\""), "a").len(), 2, "a route");
    }
}
