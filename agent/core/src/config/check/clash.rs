//! What is right by itself and does not go together: circles, and two that want the same thing.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::ops::Range;

use super::{Checked, Parser};
use crate::{
    config::{
        Broker, CellSet, GatewayConfig, GpioLine, LinesFrom, LogTo, RotatedFile, Route, Sink, SinkKind, Slot, Source,
        SourceKind, TopicTemplate,
    },
    mapping::TopicFilter,
};

/// Stands for a stream's name in a topic.
const STREAM: &str = "\u{1}";

impl Parser<'_> {
    /// A source that receives what a route publishes, or a slot's cell logs, on the same broker would never come to rest; nor would one that
    /// follows a file that is written here.
    pub(in super::super) fn no_circle(
        &self,
        source: &Source,
        span: Range<usize>,
        gateway: &GatewayConfig,
        cells: &CellSet,
    ) -> Checked<()> {
        let circle = |who: &str, how: &str| {
            let source = &source.name;
            self.fail(span.clone(), format!("source `{source}` would receive what {who} {how}"))
        };
        if let SourceKind::Lines(lines) = &source.kind
            && let LinesFrom::File(path) = &lines.from
        {
            return match written(gateway, cells).find(|(_, written)| *written == path) {
                Some((who, _)) => circle(&who, "writes"),
                None => Ok(()),
            };
        }
        let SourceKind::Mqtt(mqtt) = &source.kind else { return Ok(()) };
        let is_same = |broker: &Broker| (host(broker), broker.port) == (host(&mqtt.broker), mqtt.broker.port);
        let receives = |topic: &str| mqtt.topics.iter().any(|mapping| mapping.filter.captures(topic).is_some());
        let receives_any = |topic: &TopicTemplate, route: &Route| {
            let may_be = |filter| streams(&topic.fill(&gateway.id, &route.name, STREAM), filter);
            let mut names = mqtt.topics.iter().flat_map(|mapping| may_be(&mapping.filter));
            names.any(|(name, is_whole)| {
                receives(&topic.fill(&gateway.id, &route.name, &name)) && !(is_whole && never_has(route, &name))
            })
        };
        const SAME: &str = "publishes on the same broker";
        let is_uplink = is_same(&gateway.uplink.broker);
        for route in &cells.routes {
            if is_uplink && route.uplink && receives_any(&route.topic, route) {
                return circle(&format!("route `{}`", route.name), SAME);
            }
            for slot in &route.slots {
                if is_uplink && matches!(&slot.log, LogTo::Mqtt(topic) if receives(topic)) {
                    return circle(&log_of(slot), SAME);
                }
            }
            for sink in gateway.sinks.iter().filter(|sink| route.sinks.contains(&sink.name)) {
                if let SinkKind::Mqtt(local) = &sink.kind
                    && is_same(&local.link.broker)
                    && receives_any(&local.topic, route)
                {
                    return circle(&named(sink), SAME);
                }
            }
        }
        Ok(())
    }

    /// Two sinks that want the same line, file or client id would spoil each other's work. A file that rotates has all the names of
    /// its older ones.
    pub(super) fn no_clash(&self, gateway: &GatewayConfig, cells: &CellSet, places: &[Range<usize>]) -> Checked<()> {
        let mut taken: Vec<(String, String)> = Vec::new();
        for source in &gateway.sources {
            if let SourceKind::Gpio(gpio) = &source.kind {
                let who = format!("source `{}`", source.name);
                taken.extend(gpio.inputs.iter().map(|input| (line(&input.line), who.clone())));
            }
        }
        let mut files: Vec<(String, RotatedFile)> =
            files_of_the_outbox(gateway).map(|file| ("the outbox".to_string(), file)).collect();
        files.extend(logs(cells).map(|(who, file)| (who, file.clone())));
        for (sink, place) in gateway.sinks.iter().zip(places) {
            let wants = match &sink.kind {
                SinkKind::File(file) => {
                    if let Some((who, name)) = files.iter().find_map(|(who, has)| Some((who, shared_name(has, file)?)))
                    {
                        return self.fail(place.clone(), format!("{}: {who} has file {name} already", named(sink)));
                    }
                    files.push((named(sink), file.clone()));
                    continue;
                }
                SinkKind::Gpio(output) => line(&output.line),
                SinkKind::Mqtt(local) => {
                    let broker = &local.link.broker;
                    format!("client id {} at {}:{}", local.link.client_id, host(broker), broker.port)
                }
            };
            if let Some((_, who)) = taken.iter().find(|(what, _)| *what == wants) {
                return self.fail(place.clone(), format!("{}: {who} has {wants} already", named(sink)));
            }
            taken.push((wants, named(sink)));
        }
        Ok(())
    }

    /// Logs of two slots may share a file, but not have each other's older ones.
    pub(super) fn no_clash_of_logs(&self, slot: Range<usize>, logs: &[RotatedFile], log: &RotatedFile) -> Checked<()> {
        let others = logs.iter().filter(|other| other.path != log.path);
        match others.filter_map(|other| shared_name(other, log)).next() {
            Some(name) => self.fail(slot, format!("log file `{name}`: the log of another slot has it already")),
            None => Ok(()),
        }
    }
}

