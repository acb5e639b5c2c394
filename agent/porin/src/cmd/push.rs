//! `porin push`: a cell into a slot of a gateway that runs, signed, over its broker; and how it did there.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use porin_core::{
    config::microseconds,
    payload::{self, Decoded},
    topic::{Topic, TopicKind},
    trust::{
        self, Digest, Envelope, Gateway, Memory, Release, Reported, Target, Time, Verified, documents::PIECE, recall,
    },
};
use porind::wall_clock;
use serde_json::json;
use toml::{Table, Value};

use super::release::{About, Released, read_component, release};
use crate::{
    cloud::{BrokerArguments, Cloud},
    failure::{Exit, Failure},
    fleet::{self, NewKey, Outcome},
    keys::KeyFolder,
};

/// Packets that are shown at the end, and how long they are waited for.
const DECISIONS: usize = 3;
const DECISIONS_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The component; its release is the file beside it with `.release`, or is signed now
    cell: PathBuf,
    /// A gateway's id, or group:NAME
    #[arg(long, value_name = "GW", value_parser = fleet::target)]
    to: Target,
    /// Slot [default: the only one]
    #[arg(long)]
    slot: Option<String>,
    /// A parameter of the cell, NAME=VALUE; may be given several times. The others stay, unless the slot had another cell
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = parameter)]
    params: Vec<(String, Value)>,
    /// Remove a parameter of the slot; may be given several times
    #[arg(long = "unset", value_name = "NAME")]
    unset: Vec<String>,
    /// Grant an import: log, clock; may be given several times
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<String>,
    #[command(flatten)]
    proof: Proof,
    /// Refuse releases of this cell with a lower number from now on
    #[arg(long, value_name = "N")]
    min_seq: Option<u64>,
    #[command(flatten)]
    about: About,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    operator: Operator,
}

