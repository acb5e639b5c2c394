//! `porin prune`: takes releases and pieces off the broker that no desired state names, and no gateway runs.

use std::{collections::BTreeSet, io::Write};

use porin_core::{
    config::wanted,
    trust::{Desired, Digest, Envelope, Release, recall},
};
use serde_json::json;

use crate::{
    cloud::{BrokerArguments, Cloud},
    fleet,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: BrokerArguments,
    /// Say what would go, and leave it
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cloud = Cloud::connect(&arguments.broker)?;
    let mut desired = cloud.retained("porin/v1/gw/+/desired")?;
    desired.extend(cloud.retained("porin/v1/group/+/desired")?);
    let document = |payload: &Vec<u8>| recall::<Desired>(&Envelope::decode(payload).ok()?.payload).ok();
    let mut named: BTreeSet<Digest> = BTreeSet::new();
    for (topic, payload) in desired.iter().filter(|(_, payload)| !payload.is_empty()) {
        // What cannot be read may name anything: then nothing is taken away.
        let Some(desired) = document(payload) else { anyhow::bail!("{topic} cannot be read; nothing was taken away") };
        named.extend(wanted(&desired.set).unwrap_or_default().into_iter().filter_map(|slot| slot.release));
    }
    let accounts = cloud.retained("porin/v1/gw/+/reported")?;
    for account in fleet::accounts(&accounts).values() {
        named.extend(account.slots.iter().filter_map(|slot| slot.release.as_ref().map(|release| release.digest)));
    }
    let releases = cloud.retained("porin/v1/fleet/rel/+")?;
    let mut components = BTreeSet::new();
    let mut gone = Vec::new();
    for (topic, payload) in releases.iter().filter(|(topic, payload)| topic.contains("/rel/") && !payload.is_empty()) {
        let release = Envelope::decode(payload).ok().and_then(|envelope| recall::<Release>(&envelope.payload).ok());
        match release {
            Some(release) if named.contains(&release.digest()) => drop(components.insert(release.sha256.to_string())),
            Some(_) | None => gone.push((topic.clone(), Vec::new())),
        }
    }
    let blobs = cloud.retained("porin/v1/fleet/blob/+/+")?;
    for (topic, _) in blobs.iter().filter(|(topic, payload)| topic.contains("/blob/") && !payload.is_empty()) {
        if !topic.split('/').rev().nth(1).is_some_and(|component| components.contains(component)) {
            gone.push((topic.clone(), Vec::new()));
        }
    }
    if !arguments.dry_run {
        // An empty payload is how a broker forgets what it retains.
        cloud.publish_all(&gone)?;
    }
    let mut stdout = std::io::stdout().lock();
    let topics: Vec<_> = gone.iter().map(|(topic, _)| topic).collect();
    if arguments.json {
        writeln!(
            stdout,
            "{}",
            json!({ "kept_releases": components.len(), "gone": topics, "dry_run": arguments.dry_run })
        )?;
    } else {
        topics.iter().try_for_each(|topic| writeln!(stdout, "{topic}"))?;
        let verb = if arguments.dry_run { "would go" } else { "are gone" };
        eprintln!("{} retained publishes {verb}; releases of {} components stay", topics.len(), components.len());
    }
    Ok(())
}
