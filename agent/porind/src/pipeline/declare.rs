//! Streams and cells: which streams a route's slots are told of, at the start and when a new one appears.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow};
use porin_core::{
    config::{Config, GatewayConfig, Slot, StreamConfig},
    ids::{Overflow, StreamId},
    packet::PacketKind,
    setup::{Setup, StreamInfo, World},
    stream::{Full, NameTable, check_name},
};

use super::{Flow, Pipeline, Recorder, Route, Stream};
use crate::{
    cells::{LoadedRoute, LoadedSlot},
    slot::AnySlot,
    source,
};

/// What to do with a stream that a cell does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is the owner's mistake: nothing starts.
    Fail,
    /// It came from outside in an earlier run: its packets get the fault policy, as they did then.
    Refuse,
}

impl Pipeline {
    /// Starts every cell, with the streams that earlier runs have seen.
    pub(crate) fn start(
        config: &Config,
        routes: Vec<LoadedRoute>,
        names: NameTable,
        kinds: Vec<(StreamId, PacketKind)>,
        unfit: Unfit,
    ) -> anyhow::Result<Self> {
        let known = known_streams(&config.gateway);
        let (streams, touched) = (Vec::new(), Vec::new());
        let seen = kinds.iter().copied().collect();
        let mut pipeline = Self { names, known, streams, routes: Vec::new(), kinds, seen, touched };
        let slots = routes.iter().flat_map(|route| &route.slots);
        let templates: Vec<_> = slots.flat_map(|slot| slot.config.outputs.clone()).collect();
        for LoadedRoute { id, config, slots } in routes {
            let wanted = |name: &str| config.streams.iter().any(|pattern| pattern.matches(name));
            let names = (0..).map(StreamId).zip(pipeline.names.names());
            let names = names.filter(|(_, name)| wanted(name) && !made_by_a_slot(name, &templates, &pipeline.names));
            // Streams of the other kind are declared when they bring something after all.
            let had = |id: StreamId, kind| pipeline.seen.contains(&(id, kind));
            let unknown = |id| !had(id, PacketKind::Readings) && !had(id, PacketKind::Messages);
            let names = names.filter(|(id, _)| had(*id, config.input) || unknown(*id));
            let declared: BTreeSet<_> = names.map(|(id, _)| id).collect();
            let streams: Vec<_> = declared.iter().copied().collect();
            let (slots, misfits) = match (pipeline.start_slots(&slots, &streams), unfit) {
                (Ok(started), _) => (started, false),
                (Err(error), Unfit::Fail) => return Err(error),
                // One of the streams that earlier runs have seen does not fit. One by one it shows which.
                (Err(_), Unfit::Refuse) => (pipeline.start_slots(&slots, &[])?, true),
            };
            let declared = if misfits { BTreeSet::new() } else { declared };
            let index = pipeline.routes.len();
            pipeline.routes.push(Route {
                id,
                config,
                slots,
                declared,
                received: 0,
                forwarded: 0,
                recorder: Recorder::default(),
                readings: Flow::default(),
                messages: Flow::default(),
            });
            if misfits {
                streams.iter().for_each(|stream| pipeline.declare(index, *stream));
            }
            for slot in &mut pipeline.routes[index].slots {
                slot.restore_stored();
            }
        }
        Ok(pipeline)
    }

    /// Starts the cells of a route with these streams and what its slots make of them.
    fn start_slots(&mut self, slots: &[LoadedSlot], streams: &[StreamId]) -> anyhow::Result<Vec<AnySlot>> {
        let mut streams = streams.to_vec();
        let mut started = Vec::new();
        for slot in slots {
            let mut outputs = Vec::new();
            for stream in &streams {
                let made = self.outputs(*stream, &slot.config.outputs);
                outputs.extend(made.with_context(|| format!("slot `{}`", slot.config.name))?);
            }
            let setup = Setup {
                params: slot.config.params.clone(),
                streams: streams.iter().map(|stream| self.info(*stream)).collect(),
                outputs: outputs.iter().map(|stream| self.info(*stream)).collect(),
            };
            after(slot.config.world, &mut streams, outputs);
            started.push(slot.start(setup)?);
        }
        Ok(started)
    }

