//! `porin rollback`: back to what ran before, of a gateway, a group or one slot.

use anyhow::Context;
use porin_core::trust::Target;
use toml::Table;

use super::push::{Consent, Operator, Proof};
use crate::{
    cloud::Cloud,
    failure::{Exit, Failure},
    fleet::{self, History},
    keys::KeyFolder,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A gateway's id, or group:NAME
    #[arg(value_name = "GW", value_parser = fleet::target)]
    to: Target,
    /// Only this slot
    slot: Option<String>,
    #[command(flatten)]
    proof: Proof,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    operator: Operator,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { to, slot, operator, .. } = arguments;
    let keys = KeyFolder::at(operator.keys.as_deref())?;
    let mut cloud = Cloud::connect(&operator.broker)?;
    let members = fleet::members(&mut cloud, &keys, to, operator.new_key())?;
    let now = fleet::base(&mut cloud, &keys, to, &members)?;
    if let Some(slot) = slot
        && !fleet::slots(&mut fleet::table(&now)?).iter().any(|(name, _)| name == slot)
    {
        return Err(Failure { exit: Exit::Usage, message: format!("there is no slot `{slot}`"), hint: None }.into());
    }
    let Some(before) = History::of(&keys, to).before(&now, slot.as_deref()) else {
        return Err(Failure {
            exit: Exit::Failed,
            message: format!("nothing else was signed for {} in {}", fleet::name(to), keys.path().display()),
            hint: Some("set it with porin desired apply FILE".into()),
        }
        .into());
    };
    match before.seq {
        0 => eprintln!("back to what the gateway's own configuration says"),
        seq => eprintln!("back to what desired state {seq} said"),
    }
    let (back, before) = (before.seq, before.set);
    let wanted = match slot {
        None => fleet::table(&before)?,
        Some(slot) => one_slot(&now, &before, slot)?,
    };
    if let Some(slot) = slot {
        fleet::agreed(&toml::to_string(&wanted)?, slot, &members, arguments.consent.yes)?;
    }
    fleet::is_there(&mut cloud, &toml::to_string(&wanted)?)?;
    let order = fleet::order(&mut cloud, &keys, to, &members, |seq| {
        let mut table = wanted;
        for (_, slot) in fleet::slots(&mut table) {
            slot.insert("retry".into(), i64::try_from(seq)?.into());
        }
        arguments.proof.write(&mut table);
        Ok(toml::to_string(&table)?)
    })?;
    order.publish(&mut cloud, &keys)?;
    History::of(&keys, to).went_back(order.desired.seq, slot.as_deref(), back)?;
    let outcomes = fleet::follow(&mut cloud, &keys, &order.desired, &members, operator.patience())?;
    fleet::conclude(&order.desired, &outcomes, &[], operator.json)
}

/// What is now, with one slot as it was before.
fn one_slot(now: &str, before: &str, name: &str) -> anyhow::Result<Table> {
    let (mut table, mut before) = (fleet::table(now)?, fleet::table(before)?);
    let earlier = fleet::slots(&mut before).into_iter().find(|(slot, _)| slot == name);
    let earlier = earlier.with_context(|| format!("there was no slot `{name}`"))?.1.clone();
    fleet::slots(&mut table).into_iter().filter(|(slot, _)| slot == name).for_each(|(_, slot)| *slot = earlier.clone());
    Ok(table)
}