/// What the operator agrees to beforehand.
#[derive(Debug, clap::Args)]
pub(crate) struct Consent {
    /// Also sign differences besides that slot; without it, they are printed and nothing is signed
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What a new set must go through before it is kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Proof {
    /// How long to compare the new cell's output without sending it
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    shadow: String,
    /// How long to send its output while the old cell runs beside it
    #[arg(long, value_name = "TIME", default_value = "1min", value_parser = time)]
    canary: String,
    /// Packets that each new cell must have in both stages
    #[arg(long, value_name = "N", default_value_t = 100)]
    packets: u32,
}

/// Who pushes, over which broker, and how long he waits.
#[derive(Debug, clap::Args)]
pub(crate) struct Operator {
    #[command(flatten)]
    pub(crate) broker: BrokerArguments,
    /// Folder with the operator's key [default: `porin/keys` in the folder of the user's configuration]
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
    /// Accept a gateway that reports another key or store than before, because its store was lost
    #[arg(long)]
    new_key: bool,
    /// How long to wait; what was published stays
    #[arg(long, value_name = "TIME", default_value = "30min", value_parser = time)]
    pub(crate) wait: String,
    /// Print JSON at the end
    #[arg(long)]
    pub(crate) json: bool,
}

impl Operator {
    pub(crate) fn new_key(&self) -> NewKey {
        if self.new_key { NewKey::Accepted } else { NewKey::Refused }
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_micros(microseconds(&self.wait).unwrap_or_default())
    }
}

impl Proof {
    /// Writes it down in the text of a desired state.
    pub(crate) fn write(&self, table: &mut Table) {
        let mut proof = Table::new();
        proof.insert("shadow".into(), self.shadow.clone().into());
        proof.insert("canary".into(), self.canary.clone().into());
        proof.insert("packets".into(), i64::from(self.packets).into());
        table.insert("probation".into(), proof.into());
    }
}

/// A time, for whoever writes `5m` for five minutes.
pub(super) fn time(text: &str) -> Result<String, String> {
    // `5m` is what everybody writes; in a configuration it would be neither minutes nor metres.
    let text = match text.strip_suffix('m') {
        Some(minutes) if minutes.bytes().all(|byte| byte.is_ascii_digit()) => format!("{minutes}min"),
        _ => text.to_owned(),
    };
    microseconds(&text).map(|_| text)
}

fn parameter(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    let parsed = toml::from_str::<Table>(&format!("x = {value}")).ok().and_then(|mut table| table.remove("x"));
    Ok((name.to_owned(), parsed.unwrap_or_else(|| value.into())))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { cell, to, operator, .. } = arguments;
    let keys = KeyFolder::at(operator.keys.as_deref())?;
    let released = released(&keys, cell, arguments.slot.as_deref(), &arguments.about)?;
    let mut cloud = Cloud::connect(&operator.broker)?;
    let members = fleet::members(&mut cloud, &keys, to, operator.new_key())?;
    let base = fleet::base(&mut cloud, &keys, to, &members)?;
    let mut order =
        fleet::order(&mut cloud, &keys, to, &members, |seq| new_text(&base, arguments, &released, &members, seq))?;
    let Released { component, release, digest, envelope } = released;
    let pieces = (0..).zip(component.chunks(PIECE));
    let blob =
        |(piece, bytes): (u32, &[u8])| (Topic::Blob { component: release.sha256, piece }.to_string(), bytes.to_vec());
    let mut publishes: Vec<_> = pieces.map(blob).collect();
    publishes.push((Topic::Release { digest }.to_string(), envelope));
    // What a desired state names is there before it.
    order.publishes.splice(0..0, publishes);
    eprintln!(
        "{} {}, number {}, {} bytes, for {} in desired state {}",
        release.cell,
        release.semver,
        release.seq,
        release.size,
        fleet::name(to),
        order.desired.seq
    );
    if let Target::Gateway(id) = to {
        cloud.subscribe(&TopicKind::Data.filter(&[id]))?;
    }
    order.publish(&mut cloud, &keys)?;
    let outcomes = fleet::follow(&mut cloud, &keys, &order.desired, &members, operator.patience())?;
    let decisions = match to {
        Target::Gateway(id) if outcomes.values().all(|outcome| *outcome == Outcome::Confirmed) => {
            decisions(&mut cloud, id, route_of(&order.desired.set, &digest).as_deref())?
        }
        Target::Gateway(_) | Target::Group(_) => Vec::new(),
    };
    if !operator.json {
        let mut stdout = crate::output::stdout();
        decisions.iter().try_for_each(|packet| writeln!(stdout, "{packet}"))?;
    }
    let more = [("release", json!(digest.to_string())), ("cell", json!(release.cell)), ("decisions", json!(decisions))];
    fleet::conclude(&order.desired, &outcomes, &more, operator.json)
}

/// The release beside a component, or one that is signed now.
fn released(keys: &KeyFolder, cell: &Path, slot: Option<&str>, about: &About) -> anyhow::Result<Released> {
    let beside = cell.with_extension("release");
    if !beside.exists() {
        return release(keys, cell, about);
    }
    if about.says_something() {
        return Err(Failure {
            exit: Exit::Usage,
            message: format!("{} says already what the cell is", beside.display()),
            hint: Some(
                "--name, --seq, --semver, --board and --passes go with `porin release`, or without that file".into(),
            ),
        }
        .into());
    }
    let (component, _) = read_component(cell)?;
    let envelope = fs::read(&beside).with_context(|| format!("cannot read {}", beside.display()))?;
    let document = Envelope::decode(&envelope).and_then(|envelope| recall::<Release>(&envelope.payload));
    let document = document.map_err(|refusal| Failure {
        exit: Exit::Refused,
        message: format!("{}: {refusal}", beside.display()),
        hint: None,
    })?;
    if document.sha256 != Digest::of(&component) {
        return Err(Failure {
            exit: Exit::Refused,
            message: format!("{} is of another component than {}", beside.display(), cell.display()),
            hint: Some("`porin release` makes the one that fits; without the file it is made now".into()),
        }
        .into());
    }
    let digest = document.digest();
    // As the gateway will: it would wait for one that is signed by who counts.
    let (root, gateway) = (keys.root()?, Gateway { id: "", groups: &[], board: None, memory: Memory::Numbers });
    let slot = slot.unwrap_or("*");
    trust::release(&root, &envelope, digest, |_| 0, Time::Known(wall_clock()), gateway, slot).map_err(|refusal| {
        Failure {
            exit: Exit::Refused,
            message: format!("{}: {refusal}", beside.display()),
            hint: Some("`porin release` makes it again; without the file it is made now".into()),
        }
    })?;
    Ok(Released { component, release: (*document).clone(), digest, envelope })
}

/// The signed cell that gateways report in a slot, if they agree.
fn cell_before<'a>(members: &'a BTreeMap<String, Verified<Reported>>, slot: &str) -> Option<&'a str> {
    let slots = members.values().flat_map(|account| &account.slots).filter(|report| report.name == slot);
    let mut cells = slots.map(|report| report.release.as_ref().map(|release| release.cell.as_str()));
    let first = cells.next()??;
    cells.all(|cell| cell == Some(first)).then_some(first)
}