    /// The id of a stream that a source has packets of. New ones are declared to the cells of their routes.
    ///
    /// # Errors
    /// [`Full`] beyond `max_streams`.
    pub fn admit(&mut self, name: &str, kind: PacketKind) -> Result<StreamId, Full> {
        let id = self.names.intern(name)?;
        if self.streams.len() <= id.0 as usize {
            self.streams.resize_with(self.names.names().len(), Stream::default);
        }
        if self.streams[id.0 as usize].routes.of(kind).is_none() {
            let mut routes = Vec::new();
            for index in 0..self.routes.len() {
                let config = &self.routes[index].config;
                let wanted = config.input == kind && config.streams.iter().any(|pattern| pattern.matches(name));
                if wanted {
                    // A stream of an earlier run was declared at the start.
                    if !self.routes[index].declared.contains(&id) {
                        self.declare(index, id);
                    }
                    routes.push(index);
                }
            }
            *self.streams[id.0 as usize].routes.of(kind) = Some(routes.into());
            if self.seen.insert((id, kind)) {
                self.kinds.push((id, kind));
            }
        }
        Ok(id)
    }

    /// Whether a route that gives up nothing wants the stream: then its source may have to wait.
    pub(crate) fn may_block(&mut self, id: StreamId, kind: PacketKind) -> bool {
        let Some(stream) = self.streams.get_mut(id.0 as usize) else { return false };
        let routes = stream.routes.of(kind).as_deref().unwrap_or_default();
        let mut configs = routes.iter().map(|route| &self.routes[*route].config);
        configs.any(|route| route.uplink && route.queue.overflow() == Overflow::Block)
    }

    /// Declares a new stream to the slots of a route, in order. Where a cell does not take it, its packets get that slot's fault policy.
    fn declare(&mut self, route: usize, stream: StreamId) {
        let mut streams = vec![stream];
        for slot in 0..self.routes[route].slots.len() {
            let Slot { outputs: templates, world, .. } = self.routes[route].slots[slot].config().clone();
            let mut made = Vec::new();
            for stream in streams.clone() {
                let (outputs, info) = (self.outputs(stream, &templates), self.info(stream));
                match outputs {
                    Ok(outputs) => {
                        let infos = outputs.iter().map(|output| self.info(*output)).collect();
                        if self.routes[route].slots[slot].add_stream(info, infos) {
                            made.extend(outputs);
                        }
                    }
                    Err(error) => self.routes[route].slots[slot].refuse(stream, info.name, &format!("{error:#}")),
                }
            }
            after(world, &mut streams, made);
        }
        self.routes[route].declared.insert(stream);
    }

    /// The further streams that a slot with these templates may emit on for `stream`.
    fn outputs(&mut self, stream: StreamId, templates: &[String]) -> anyhow::Result<Vec<StreamId>> {
        let name = self.name(stream).to_owned();
        let output = |template: &String| {
            let output = template.replace("{stream}", &name);
            check_name(&output).map_err(|error| anyhow!("the output `{output}` has {error}"))?;
            self.names
                .intern(&output)
                .map_err(|Full| anyhow!("no room for the output `{output}`: `max_streams` is reached"))
        };
        templates.iter().map(output).collect()
    }

    fn info(&self, id: StreamId) -> StreamInfo {
        let name = self.name(id).to_owned();
        let StreamConfig { unit, params, calibration: _ } = self.known.get(&name).cloned().unwrap_or_default();
        StreamInfo { id, name, unit, params }
    }
}

/// What is known of streams: what the configuration says, and units that their sources know.
fn known_streams(gateway: &GatewayConfig) -> BTreeMap<String, StreamConfig> {
    let mut known = gateway.streams.clone();
    for (stream, unit) in gateway.sources.iter().flat_map(|source| source::units(&source.kind)) {
        let stream = known.entry(stream).or_default();
        if stream.unit.is_empty() {
            unit.clone_into(&mut stream.unit);
        }
    }
    known
}

/// The streams that come out of a slot: its outputs besides those fed in, unless they were messages that are now readings.
fn after(world: World, streams: &mut Vec<StreamId>, outputs: Vec<StreamId>) {
    if world == World::Decoder {
        streams.clear();
    }
    streams.extend(outputs);
}

/// Whether a known name is that of an output: a route chooses among what sources make, not what slots make.
fn made_by_a_slot(name: &str, templates: &[String], names: &NameTable) -> bool {
    templates.iter().any(|template| {
        let Some((before, after)) = template.split_once("{stream}") else { return false };
        let inner = name.strip_prefix(before).and_then(|name| name.strip_suffix(after));
        inner.is_some_and(|inner| inner != name && names.get(inner).is_some())
    })
}
