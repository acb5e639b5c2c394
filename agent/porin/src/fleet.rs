//! What an operator knows of gateways, and how a desired state is made and followed.
//!
//! The broker has everything that counts: what gateways report, what they are to run. The folder of the keys has the desired states that were signed here,
//! for a way back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use porin_core::{
    config::wanted,
    time::Unix,
    trust::{
        self, Desired, Envelope, Reported, Role, Target, Verified,
        reported::{Reason, UpdateState},
    },
};
use porind::wall_clock;
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use crate::{
    cloud::Cloud,
    failure::{Failure, REFUSED, UNREACHABLE},
    keys::{KeyFolder, RoleName, sign, write_whole},
};

/// A desired state counts for so long. What runs goes on after that.
const DESIRED_DAYS: u64 = 365;

const DAY_US: u64 = 86_400_000_000;

/// Time for a gateway's account to come, where it is retained.
const ACCOUNT: Duration = Duration::from_secs(5);

/// A text that may end up on a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Between two looks at the time.
const LOOK: Duration = Duration::from_millis(500);

/// After a gateway has refused something, until it is clear that it was ours.
const DOUBT: Duration = Duration::from_secs(3);

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

fn desired_topic(target: &Target) -> String {
    match target {
        Target::Gateway(id) => format!("porin/v1/gw/{id}/desired"),
        Target::Group(group) => format!("porin/v1/group/{group}/desired"),
    }
}