/// The text with the cell in its slot.
fn new_text(
    base: &str,
    arguments: &Arguments,
    released: &Released,
    members: &BTreeMap<String, Verified<Reported>>,
    seq: u64,
) -> anyhow::Result<String> {
    let mut table = fleet::table(base)?;
    let mut slots = fleet::slots(&mut table);
    let names = slots.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(", ");
    let index = match &arguments.slot {
        Some(wanted) => slots.iter().position(|(name, _)| name == wanted),
        None if slots.len() == 1 => Some(0),
        None => bail!(Failure {
            exit: Exit::Usage,
            message: format!("which slot? {names}"),
            hint: Some("--slot NAME".into())
        }),
    };
    let Some(index) = index else {
        let wanted = arguments.slot.as_deref().unwrap_or_default();
        bail!(Failure {
            exit: Exit::Usage,
            message: format!("there is no slot `{wanted}`; there are: {names}"),
            hint: None
        });
    };
    let name = slots[index].0.clone();
    let slot = &mut slots[index].1;
    // Parameters mean something to the cell that they were given to.
    if let Some(before) = cell_before(members, &name).filter(|before| *before != released.release.cell)
        && let Some(Value::Table(params)) = slot.remove("params")
    {
        let params = params.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        eprintln!("note: {params} of {before} do not go over to {}", released.release.cell);
    }
    for name in &arguments.unset {
        let params = slot.get_mut("params").and_then(Value::as_table_mut);
        if params.and_then(|params| params.remove(name)).is_none() {
            let message = format!("--unset {name}: the slot has no such parameter");
            bail!(Failure { exit: Exit::Usage, message, hint: Some("`porin desired show` lists them".into()) });
        }
    }
    slot.insert("cell".into(), format!("release:{}", released.digest).into());
    let number = |number: u64| i64::try_from(number).map(Value::from).context("a number that is too high");
    // Somebody wants it now, whatever became of it before.
    slot.insert("retry".into(), number(seq)?);
    slot.insert("world".into(), released.release.world.clone().into());
    if let Some(min_seq) = arguments.min_seq {
        ensure!(
            min_seq <= released.release.seq,
            "--min-seq {min_seq}: the release has number {}",
            released.release.seq
        );
        slot.insert("min_seq".into(), number(min_seq)?);
    }
    if !arguments.grants.is_empty() {
        slot.insert("grants".into(), arguments.grants.clone().into());
    }
    if !arguments.params.is_empty() {
        let params = slot.entry("params").or_insert_with(|| Table::new().into());
        let params = params.as_table_mut().context("`params` of the slot is not a table")?;
        params.extend(arguments.params.iter().cloned());
    }
    arguments.proof.write(&mut table);
    let text = toml::to_string(&table)?;
    fleet::agreed(&text, &name, members, arguments.consent.yes)?;
    Ok(text)
}

/// The route of the slot with this release, where it publishes under its own name.
fn route_of(text: &str, release: &Digest) -> Option<String> {
    let mut table = fleet::table(text).ok()?;
    let cell = Value::from(format!("release:{release}"));
    let slot = fleet::slots(&mut table).into_iter().find(|(_, slot)| slot.get("cell") == Some(&cell))?.0;
    let routes = table.get("routes")?.as_table()?;
    let wants = |route: &Value| {
        let slots = route
            .get("slots")
            .and_then(Value::as_array)
            .is_some_and(|slots| slots.contains(&Value::from(slot.clone())));
        slots && route.get("topic").is_none()
    };
    routes.iter().find(|(_, route)| wants(route)).map(|(name, _)| name.clone())
}

/// The first packets that come from the slot's route after the new cell was kept; from any route where this one publishes elsewhere.
fn decisions(cloud: &mut Cloud, gateway: &str, route: Option<&str>) -> anyhow::Result<Vec<String>> {
    let data = Topic::Data { gateway, below: route.unwrap_or_default() }.to_string();
    let mut shown = Vec::new();
    let start = Instant::now();
    while shown.len() < DECISIONS
        && let Some((topic, payload)) = cloud.next(DECISIONS_WAIT.saturating_sub(start.elapsed()))?
    {
        if !topic.starts_with(&data) {
            continue;
        }
        let Ok(Decoded { packets, .. }) = payload::decode(&payload) else { continue };
        let line = |packet: payload::DecodedPacket| {
            format!("{} = {} at {} us", fleet::plain(&packet.stream), packet.value, packet.time_us)
        };
        shown.extend(packets.into_iter().map(line).take(DECISIONS - shown.len()));
    }
    Ok(shown)
}
