//! Routes and slots as a desired state says them: the grammar of a configuration, with less that may be said.
//!
//! A component is `release:<digest>`, or `local`: what the owner's own configuration has in the slot of this name. Nothing else of the machine can be
//! named: no files, and no topics but the gateway's own.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use toml::{Spanned, Table, Value};

use super::{
    CellSet, ConfigError, Defaults, GatewayConfig, Provenance,
    check::{Checked, Parser},
    raw,
};
use crate::{
    topic::TopicKind,
    trust::{Digest, Release, Verified},
};

/// How a release is named.
const RELEASE: &str = "release:";

/// The owner's own component in the slot of the same name.
const LOCAL: &str = "local";

/// What a new set must go through before it is kept, unless it says otherwise.
const SHADOW: &str = "10s";
const CANARY: &str = "1min";
const PACKETS: u64 = 100;

/// No verdict waits for more than this many packets, nor longer than a week.
const MAX_PACKETS: u64 = 1_000_000_000;
const MAX_PROBATION_US: u64 = 7 * 86_400_000_000;

/// What a desired state says, checked against the gateway that is to do it.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredSet {
    /// Routes and slots, complete.
    pub cells: CellSet,
    /// What it must go through.
    pub probation: Probation,
}

/// What a new set must go through before it is kept. Both times nothing: it is kept at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probation {
    /// So long what the new set puts out is compared and not sent, in microseconds.
    pub shadow_us: u64,
    /// So long it is sent, and the old one runs along, in microseconds.
    pub canary_us: u64,
    /// In each of them every new cell has had at least so many packets.
    pub packets: u64,
}

impl Probation {
    /// Whether it is kept at once.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.shadow_us == 0 && self.canary_us == 0
    }
}

/// What a slot of a desired state wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The slot.
    pub slot: String,
    /// The release in it; `None`: the owner's own component.
    pub release: Option<Digest>,
    /// The lowest number of the cell that may run from now on.
    pub min_seq: u64,
    /// What was rolled back may be tried again once this rises.
    pub retry: u64,
}

/// The releases that are known here, by digest.
pub type Releases = BTreeMap<Digest, Arc<Verified<Release>>>;

/// Where a text comes from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// The owner's own file.
    Owner,
    /// A desired state: with what the owner has configured, and the releases that are known.
    Operator { gateway: &'a GatewayConfig, local: &'a CellSet, releases: &'a Releases },
}

impl Origin<'_> {
    /// The component in a slot.
    pub(super) fn cell(&self, slot: &str, text: &str) -> Result<Provenance, String> {
        let Self::Operator { local, releases, .. } = self else { return Ok(Provenance::Local(text.to_string())) };
        match release(text)? {
            Some(digest) => {
                let known = releases.get(&digest).cloned();
                known.map(Provenance::Signed).ok_or_else(|| "the release is not known here".to_string())
            }
            None => {
                let mut slots = local.slots();
                let same = slots.find(|configured| configured.name == slot);
                same.map(|configured| configured.cell.clone())
                    .ok_or_else(|| "the gateway's own configuration has no slot of this name".to_string())
            }
        }
    }

    /// Whether the text may have something published there.
    pub(super) fn may_publish(&self, topic: &str, kind: TopicKind) -> Result<(), String> {
        let Self::Operator { gateway, .. } = self else { return Ok(()) };
        let own = kind.filter(&[&gateway.id, ""]);
        let template = kind.filter(&["{gw}", ""]);
        if topic.starts_with(&own) || topic.starts_with(&template) || topic == gateway.topic.0 {
            Ok(())
        } else {
            Err(format!("a desired state publishes below `{template}` only"))
        }
    }
}

/// `release:<digest>`, or `None` for `local`.
fn release(text: &str) -> Result<Option<Digest>, String> {
    match text.strip_prefix(RELEASE) {
        Some(digest) => Digest::parse(digest).map(Some).ok_or_else(|| format!("no digest: `{digest}`")),
        None if text == LOCAL => Ok(None),
        None => Err(format!("a desired state names `{RELEASE}<digest>` or `{LOCAL}`")),
    }
}

/// What the slots of a desired state want, before anything of it is here.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn wanted(text: &str) -> Result<Vec<Wanted>, ConfigError> {
    let parser = Parser { text, defaults: Defaults::default(), origin: Origin::Owner };
    let set: raw::Set = toml::from_str(text).map_err(|error| parser.toml_error(&error))?;
    let wanted = |(name, slot): (Spanned<String>, raw::Slot)| {
        let release = release(slot.cell.get_ref());
        let wrong = |what| parser.fail(slot.cell.span(), format!("cell of slot `{}`: {what}", name.get_ref()));
        let number = |number: Option<Spanned<u64>>| number.map_or(0, Spanned::into_inner);
        let release = release.or_else(wrong)?;
        let (min_seq, retry) = (number(slot.min_seq), number(slot.retry));
        Ok(Wanted { slot: name.into_inner(), release, min_seq, retry })
    };
    set.slots.into_iter().map(wanted).collect()
}

impl DesiredSet {
    /// Reads and checks what a desired state says. `local`: what the owner has configured.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(
        text: &str,
        gateway: &GatewayConfig,
        local: &CellSet,
        releases: &Releases,
    ) -> Result<Self, ConfigError> {
        let origin = Origin::Operator { gateway, local, releases };
        let parser = Parser { text, defaults: Defaults::default(), origin };
        let raw: raw::Set = toml::from_str(text).map_err(|error| parser.toml_error(&error))?;
        let probation = parser.probation(&raw.probation)?;
        let cells = parser.cells(raw.slots, raw.routes, &gateway.topic, &gateway.id, &gateway.sinks)?;
        for source in &gateway.sources {
            parser.no_circle(source, 0..0, gateway, &cells)?;
        }
        Ok(Self { cells, probation })
    }
}