/// What gateways report, by gateway. What is no account, or not signed by the key that it names, is said and left out.
pub(crate) fn accounts(publishes: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Verified<Reported>> {
    publishes.iter().filter_map(|(topic, payload)| account(topic, payload)).collect()
}

fn account(topic: &str, payload: &[u8]) -> Option<(String, Verified<Reported>)> {
    let gateway = topic.strip_prefix("porin/v1/gw/")?.strip_suffix("/reported")?;
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

/// Whether an account is that of the gateway that was seen under this name before: its key is remembered when it is seen for the first time. Whoever may
/// publish there could write anything; what is signed for a gateway is made of what it says that it runs.
fn is_known(keys: &KeyFolder, gateway: &str, account: &Reported, new_key: NewKey) -> anyhow::Result<bool> {
    let path = keys.path().join("gateways").join(gateway);
    let key = account.key.id().to_string();
    match fs::read_to_string(&path) {
        Ok(known) if known.trim() == key => return Ok(true),
        Ok(_) if new_key == NewKey::Refused => return Ok(false),
        Ok(_) => eprintln!("note: {gateway} has another key than before"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("note: {gateway} is new here; its key {} is remembered", &key[..16]);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let folder = path.parent().context("a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    write_whole(&path, format!("{key}\n").as_bytes())?;
    Ok(true)
}

/// What to do about a gateway that has another key than before: its store was lost, or somebody else says that he is it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewKey {
    Refused,
    Accepted,
}

/// The gateways that a target means, as they report themselves.
pub(crate) fn members(
    cloud: &mut Cloud,
    keys: &KeyFolder,
    target: &Target,
    new_key: NewKey,
) -> anyhow::Result<BTreeMap<String, Verified<Reported>>> {
    let (filter, whom) = match target {
        Target::Gateway(id) => (format!("porin/v1/gw/{id}/reported"), format!("gateway `{id}`")),
        Target::Group(group) => ("porin/v1/gw/+/reported".into(), format!("gateway of group `{group}`")),
    };
    let start = Instant::now();
    let mut retained = cloud.retained(&filter)?;
    // One that connects at this moment.
    while retained.is_empty() && start.elapsed() < ACCOUNT {
        retained.extend(cloud.next(ACCOUNT.saturating_sub(start.elapsed()))?);
    }
    let mut members = accounts(&retained);
    members.retain(|_, account| match target {
        Target::Gateway(_) => true,
        Target::Group(group) => account.groups.contains(group),
    });
    for gateway in members.keys().cloned().collect::<Vec<_>>() {
        if is_known(keys, &gateway, &members[&gateway], new_key)? {
            continue;
        }
        if let Target::Gateway(_) = target {
            return Err(Failure {
                code: REFUSED,
                message: format!("{gateway} reports itself with another key than before"),
                hint: Some("was its store lost? then --new-key; if not, somebody else writes there".into()),
            }
            .into());
        }
        eprintln!(
            "warning: {gateway} reports itself with another key than before, and is left out; --new-key takes it"
        );
        members.remove(&gateway);
    }
    if let Target::Group(group) = target {
        leave_out_others(cloud, group, &mut members)?;
    }
    if members.is_empty() {
        return Err(Failure {
            code: UNREACHABLE,
            message: format!("no {whom} has reported itself on this broker"),
            hint: Some("has its configuration [updates] with our root, and is it connected?".into()),
        }
        .into());
    }
    Ok(members)
}

/// Leaves out of a group whoever has something that wins over it, and whoever is not there now: they are not waited for.
fn leave_out_others(
    cloud: &mut Cloud,
    group: &str,
    members: &mut BTreeMap<String, Verified<Reported>>,
) -> anyhow::Result<()> {
    let states = cloud.retained("porin/v1/gw/+/state")?;
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
        let state = states.get(&format!("porin/v1/gw/{gateway}/state"));
        let state: Json = state.and_then(|state| serde_json::from_slice(state).ok()).unwrap_or_default();
        if state["state"] == "offline" {
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
    let topic = desired_topic(target);
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
            }
            nonce(id)
        }
        Target::Group(_) => None,
    };
    let desired = document(target.clone(), seq, own, text(seq)?);
    if let Err(what) = trust::documents::Document::check(&desired) {
        let message = format!("that makes no desired state: {what}");
        return Err(Failure { code: 2, message, hint: None }.into());
    }
    let mut publishes = Vec::new();
    let oldest = members.values().map(|account| account.root_version).min().unwrap_or(root.version);
    for version in oldest.saturating_add(1)..=root.version {
        let envelope = fs::read(keys.root_file(version)).with_context(|| format!("root {version}"))?;
        publishes.push((format!("porin/v1/fleet/root/{version}"), envelope));
    }
    if let Target::Group(_) = target {
        // They know no numbers yet: their own desired state says that this operator is there, and nothing else.
        for (gateway, account) in members.iter().filter(|(_, account)| account.nonce.is_some()) {
            let own = Target::Gateway(gateway.clone());
            let seq = next_number(cloud, keys, &root, &own, &[], issued)?;
            // If it had one of its own before its store was lost, it has it again.
            let set = current(cloud, keys, &own)?.map(|desired| desired.set).unwrap_or_default();
            let enrolment = sign(&document(own.clone(), seq, account.nonce, set), &[&pair]);
            History::of(keys, &own).keep(seq, &enrolment)?;
            publishes.push((desired_topic(&own), enrolment));
        }
    }
    publishes.push((desired_topic(target), sign(&desired, &[&pair])));
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
        let topic = format!("porin/v1/fleet/rel/{release}");
        if cloud.retained(&topic)?.get(&topic).is_none_or(Vec::is_empty) {
            return Err(Failure {
                code: 1,
                message: format!("release {release} is not on the broker any more"),
                hint: Some("push that cell again".into()),
            }
            .into());
        }
    }
    Ok(())
}

/// The desired states for a target that were signed here.
pub(crate) struct History(PathBuf);

impl History {
    pub(crate) fn of(keys: &KeyFolder, target: &Target) -> Self {
        let folder = match target {
            Target::Gateway(id) => format!("gw-{id}"),
            Target::Group(group) => format!("group-{group}"),
        };
        Self(keys.path().join("desired").join(folder))
    }

    fn numbers(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().map_while(Result::ok);
        let mut numbers: Vec<_> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Whether nothing was signed here that says something.
    fn is_empty(&self) -> bool {
        self.numbers().into_iter().filter_map(|number| self.read(number)).all(|desired| desired.set.is_empty())
    }

    /// The highest number that was signed with keys that count, whatever became of it.
    fn newest(&self, operator: &Role) -> Option<u64> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().map_while(Result::ok);
        let signed = entries.filter(|entry| {
            let envelope = fs::read(entry.path()).ok().and_then(|bytes| Envelope::decode(&bytes).ok());
            envelope.is_some_and(|envelope| envelope.signers(&operator.keys) >= usize::from(operator.threshold))
        });
        signed.filter_map(|entry| entry.file_name().to_str()?.split('.').next()?.parse().ok()).max()
    }

    fn read(&self, number: u64) -> Option<Desired> {
        let envelope = Envelope::decode(&fs::read(self.0.join(number.to_string())).ok()?).ok()?;
        Some((*trust::recall::<Desired>(&envelope.payload).ok()?).clone())
    }

    /// Everything that was signed in this folder, for whomever.
    pub(crate) fn all(keys: &KeyFolder) -> Vec<Desired> {
        let targets = fs::read_dir(keys.path().join("desired")).into_iter().flatten().map_while(Result::ok);
        let histories = targets.map(|target| Self(target.path()));
        histories
            .flat_map(|history| history.numbers().into_iter().filter_map(move |number| history.read(number)))
            .collect()
    }

    /// It came to nothing: no way back leads to it.
    fn refused(&self, seq: u64) -> anyhow::Result<()> {
        let path = self.0.join(seq.to_string());
        fs::rename(&path, path.with_extension("refused")).with_context(|| format!("renaming {}", path.display()))
    }

    fn keep(&self, seq: u64, signed: &[u8]) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("making {}", self.0.display()))?;
        write_whole(&self.0.join(seq.to_string()), signed)
    }

    /// The newest desired state before the first that says this, in which something is otherwise: all of it, or a slot. Going back again goes further
    /// back, never forth.
    pub(crate) fn before(&self, text: &str, slot: Option<&str>) -> Option<Desired> {
        let newest_first = self.numbers().into_iter().rev().filter_map(|number| self.read(number));
        let all: Vec<_> = newest_first.filter(|desired| !desired.set.is_empty()).collect();
        let this = all.iter().rposition(|desired| is_same(&desired.set, text))?;
        let part = |text: &str| match slot {
            None => Some(Value::from(meaning(text))),
            Some(slot) => meaning(text).get("slots")?.get(slot).cloned(),
        };
        let now = part(text);
        all.into_iter().skip(this).find(|desired| part(&desired.set).is_some_and(|before| Some(before) != now))
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
    let mut last: BTreeMap<String, UpdateState> = BTreeMap::new();
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
                code: UNREACHABLE,
                message: format!("no end within {} s: {}", patience.as_secs(), names.join(", ")),
                hint: Some("nothing is lost: what was published is retained; `porin ls` shows how far they are".into()),
            }
            .into());
        };
        let Some((gateway, account)) = account(&topic, &payload) else { continue };
        // Whoever else writes there has another key.
        let Some(earlier) = before.get(&gateway).filter(|earlier| earlier.key == account.key) else { continue };
        let ours = account.desired.as_ref() == Some(&(desired.target.clone(), desired.seq));
        let outcome = match (ours, account.state, &account.reason) {
            // The same number may be another operator's.
            (true, UpdateState::Confirmed, _) if is_same(&account.set, &desired.set) => Some(Outcome::Confirmed),
            (true, UpdateState::Rejected | UpdateState::RolledBack | UpdateState::Inconsistent, Some(reason)) => {
                Some(Outcome::Refused(account.state.name(), reason.clone()))
            }
            (false, _, _) => {
                let known = if account.epoch == earlier.epoch { earlier.refusals } else { 0 };
                // Something else may have been refused, such as what was retained there before: ours may still come.
                if let Some(reason) = account.refused.clone().filter(|_| account.refusals > known) {
                    doubts.insert(gateway.clone(), (Instant::now(), reason));
                }
                None
            }
            _ => None,
        };
        if ours {
            doubts.remove(&gateway);
        }
        if ours && last.insert(gateway.clone(), account.state) != Some(account.state) {
            let why = account.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
            eprintln!("{:>5.1} s  {gateway}: {}{why}", start.elapsed().as_secs_f64(), account.state.name());
        }
        if let Some(outcome) = outcome {
            waiting.remove(&gateway);
            outcomes.insert(gateway, outcome);
        }
    }
    if !outcomes.values().any(|outcome| *outcome == Outcome::Confirmed) {
        History::of(keys, &desired.target).refused(desired.seq)?;
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
    use std::io::Write;
    let refused = outcomes.iter().find_map(|(gateway, outcome)| match outcome {
        Outcome::Confirmed => None,
        Outcome::Refused(state, reason) => Some((gateway, *state, reason)),
    });
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
        writeln!(std::io::stdout().lock(), "{said}")?;
    }
    let Some((gateway, state, reason)) = refused else { return Ok(()) };
    let slot = reason.slot.as_ref().map_or_else(String::new, |slot| format!(" (slot `{slot}`)"));
    let hint = match reason.code.as_str() {
        "not-granted" => Some("--grant allows it, if the gateway's policy does, too"),
        "below-floor" => Some("a lower number than may run; release the cell again"),
        "too-few-signatures" => Some("does the gateway's [updates] root belong to these keys? `porin keys show`"),
        "other-nonce" => Some("the gateway has been started anew meanwhile; push again"),
        _ => None,
    };
    Err(Failure {
        code: REFUSED,
        message: format!("{gateway}: {state}: {reason}{slot}; what ran before runs on"),
        hint: hint.map(Into::into),
    }
    .into())
}
