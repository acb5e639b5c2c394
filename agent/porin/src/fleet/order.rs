//! A desired state in the making: its number, its signature, and what gateways need besides.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, anyhow};
use porin_core::{
    config::wanted,
    time::Unix,
    topic::Topic,
    trust::{self, Desired, Reported, Target, Verified},
};
use porind::wall_clock;

use super::{History, current, name};
use crate::{
    cloud::Cloud,
    failure::{Exit, Failure},
    keys::{KeyFolder, RoleName, sign},
};

/// A desired state counts for so long. What runs goes on after that.
const DESIRED_DAYS: u64 = 365;

const DAY_US: u64 = 86_400_000_000;

/// What is about to be published.
pub(crate) struct Order {
    /// Roots, releases, pieces, the desired states last.
    pub(crate) publishes: Vec<(String, Vec<u8>)>,
    pub(crate) desired: Desired,
}

/// Makes and signs a desired state, with a number that is higher than any that is known, and what gateways need besides.
pub(crate) fn order(
    cloud: &mut Cloud,
    keys: &KeyFolder,
    target: &Target,
    members: &BTreeMap<String, Verified<Reported>>,
    text: impl FnOnce(u64) -> anyhow::Result<String>,
) -> anyhow::Result<Order> {
    let root = keys.root()?;
    let pair = keys.pair(RoleName::Operator, &root)?;
    let issued = wall_clock();
    let known = members.values().flat_map(|account| &account.known);
    let known: Vec<_> = known.filter(|(of, _)| of == target).map(|(_, seq)| *seq).collect();
    let seq = next_number(cloud, keys, &root, target, &known, issued)?;
    let nonce = |gateway: &str| members.get(gateway).and_then(|account| account.nonce);
    let document = |target: Target, seq, nonce, set| Desired {
        fleet: root.fleet.clone(),
        target,
        seq,
        issued,
        expires: Unix(issued.0 + DESIRED_DAYS * DAY_US),
        root_version: root.version,
        nonce,
        set,
    };
    let own = match target {
        Target::Gateway(id) => {
            let history = History::of(keys, target);
            if let (true, Some(account)) = (history.is_empty(), members.get(id)) {
                // For a way back to what the owner has configured. Nobody is sent this.
                history.keep(0, &sign(&document(target.clone(), 0, None, account.set.clone()), &[&pair]))?;
                history.confirmed(0)?;
            }
            nonce(id)
        }
        Target::Group(_) => None,
    };
    let desired = document(target.clone(), seq, own, text(seq)?);
    if let Err(what) = trust::documents::Document::check(&desired) {
        let message = format!("that makes no desired state: {what}");
        return Err(Failure { exit: Exit::Usage, message, hint: None }.into());
    }
    let mut publishes = Vec::new();
    let oldest = members.values().map(|account| account.root_version).min().unwrap_or(root.version);
    for version in oldest.saturating_add(1)..=root.version {
        let envelope = fs::read(keys.root_file(version)).with_context(|| format!("root {version}"))?;
        publishes.push((Topic::Root { version }.to_string(), envelope));
    }
    if let Target::Group(_) = target {
        // They know no numbers, or none that is proven: their own desired state says that this operator is there, and nothing else.
        for (gateway, account) in members.iter().filter(|(_, account)| account.nonce.is_some()) {
            let own = Target::Gateway(gateway.clone());
            let seq = next_number(cloud, keys, &root, &own, &[], issued)?;
            let enrolment = sign(&document(own.clone(), seq, account.nonce, String::new()), &[&pair]);
            History::of(keys, &own).keep(seq, &enrolment)?;
            publishes.push((Topic::desired(&own).to_string(), enrolment));
        }
    }
    publishes.push((Topic::desired(target).to_string(), sign(&desired, &[&pair])));
    Ok(Order { publishes, desired })
}

/// A number higher than any that counts: seconds since 1970, or one more than what was signed here, is retained, or is known to gateways. What they
/// say may be anything: a number of another day is not believed, or one lie would use all of them up.
fn next_number(
    cloud: &mut Cloud,
    keys: &KeyFolder,
    root: &trust::Root,
    target: &Target,
    known: &[u64],
    now: Unix,
) -> anyhow::Result<u64> {
    let today = now.0 / 1_000_000;
    let retained = current(cloud, keys, target)?.map_or(0, |desired| desired.seq);
    let signed = History::of(keys, target).newest(&root.operator).unwrap_or(0);
    let (believed, lies): (Vec<u64>, Vec<u64>) =
        known.iter().partition(|seq| **seq <= today.saturating_add(DAY_US / 1_000_000));
    if !lies.is_empty() {
        eprintln!("warning: a gateway knows number {} for {}: left out of account", lies[0], name(target));
    }
    let highest = believed.into_iter().chain([retained, signed]).max().unwrap_or(0);
    Ok(highest.checked_add(1).context("the numbers are used up: `porin keys rotate operator` begins anew")?.max(today))
}

impl Order {
    /// Publishes everything, what a desired state names before it; from then on gateways act.
    pub(crate) fn publish(&self, cloud: &mut Cloud, keys: &KeyFolder) -> anyhow::Result<()> {
        let Some(((topic, signed), before)) = self.publishes.split_last() else { return Ok(()) };
        cloud.publish_all(before)?;
        History::of(keys, &self.desired.target).keep(self.desired.seq, signed)?;
        cloud.publish_all(&[(topic.clone(), signed.clone())])
    }
}

/// Whether everything that a text names is on the broker still.
pub(crate) fn is_there(cloud: &mut Cloud, text: &str) -> anyhow::Result<()> {
    let named = wanted(text).map_err(|error| anyhow!("routes and slots: {error}"))?;
    for release in named.into_iter().filter_map(|slot| slot.release) {
        let topic = Topic::Release { digest: release }.to_string();
        if cloud.retained(&topic)?.get(&topic).is_none_or(Vec::is_empty) {
            return Err(Failure {
                exit: Exit::Failed,
                message: format!("release {release} is not on the broker any more"),
                hint: Some("push that cell again".into()),
            }
            .into());
        }
    }
    Ok(())
}
