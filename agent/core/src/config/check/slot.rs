//! Slots: which cell, what it is granted, what it may use, and what happens when it fails.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

use toml::Spanned;

use super::{Checked, MAX_TOPIC_BYTES, MAX_TOPIC_SLASHES, Parser, did_you_mean};
use crate::{
    config::{GRANTS, LogTo, Provenance, Slot, desired::Origin, nearest::nearest, raw},
    fault::FaultPolicy,
    health::Quarantine,
    limits::{CellLimits, LIMITS, Limit},
    setup::World,
    stream::check_name,
    topic::LOG_TEMPLATE,
    topic::TopicKind,
};

/// Each tick saves the cell's state: more often would be work for nothing.
const MIN_TICK_US: u64 = 100_000;

/// Failed calls that a slot remembers at most.
const MAX_QUARANTINE_FAULTS: u32 = 1_000;

impl Parser<'_> {
    /// Takes the slot out of `slots`, so that it cannot be used twice.
    pub(super) fn slot(
        &self,
        name: &Spanned<String>,
        slots: &mut BTreeMap<Spanned<String>, raw::Slot>,
        all: &BTreeSet<String>,
        gateway: &str,
    ) -> Checked<Slot> {
        let text = name.get_ref();
        let key = slots.keys().find(|key| key.get_ref() == text).cloned();
        let Some(raw) = key.and_then(|key| slots.remove(&key)) else {
            if all.contains(text) {
                return self.fail(name.span(), format!("slot `{text}` is used twice; a slot is one place for a cell"));
            }
            let guess = did_you_mean(nearest(text, all.iter().map(String::as_str)));
            return self.fail(name.span(), format!("there is no slot `{text}`{guess}"));
        };
        let worlds = World::ALL.map(|world| (world.name(), world));
        let world = self.one_of(raw.world.as_ref(), "world", World::Filter, &worlds)?;
        if world == World::Decoder && raw.outputs.is_empty() {
            return self.fail(name.span(), format!("slot `{text}` decodes, and names no `outputs` for its readings"));
        }
        for grant in &raw.grants {
            if !GRANTS.contains(&grant.get_ref().as_str()) {
                return self.choice(grant.span(), "grant", grant.get_ref(), &GRANTS);
            }
        }
        for output in &raw.outputs {
            let filled = output.get_ref().replacen("{stream}", "s", 1);
            if filled == *output.get_ref() {
                let message = format!("output `{}`: it must contain {{stream}}", output.get_ref());
                return self.fail(output.span(), message);
            }
            if let Err(error) = check_name(&filled) {
                return self.fail(output.span(), format!("output `{}`: it has {error}", output.get_ref()));
            }
        }
        let fault = self.one_of(raw.fault.as_ref(), "fault", FaultPolicy::default(), &FaultPolicy::ALL)?;
        if fault == FaultPolicy::Pass && world.input() != world.output() {
            let span = raw.fault.as_ref().map_or(0..0, Spanned::span);
            return self
                .fail(span, format!("fault `pass`: slot `{text}` decodes, and a message cannot go on as a reading"));
        }
        let cell = self.cell(text, &raw)?;
        let quarantine = raw.quarantine.map_or(Ok(Quarantine::default()), |raw| self.quarantine(&raw))?;
        let log = raw.log.map_or(Ok(LogTo::Journal), |log| self.log(log, text, gateway))?;
        let mut limits = CellLimits::default();
        for (limit, value) in self.limits(&raw.limits)? {
            (limit.set)(&mut limits, value);
        }
        let tick_us = raw.tick.as_ref().map(|tick| match self.time(Some(tick), "")? {
            0..MIN_TICK_US => self.fail(tick.span(), format!("tick `{}`: at least 100ms", tick.get_ref())),
            tick_us => Ok(tick_us),
        });
        Ok(Slot {
            tick_us: tick_us.transpose()?,
            name: text.clone(),
            cell,
            world,
            grants: raw.grants.into_iter().map(Spanned::into_inner).collect(),
            params: self.params(raw.params)?,
            outputs: raw.outputs.into_iter().map(Spanned::into_inner).collect(),
            fault,
            quarantine,
            log,
            limits,
        })
    }

    /// Which component, and who vouches for it.
    fn cell(&self, slot: &str, raw: &raw::Slot) -> Checked<Provenance> {
        let (span, text) = (raw.cell.span(), raw.cell.get_ref());
        if let (Origin::Owner, Some(at)) = (self.origin, raw.min_seq.as_ref().or(raw.retry.as_ref())) {
            return self.fail(at.span(), format!("slot `{slot}`: `min_seq` and `retry` are for releases"));
        }
        self.origin.cell(slot, text).or_else(|what| self.fail(span, format!("cell `{text}` of slot `{slot}`: {what}")))
    }

    fn quarantine(&self, raw: &raw::Quarantine) -> Checked<Quarantine> {
        let faults = self.number(Some(&raw.faults), 0, 0..=MAX_QUARANTINE_FAULTS)?;
        let within_us = self.time(raw.within.as_ref(), "1min")?;
        if within_us == 0 {
            return self.fail(raw.faults.span(), "quarantine: `within` must be more than nothing".into());
        }
        Ok(Quarantine { faults, within_us })
    }

    fn log(&self, raw: raw::Log, slot: &str, gateway: &str) -> Checked<LogTo> {
        match raw {
            raw::Log::Journal => Ok(LogTo::Journal),
            raw::Log::File(file) => match self.origin {
                Origin::Owner => Ok(LogTo::File(self.rotated(file, "log")?)),
                Origin::Operator { .. } => {
                    let path = file.path.get_ref();
                    let message = format!("log file `{path}`: only the owner's configuration names files");
                    self.fail(file.path.span(), message)
                }
            },
            raw::Log::Mqtt(raw::LogTopic { topic }) => {
                let span = topic.as_ref().map_or(0..0, Spanned::span);
                let template = topic.map_or_else(|| LOG_TEMPLATE.into(), Spanned::into_inner);
                let topic = template.replace("{gw}", gateway).replace("{slot}", slot);
                let wild = topic.contains(['+', '#', '\0', '{', '}']) || topic.starts_with('$') || topic.is_empty();
                let long = topic.len() > MAX_TOPIC_BYTES || topic.matches('/').count() > MAX_TOPIC_SLASHES;
                if wild || long {
                    return self.fail(
                        span,
                        format!("topic `{topic}` of a log: placeholders are {{gw}} and {{slot}}; no wildcards, not `$` first, at most {MAX_TOPIC_BYTES} bytes and {MAX_TOPIC_SLASHES} slashes"),
                    );
                }
                self.origin
                    .may_publish(&template, TopicKind::Log)
                    .or_else(|what| self.fail(span, format!("topic `{topic}` of a log: {what}")))?;
                Ok(LogTo::Mqtt(topic))
            }
        }
    }

    /// Limits by name, within their bounds.
    pub(in crate::config) fn limits(&self, raw: &raw::CellLimits) -> Checked<Vec<(&'static Limit, u64)>> {
        let mut set = Vec::new();
        for (name, value) in raw {
            let text = name.get_ref();
            let Some(limit) = LIMITS.iter().find(|limit| limit.name == text) else {
                let guess = did_you_mean(nearest(text, LIMITS.iter().map(|limit| limit.name)));
                return self.fail(name.span(), format!("there is no limit `{text}`{guess}"));
            };
            if !limit.bounds.contains(value.get_ref()) {
                let (start, end) = (limit.bounds.start(), limit.bounds.end());
                return self.fail(value.span(), format!("{text} = {}: {start} to {end}", value.get_ref()));
            }
            set.push((limit, *value.get_ref()));
        }
        Ok(set)
    }
}
