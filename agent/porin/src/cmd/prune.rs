//! `porin prune`: takes releases and pieces off the broker that no desired state names, and no gateway runs.

use std::{collections::BTreeSet, io::Write, path::PathBuf, time::Duration};

use anyhow::anyhow;

use porin_core::{
    config::{microseconds, wanted},
    time::Unix,
    topic::{Topic, TopicKind},
    trust::{Desired, Digest, Envelope, Release, recall},
};
use porind::wall_clock;
use serde_json::json;

use crate::{
    cloud::{BrokerArguments, Cloud},
    fleet::{self, History},
    keys::KeyFolder,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: BrokerArguments,
    /// Where the desired states are that were signed before: a way back leads there [default: `porin/keys` in the folder of the user's configuration]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Keep releases younger than this: a desired state may be about to refer to them
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    younger: Unix,
    /// Say what would go, and leave it
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All of what is retained has come when nothing more comes for so long. What is missed here would be taken away.
const QUIET: Duration = Duration::from_secs(2);

fn time(text: &str) -> Result<Unix, String> {
    super::push::time(text).and_then(|text| microseconds(&text)).map(Unix)
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cloud = Cloud::connect(&arguments.broker)?;
    let mut desired = cloud.retained_after(&TopicKind::Desired.filter(&[]), QUIET)?;
    desired.extend(cloud.retained_after(&TopicKind::GroupDesired.filter(&[]), QUIET)?);
    let document = |payload: &Vec<u8>| recall::<Desired>(&Envelope::decode(payload).ok()?.payload).ok();
    let mut named: BTreeSet<Digest> = BTreeSet::new();
    for (topic, payload) in desired.iter().filter(|(_, payload)| !payload.is_empty()) {
        // What cannot be read may name anything: then nothing is taken away.
        let Some(desired) = document(payload) else { anyhow::bail!("{topic} cannot be read; nothing was deleted") };
        let wanted = wanted(&desired.set).map_err(|error| anyhow!("{topic}: {error}; nothing was deleted"))?;
        named.extend(wanted.into_iter().filter_map(|slot| slot.release));
    }
    // A way back leads to what was signed here before.
    let keys = KeyFolder::at(arguments.keys.as_deref())?;
    for desired in History::all(&keys) {
        named.extend(wanted(&desired.set).unwrap_or_default().into_iter().filter_map(|slot| slot.release));
    }
    let accounts = cloud.retained_after(&TopicKind::Reported.filter(&[]), QUIET)?;
    for account in fleet::accounts(&accounts).values() {
        named.extend(account.slots.iter().filter_map(|slot| slot.release.as_ref().map(|release| release.digest)));
    }
    let releases = cloud.retained_after(&TopicKind::Release.filter(&[]), QUIET)?;
    let mut components = BTreeSet::new();
    // Somebody may be about to name it.
    let spared = Unix(wall_clock().0.saturating_sub(arguments.younger.0));
    let (mut gone, mut leaving) = (Vec::new(), BTreeSet::new());
    // Publishes of the subscriptions before may still come: nothing but releases may be deleted here.
    let below = TopicKind::Release.filter(&[""]);
    for (topic, payload) in releases.iter().filter(|(topic, payload)| topic.starts_with(&below) && !payload.is_empty())
    {
        let release = Envelope::decode(payload).ok().and_then(|envelope| recall::<Release>(&envelope.payload).ok());
        match release {
            Some(release) if named.contains(&release.digest()) || release.issued >= spared => {
                components.insert(release.sha256);
            }
            Some(release) => {
                leaving.insert(release.sha256);
                gone.push((topic.clone(), Vec::new()));
            }
            None => gone.push((topic.clone(), Vec::new())),
        }
    }
    let blobs = cloud.retained_after(&TopicKind::Blob.filter(&[]), QUIET)?;
    for (topic, _) in blobs.iter().filter(|(_, payload)| !payload.is_empty()) {
        // Pieces of which no release was seen stay: it may be on its way.
        if let Some(Topic::Blob { component, .. }) = Topic::parse(topic)
            && leaving.contains(&component)
            && !components.contains(&component)
        {
            gone.push((topic.clone(), Vec::new()));
        }
    }
    if !arguments.dry_run {
        // An empty payload is how a broker forgets what it retains.
        cloud.publish_all(&gone)?;
    }
    let mut stdout = crate::output::stdout();
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