/// The store and what lies beside it.
fn files_of_the_outbox(gateway: &GatewayConfig) -> impl Iterator<Item = RotatedFile> {
    let path = &gateway.outbox.path;
    let stem = path.strip_suffix(".redb").unwrap_or(path);
    let beside = ["running", "reserve", "new"].map(|what| format!("{stem}.redb.{what}"));
    core::iter::once(path.clone()).chain(beside).map(|path| RotatedFile { path, max_bytes: 0, keep: 0 })
}

/// A name that both files have, or would have once they rotate.
fn shared_name<'a>(one: &'a RotatedFile, other: &'a RotatedFile) -> Option<&'a str> {
    let is_older = |of: &RotatedFile, name: &str| {
        let number = name.strip_prefix(&of.path).and_then(|rest| rest.strip_prefix('.'));
        let number = number.filter(|number| !number.starts_with(['0', '+'])).and_then(|number| number.parse().ok());
        number.is_some_and(|number: u32| number <= of.keep)
    };
    if one.path == other.path || is_older(one, &other.path) {
        Some(&other.path)
    } else {
        is_older(other, &one.path).then_some(one.path.as_str())
    }
}

/// Files that are written, and by whom.
fn written<'a>(gateway: &'a GatewayConfig, cells: &'a CellSet) -> impl Iterator<Item = (String, &'a String)> {
    let sinks = gateway.sinks.iter().filter_map(|sink| match &sink.kind {
        SinkKind::File(file) => Some((named(sink), &file.path)),
        SinkKind::Gpio(_) | SinkKind::Mqtt(_) => None,
    });
    sinks.chain(logs(cells).map(|(who, file)| (who, &file.path)))
}

fn logs(cells: &CellSet) -> impl Iterator<Item = (String, &RotatedFile)> {
    cells.slots().filter_map(|slot| match &slot.log {
        LogTo::File(file) => Some((log_of(slot), file)),
        LogTo::Journal | LogTo::Mqtt(_) => None,
    })
}

fn log_of(slot: &Slot) -> String {
    format!("the log of slot `{}`", slot.name)
}

fn named(sink: &Sink) -> String {
    format!("sink `{}`", sink.name)
}

fn line(line: &GpioLine) -> String {
    match line {
        GpioLine::Named(name) => format!("line {name}"),
        GpioLine::Numbered(chip, number) => format!("line {chip}:{number}"),
    }
}

/// This machine has several names for itself.
fn host(broker: &Broker) -> &str {
    match broker.host.as_str() {
        "localhost" | "::1" => "127.0.0.1",
        other => other,
    }
}

/// What a stream would be called whose topic a filter chooses, and whether the filter says all of it. A name has one to three levels.
fn streams(topic: &str, filter: &TopicFilter) -> Vec<(String, bool)> {
    let filter = filter.mqtt();
    let levels: Vec<_> = filter.split('/').collect();
    // Where the stream's name is, if it has levels of its own.
    let start = topic.split('/').position(|level| level == STREAM);
    let name = |count: usize| {
        let level = |index: usize| {
            let level = start.and_then(|start| levels.get(start + index)).filter(|level| !["+", "#"].contains(level));
            level.copied()
        };
        let name = (0..count).map(|index| level(index).unwrap_or("x")).collect::<Vec<_>>().join("/");
        (name, (0..count).all(|index| level(index).is_some()))
    };
    (1..=3).map(name).collect()
}

/// Whether a route has no stream of this name, as far as it can be told: outputs of cells have names of their own.
fn never_has(route: &Route, stream: &str) -> bool {
    route.slots.iter().all(|slot| slot.outputs.is_empty())
        && !route.streams.iter().any(|pattern| pattern.matches(stream))
}