impl Parser<'_> {
    fn probation(&self, raw: &raw::Probation) -> Checked<Probation> {
        let time = |raw: Option<&Spanned<String>>, default| match self.time(raw, default)? {
            0..=MAX_PROBATION_US => self.time(raw, default),
            _ => self.fail(raw.map_or(0..0, Spanned::span), "probation: at most 7d".into()),
        };
        Ok(Probation {
            shadow_us: time(raw.shadow.as_ref(), SHADOW)?,
            canary_us: time(raw.canary.as_ref(), CANARY)?,
            packets: self.number(raw.packets.as_ref(), PACKETS, 0..=MAX_PACKETS)?,
        })
    }
}

/// The routes and slots of a text, as a desired state that keeps them would say it.
pub(super) fn text(of: &str) -> String {
    // It was read before.
    let mut table: Table = toml::from_str(of).unwrap_or_default();
    table.retain(|key, _| key == "routes" || key == "slots");
    let slots = table.get_mut("slots").and_then(Value::as_table_mut);
    for (_, slot) in slots.into_iter().flatten() {
        if let Some(cell) = slot.get_mut("cell")
            && cell.as_str().is_none_or(|cell| !cell.starts_with(RELEASE))
        {
            *cell = Value::String(LOCAL.into());
        }
    }
    toml::to_string(&table).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const OWN: &str = "[gateway]\nid = \"gw\"\n[uplink]\nbroker = \"mqtt://localhost\"\n\
        [slots.quiet]\ncell = \"/cells/deadband.wasm\"\nparams = { deadband = 0.5 }\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n";

    fn parse(text: &str) -> Result<DesiredSet, String> {
        let own = Config::parse(OWN).expect("good");
        DesiredSet::parse(text, &own.gateway, &own.cells, &Releases::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_owner_configured_can_be_said_as_a_desired_state_and_means_the_same() {
        let own = Config::parse(OWN).expect("good").cells;
        assert!(!own.text.contains("/cells"), "{}", own.text);
        let set = parse(&own.text).expect("good");
        assert_eq!(set.cells, own);
        assert_eq!(set.probation, Probation { shadow_us: 10_000_000, canary_us: 60_000_000, packets: 100 });
        let said = "[probation]\nshadow = \"0s\"\ncanary = \"5min\"\npackets = 7\n";
        let probation = parse(said).expect("good").probation;
        assert_eq!(probation, Probation { shadow_us: 0, canary_us: 300_000_000, packets: 7 });
    }

    #[test]
    fn a_desired_state_names_nothing_of_the_machine_and_no_topic_of_others() {
        let check = |slot: &str, route: &str, words: &str| {
            let text = format!(
                "[slots.quiet]\ncell = \"local\"\n{slot}\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n{route}"
            );
            let error = parse(&text).expect_err(words);
            assert!(error.contains(words), "{error}");
        };
        check("log.file = { path = \"/etc/passwd\" }", "", "only the owner's configuration names files");
        check("log.mqtt = { topic = \"porin/v1/gw/other/log/x\" }", "", "a desired state publishes below");
        check("", "sinks = [\"siren\"]", "sink `siren`: known is uplink");
        check("", "topic = \"porin/v1/gw/{gw}/state\"", "a desired state publishes below");
        check("", "topic = \"porin/v1/gw/other/data/x\"", "a desired state publishes below");
        let error = |text: &str| parse(text).expect_err(text);
        assert!(error("[sources.x.replay]\nfile = \"/etc/passwd\"\nstreams = \"x\"").contains("unknown field"));
        assert!(error("[sinks.x.file]\npath = \"/etc/passwd\"").contains("unknown field"));
        for cell in ["/etc/passwd", "release:12", "release:../../x", "localx"] {
            let text =
                format!("[slots.quiet]\ncell = \"{cell}\"\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]");
            assert!(error(&text).contains("a desired state names") || error(&text).contains("no digest"), "{cell}");
            assert!(wanted(&text).is_err(), "{cell}");
        }
        let elsewhere = "[slots.other]\ncell = \"local\"\n[routes.all]\nstreams = [\"#\"]\nslots = [\"other\"]";
        assert!(error(elsewhere).contains("has no slot of this name"));
        let own = format!("{OWN}min_seq = 3\n")
            .replace("[routes.all]", "retry = 1\n[routes.all]")
            .replace("min_seq = 3\n", "");
        assert!(Config::parse(&own).expect_err("not here").message.contains("are for releases"));
    }

    #[test]
    fn what_is_wanted_is_known_before_anything_of_it_is_here() {
        let digest = Digest([7; 32]);
        let text =
            format!("[slots.a]\ncell = \"release:{digest}\"\nmin_seq = 4\nretry = 2\n[slots.b]\ncell = \"local\"");
        let want = |slot: &str, release, min_seq, retry| Wanted { slot: slot.into(), release, min_seq, retry };
        assert_eq!(wanted(&text), Ok(alloc::vec![want("a", Some(digest), 4, 2), want("b", None, 0, 0)]));
        let error = wanted("[slots.a]\ncells = \"local\"").expect_err("misspelt");
        assert_eq!(error.line, 2);
        let unfetched =
            format!("[slots.a]\ncell = \"release:{digest}\"\n[routes.r]\nstreams = [\"#\"]\nslots = [\"a\"]");
        assert!(parse(&unfetched).expect_err("not here").contains("not known here"));
    }
}
