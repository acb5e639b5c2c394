//! What becomes of a desired state at the gateways that it is for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::{Duration, Instant},
};

use porin_core::{
    reason::{Code, Reason},
    trust::{Desired, Reported, Verified, reported::UpdateState},
};
use serde_json::{Value as Json, json};

use super::{History, NewKey, account, is_same, name, seen};
use crate::{
    cloud::Cloud,
    failure::{Exit, Failure},
    keys::KeyFolder,
};

/// Between two looks at the time.
const LOOK: Duration = Duration::from_millis(500);

/// After a gateway has refused something, until it is clear that it was ours.
const DOUBT: Duration = Duration::from_secs(5);

/// How it ended for a gateway.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Confirmed,
    Refused(&'static str, Reason),
}

/// Watches until every gateway has kept the desired state, or has not. Says what it sees.
pub(crate) fn follow(
    cloud: &mut Cloud,
    keys: &KeyFolder,
    desired: &Desired,
    before: &BTreeMap<String, Verified<Reported>>,
    patience: Duration,
) -> anyhow::Result<BTreeMap<String, Outcome>> {
    let mut outcomes = BTreeMap::new();
    let mut last: BTreeMap<String, (UpdateState, Option<Reason>)> = BTreeMap::new();
    let start = Instant::now();
    let mut waiting: BTreeSet<&String> = before.keys().collect();
    let mut doubts: BTreeMap<String, (Instant, Reason)> = BTreeMap::new();
    while !waiting.is_empty() {
        for (gateway, (since, reason)) in doubts.clone() {
            if since.elapsed() >= DOUBT {
                waiting.remove(&gateway);
                outcomes.insert(gateway.clone(), Outcome::Refused("refused", reason));
                doubts.remove(&gateway);
            }
        }
        if waiting.is_empty() {
            break;
        }
        let left = patience.saturating_sub(start.elapsed());
        let came = cloud.next(left.min(LOOK))?;
        if came.is_none() && start.elapsed() < patience {
            continue;
        }
        let Some((topic, payload)) = came else {
            let names: Vec<_> = waiting.iter().map(|name| name.as_str()).collect();
            return Err(Failure {
                exit: Exit::Unreachable,
                message: format!("no end within {} s: {}", patience.as_secs(), names.join(", ")),
                hint: Some(
                    "the published state is retained, and gateways go on; `porin ls` shows their progress".into(),
                ),
            }
            .into());
        };
        let Some((gateway, account)) = account(&topic, &payload) else { continue };
        // Whoever else writes there has another key.
        let Some(earlier) = before.get(&gateway).filter(|earlier| earlier.key == account.key) else { continue };
        // The broker may say again what was so before.
        if let Err(strange) = seen::look(keys, &account, NewKey::Refused)? {
            eprintln!("warning: {strange}");
            continue;
        }
        let ours = account.desired.as_ref() == Some(&(desired.target.clone(), desired.seq));
        let outcome = match (ours, account.state, &account.reason) {
            // The same number may be another operator's.
            (true, UpdateState::Confirmed, _) if is_same(&account.set, &desired.set) => Some(Outcome::Confirmed),
            (true, UpdateState::Rejected | UpdateState::RolledBack | UpdateState::Inconsistent, Some(reason)) => {
                Some(Outcome::Refused(account.state.name(), reason.clone()))
            }
            // It waits for a copy of a release that is signed by who counts; there is none.
            (true, UpdateState::Stalled, _) => {
                let unsigned = account.refused.clone().filter(|reason| reason.code == Code::TooFewSignatures);
                unsigned.map(|reason| Outcome::Refused("stalled", reason))
            }
            (false, _, _) => {
                let known = if account.epoch == earlier.epoch { earlier.refusals } else { 0 };
                // Something else may have been refused, such as what was retained there before: ours may still come.
                if let Some(reason) = account.refused.clone().filter(|_| account.refusals > known) {
                    doubts.entry(gateway.clone()).or_insert_with(|| (Instant::now(), reason));
                }
                None
            }
            _ => None,
        };
        if ours {
            doubts.remove(&gateway);
        }
        let stage = (account.state, account.reason.clone());
        if ours && last.insert(gateway.clone(), stage.clone()) != Some(stage) {
            let why = account.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
            eprintln!("{:>5.1} s  {gateway}: {}{why}", start.elapsed().as_secs_f64(), account.state.name());
        }
        if let Some(outcome) = outcome {
            waiting.remove(&gateway);
            outcomes.insert(gateway, outcome);
        }
    }
    let history = History::of(keys, &desired.target);
    if outcomes.values().any(|outcome| *outcome == Outcome::Confirmed) {
        history.confirmed(desired.seq)?;
    } else {
        history.refused(desired.seq)?;
    }
    Ok(outcomes)
}

/// Says how it ended, and fails if it did not end well for one of them.
pub(crate) fn conclude(
    desired: &Desired,
    outcomes: &BTreeMap<String, Outcome>,
    more: &[(&str, Json)],
    as_json: bool,
) -> anyhow::Result<()> {
    let refused = outcomes.iter().filter_map(|(gateway, outcome)| match outcome {
        Outcome::Confirmed => None,
        Outcome::Refused(state, reason) => Some((gateway, *state, reason)),
    });
    let refused: Vec<_> = refused.collect();
    if as_json {
        let gateways = outcomes.iter().map(|(gateway, outcome)| {
            let value = match outcome {
                Outcome::Confirmed => json!({ "state": "confirmed" }),
                Outcome::Refused(state, reason) => {
                    json!({ "state": state, "reason": reason.code, "text": reason.text, "slot": reason.slot })
                }
            };
            (gateway.clone(), value)
        });
        let gateways: serde_json::Map<_, _> = gateways.collect();
        let mut said = json!({ "target": name(&desired.target), "seq": desired.seq, "gateways": gateways });
        more.iter().for_each(|(key, value)| said[*key] = value.clone());
        writeln!(crate::output::stdout(), "{said}")?;
    }
    let Some((_, _, first)) = refused.first() else { return Ok(()) };
    let why = |(gateway, state, reason): &(&String, &str, &Reason)| {
        let slot = reason.slot.as_ref().map_or_else(String::new, |slot| format!(" (slot `{slot}`)"));
        format!("{gateway}: {state}: {reason}{slot}")
    };
    Err(Failure {
        exit: Exit::Refused,
        message: format!("{}; what ran before runs on", refused.iter().map(why).collect::<Vec<_>>().join("\n")),
        hint: Some(first.code.hint().into()),
    }
    .into())
}
