//! Sources: from the configuration as written to the types.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use toml::{Spanned, Value as Toml};

use super::{Checked, KEEP_ALIVE, Parser, did_you_mean, nearest, raw};
use crate::{
    config::{MqttSource, Replay, SimulatorSource, Source, SourceKind},
    mapping::{Field, Form, Mapping, TimeField, TimeUnit, TopicFilter},
    simulator::Behaviour,
    stream::check_name,
};

/// Publishes that mosquitto has under way to a client, unless it is told otherwise (`max_inflight_messages`).
const MQTT_WINDOW: u16 = 20;

impl Parser<'_> {
    pub(super) fn source(&self, name: &Spanned<String>, raw: raw::Source, gateway: &str) -> Checked<Source> {
        let kind = match raw {
            raw::Source::Replay(raw) => SourceKind::Replay(self.replay(name.get_ref(), raw)?),
            raw::Source::Mqtt(raw) => SourceKind::Mqtt(self.mqtt_source(name, raw, gateway)?),
            raw::Source::Simulator(raw) => SourceKind::Simulator(self.simulator(raw)?),
            raw::Source::Sensor(raw) => SourceKind::Sensor(self.sensor(name, raw)?),
            raw::Source::Sysfs(raw) => SourceKind::Sysfs(self.sysfs(name, raw)?),
            raw::Source::Modbus(raw) => SourceKind::Modbus(self.modbus(name, raw)?),
            raw::Source::Gpio(raw) => SourceKind::Gpio(self.gpio(name, raw)?),
            raw::Source::Udp(raw) => SourceKind::Lines(self.udp(name, raw)?),
            raw::Source::File(raw) => SourceKind::Lines(self.file(name, raw)?),
            raw::Source::Process(raw) => SourceKind::Lines(self.process(name, raw)?),
            raw::Source::Serial(raw) => SourceKind::Lines(self.serial(name, raw)?),
        };
        Ok(Source { name: name.get_ref().clone(), kind })
    }

    fn simulator(&self, raw: raw::Simulator) -> Checked<SimulatorSource> {
        let (template, count) = (raw.streams.get_ref(), self.number(raw.count.as_ref(), 1, 1..=10_000)?);
        if let Err(error) = check_name(&template.replace("{n}", "10000")) {
            return self.fail(raw.streams.span(), format!("streams `{template}`: it has {error}"));
        }
        if count > 1 && !template.contains("{n}") {
            return self
                .fail(raw.streams.span(), format!("streams `{template}`: {count} streams need {{n}} in their name"));
        }
        let as_fast_as_possible = match raw.speed.as_ref().map(|speed| (speed.get_ref().as_str(), speed.span())) {
            None => false,
            Some(("max", _)) => true,
            Some((other, span)) => return self.choice(span, "speed", other, &["max"]),
        };
        let probability = |raw: Option<&Spanned<f64>>| self.number(raw, 0.0, 0.0..=1.0);
        let every_us = match self.time(raw.every.as_ref(), "1s")? {
            0 => return self.fail(raw.every.map_or(0..0, |every| every.span()), "every: more than nothing".into()),
            every_us => every_us,
        };
        let behaviour = Behaviour {
            seed: raw.seed.unwrap_or(1),
            count,
            every_us,
            start: raw.start.unwrap_or(20.0),
            step: raw.step.unwrap_or(0.1),
            decimals: self.number(raw.decimals.as_ref(), 2, 0..=9)?,
            spikes: probability(raw.spikes.as_ref())?,
            spike: raw.spike.unwrap_or(10.0),
            drop_outs: probability(raw.drop_outs.as_ref())?,
            stuck: probability(raw.stuck.as_ref())?,
            clock_jumps: probability(raw.clock_jumps.as_ref())?,
        };
        let readings = raw.readings.unwrap_or(u64::MAX);
        Ok(SimulatorSource { streams: raw.streams.into_inner(), behaviour, as_fast_as_possible, readings })
    }

    fn replay(&self, name: &str, raw: raw::Replay) -> Checked<Replay> {
        let template = raw.streams.get_ref();
        if let Err(error) = check_name(&template.replace("{channel}", "c")) {
            return self.fail(raw.streams.span(), format!("streams `{template}` of source `{name}`: it has {error}"));
        }
        Ok(Replay {
            file: raw.file.into_inner(),
            speed: self.speed(raw.speed.as_ref())?,
            streams: raw.streams.into_inner(),
        })
    }

    /// Recorded seconds per second, or `None` for as fast as possible.
    fn speed(&self, raw: Option<&Spanned<Toml>>) -> Checked<Option<f64>> {
        match raw.map(|speed| (speed.get_ref(), speed.span())) {
            None => Ok(Some(1.0)),
            Some((Toml::String(text), _)) if text == "max" => Ok(None),
            Some((Toml::Float(factor), _)) if factor.is_finite() && *factor > 0.0 => Ok(Some(*factor)),
            #[allow(clippy::cast_precision_loss)]
            Some((Toml::Integer(factor), _)) if *factor > 0 => Ok(Some(*factor as f64)),
            Some((_, span)) => {
                let given = self.text.get(span.clone()).unwrap_or_default();
                self.fail(span, format!("speed {given}: a factor above 0, or \"max\" for as fast as possible"))
            }
        }
    }

    fn mqtt_source(&self, name: &Spanned<String>, raw: raw::Mqtt, gateway: &str) -> Checked<MqttSource> {
        let broker = self.broker(&raw.broker, raw.tls, raw.login)?;
        let client_id = self.client_id(raw.client_id.as_ref(), || format!("porin-{gateway}-{}", name.get_ref()))?;
        let keep_alive_s = self.keep_alive(raw.keep_alive.as_ref(), KEEP_ALIVE)?;
        let window = self.number(raw.window.as_ref(), MQTT_WINDOW, 1..=10_000)?;
        let acknowledged = match raw.qos.as_ref().map(|qos| (*qos.get_ref(), qos.span())) {
            None | Some((1, _)) => true,
            Some((0, _)) => false,
            Some((qos, span)) => return self.fail(span, format!("qos {qos}: 0 or 1")),
        };
        if raw.topics.is_empty() {
            return self.fail(name.span(), format!("source `{}` names no topics", name.get_ref()));
        }
        let topics = raw.topics.into_iter().map(|topic| self.mapping(topic)).collect::<Checked<_>>()?;
        Ok(MqttSource { broker, client_id, keep_alive_s, acknowledged, window, topics })
    }

    fn mapping(&self, raw: raw::Topic) -> Checked<Mapping> {
        let raw::Topic { filter, payload, streams, stream, base64, time, time_unit, values } = raw;
        let parsed = TopicFilter::parse(filter.get_ref());
        let wrong = |error| self.fail(filter.span(), format!("filter `{}`: {error}", filter.get_ref()));
        let topics = parsed.or_else(wrong)?;
        let kind = payload.as_ref().map_or("json", |payload| payload.get_ref().as_str());
        let one = |extra: &[&str]| match &stream {
            Some(stream) => self.template(stream, &topics, extra),
            None => self.fail(filter.span(), format!("payload `{kind}` needs `stream`, the name of its stream")),
        };
        let form = match kind {
            "json" => Form::Json(self.fields(&filter, &topics, streams.as_ref())?),
            "number" => Form::Number { stream: one(&[])? },
            "senml" => Form::Senml { stream: one(&["name"])? },
            "message" => {
                let base64 = base64.clone().map(|pointer| self.pointer(pointer)).transpose()?;
                Form::Message { stream: one(&[])?, base64 }
            }
            other => {
                let span = payload.as_ref().map_or(0..0, Spanned::span);
                return self.choice(span, "payload", other, &["json", "number", "senml", "message"]);
            }
        };
        let json = matches!(form, Form::Json(_));
        let message = matches!(form, Form::Message { .. });
        let in_json = json || base64.is_some();
        let misplaced = match (&streams, &stream, &base64, &time) {
            (Some(streams), ..) if !json => Some((streams.span(), "streams")),
            (_, Some(stream), ..) if json => Some((stream.span(), "stream")),
            (.., Some(base64), _) if !message => Some((base64.span(), "base64")),
            (.., Some(time)) if !in_json => Some((time.span(), "time")),
            _ => None,
        };
        if let Some((span, key)) = misplaced {
            return self.fail(span, format!("`{key}` does not go with payload `{kind}`"));
        }
        let unit = self.one_of(time_unit.as_ref(), "time_unit", TimeUnit::default(), &TimeUnit::ALL)?;
        let time = time.map(|pointer| Ok(TimeField { pointer: self.pointer(pointer)?, unit })).transpose()?;
        Ok(Mapping { filter: topics, form, time, values })
    }

    fn fields(
        &self,
        filter: &Spanned<String>,
        topics: &TopicFilter,
        streams: Option<&Spanned<BTreeMap<Spanned<String>, Spanned<String>>>>,
    ) -> Checked<Vec<Field>> {
        let Some(streams) = streams.filter(|streams| !streams.get_ref().is_empty()) else {
            let message = "payload `json` needs `streams`, a table of stream names with a JSON pointer each";
            return self.fail(filter.span(), message.into());
        };
        let field = |(stream, pointer): (&Spanned<String>, &Spanned<String>)| {
            let stream = self.template(stream, topics, &[])?;
            Ok(Field { stream, pointer: self.pointer(pointer.clone())? })
        };
        streams.get_ref().iter().map(field).collect()
    }

    fn pointer(&self, raw: Spanned<String>) -> Checked<String> {
        if raw.get_ref().is_empty() || raw.get_ref().starts_with('/') {
            return Ok(raw.into_inner());
        }
        self.fail(raw.span(), format!("`{}` is no JSON pointer: it begins with `/` (RFC 6901)", raw.get_ref()))
    }

    /// A stream's name with the topic's named levels in it.
    fn template(&self, raw: &Spanned<String>, topics: &TopicFilter, extra: &[&str]) -> Checked<String> {
        let known: Vec<&str> = topics.names().chain(extra.iter().copied()).collect();
        let mut filled = raw.get_ref().clone();
        for name in &known {
            filled = filled.replace(&format!("{{{name}}}"), "x");
        }
        if let Some((_, after)) = filled.split_once('{') {
            let name = after.split('}').next().unwrap_or_default();
            let guess = did_you_mean(nearest(name, known.iter().copied()));
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            let message = format!("stream `{}`: there is no level {{{name}}} (known: {known}){guess}", raw.get_ref());
            return self.fail(raw.span(), message);
        }
        match check_name(&filled) {
            Ok(()) => Ok(raw.get_ref().clone()),
            Err(error) => self.fail(raw.span(), format!("stream `{}`: it has {error}", raw.get_ref())),
        }
    }
}
