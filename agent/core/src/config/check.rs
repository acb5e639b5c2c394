//! From the configuration as written to the types: one pass, the first thing that is wrong ends it.

mod asked;
mod broker;
mod clash;
mod gpio;
mod lines;
mod modbus;
mod sink;
mod slot;
mod source;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{net::SocketAddr, ops::Range};

use toml::{Spanned, Value as Toml};

use super::{
    CellSet, Config, ConfigError, DEFAULT_PATH, DEFAULT_SOCKET, Defaults, GatewayConfig, LogTo, OutboxConfig, Policy,
    Recording, Route, Sink, StreamConfig, TopicTemplate, Updates, desired,
    desired::Origin,
    nearest::{listed, nearest},
    quantity, raw,
};
use crate::{
    clock::Trust,
    ids::{Overflow, Priority, QueueId},
    outbox::{Bounds, Publish},
    packet::PacketKind,
    payload::Encoding,
    setup::{Param, Value},
    stream::{MAX_NAME_BYTES, MAX_NAME_SLASHES, Pattern, check_name},
    topic::TopicKind,
    trust::documents::is_name,
    words::Word,
};

/// Bytes of a topic: AWS IoT's limit.
const MAX_TOPIC_BYTES: usize = 256;

/// Slashes in a topic: AWS IoT's limit.
const MAX_TOPIC_SLASHES: usize = 7;

/// Without traffic for so long a connection is probed, where the configuration does not say.
const KEEP_ALIVE: &str = "30s";

/// Packets in a publish: as many as the outbox looks through for the next one.
const MAX_BATCH: usize = 1_000;

/// Bytes of a publish: the clouds bill what is below as one message (Azure IoT Hub 4 KB, AWS IoT 5 KB).
const BATCH_BYTES: usize = 4_096;

/// The clouds' largest publish.
const MAX_BATCH_BYTES: usize = 131_072;

/// What a route keeps of its input where it says no more: forty thousand readings.
const RECORDED_BYTES: u64 = 1_000_000;

/// Of all routes together: it is memory.
const MAX_RECORDED_BYTES: usize = 16_000_000;

/// Longer ago than a day is another day.
const MAX_RECORDED_US: u64 = 86_400_000_000;

/// What waits at most: a week of 20 packets a second.
const MAX_OUTBOX_BYTES: u64 = 1_000_000_000;

/// Below this there is no sense in a disk.
const MIN_OUTBOX_BYTES: u64 = 1_000_000;

/// Dead letters: ten thousand readings, or fifteen of the largest messages.
const DEAD_LETTER_BYTES: u64 = 1_000_000;

/// The largest message, and some.
const MIN_DEAD_LETTER_BYTES: u64 = 100_000;

/// They are in memory, too.
const MAX_DEAD_LETTER_BYTES: u64 = 16_000_000;

pub(super) type Checked<T> = Result<T, ConfigError>;

/// Reads and checks a configuration.
pub(super) fn parse(text: &str, defaults: Defaults<'_>) -> Checked<Config> {
    Parser { text, defaults, origin: Origin::Owner }.config()
}

pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    pub(super) defaults: Defaults<'a>,
    /// Where the text comes from: what its slots may say.
    pub(super) origin: Origin<'a>,
}

impl Parser<'_> {
    fn config(&self) -> Checked<Config> {
        let raw: raw::Raw = toml::from_str(self.text).map_err(|error| self.toml_error(&error))?;
        let streams = self.streams(raw.streams)?;
        let id = self.gateway_id(&raw.gateway.id)?;
        let source_places: Vec<_> = raw.sources.keys().map(Spanned::span).collect();
        let sources = raw.sources.into_iter().map(|(name, source)| self.source(&name, source, &id));
        let sources = sources.collect::<Checked<Vec<_>>>()?;
        let default_topic = self.topic(raw.uplink.topic.as_ref(), &TopicTemplate::default(), &id)?;
        let sink_places: Vec<_> = raw.sinks.keys().map(Spanned::span).collect();
        let sinks =
            raw.sinks.into_iter().map(|(name, sink)| self.sink(&name, sink, &id)).collect::<Checked<Vec<_>>>()?;
        let cells = self.cells(raw.slots, raw.routes, &default_topic, &id, &sinks)?;
        let dead_letter_bytes = raw.dead_letters.max_bytes.as_ref().map_or(Ok(DEAD_LETTER_BYTES), |text| {
            let bytes = self.bytes(text)?;
            match (MIN_DEAD_LETTER_BYTES..=MAX_DEAD_LETTER_BYTES).contains(&bytes) {
                true => Ok(bytes),
                false => self.fail(text.span(), "max_bytes of dead letters: 100kB to 16MB".into()),
            }
        })?;
        let gateway = GatewayConfig {
            socket: raw.gateway.socket.unwrap_or_else(|| self.defaults.socket.unwrap_or(DEFAULT_SOCKET).to_string()),
            clock: self.one_of(raw.gateway.clock.as_ref(), "clock", Trust::default(), &Trust::ALL)?,
            uplink: self.uplink(raw.uplink, &id)?,
            topic: default_topic,
            updates: raw.updates.map(|updates| self.updates(updates)).transpose()?,
            outbox: self.outbox(&raw.outbox)?,
            publish_metrics_us: self.metrics_us(&raw.metrics)?,
            metrics: raw.metrics.listen.map(|listen| self.loopback(&listen)).transpose()?,
            dead_letter_bytes,
            max_streams: self.number(raw.limits.max_streams.as_ref(), 10_000, 1..=1_000_000)? as usize,
            sources,
            sinks,
            streams,
            id,
        };
        self.no_clash(&gateway, &cells, &sink_places)?;
        for (source, place) in gateway.sources.iter().zip(source_places) {
            self.no_circle(source, place, &gateway, &cells)?;
        }
        Ok(Config { gateway, cells, policy: Policy::default() })
    }

    fn updates(&self, raw: raw::Updates) -> Checked<Updates> {
        let name = |what: &str, name: Spanned<String>| match is_name(name.get_ref()) {
            true => Ok(name.into_inner()),
            false => self.fail(name.span(), format!("{what} `{}`: letters, digits and `-_.`", name.get_ref())),
        };
        let groups = raw.groups.into_iter().map(|group| match group.get_ref().contains('/') {
            true => self.fail(group.span(), format!("group `{}`: it is one level of a topic", group.get_ref())),
            false => name("group", group),
        });
        let groups = groups.collect::<Checked<_>>()?;
        Ok(Updates { root: raw.root, groups, board: raw.board.map(|board| name("board", board)).transpose()? })
    }

    fn gateway_id(&self, id: &Spanned<String>) -> Checked<String> {
        let text = id.get_ref();
        let character = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = !text.is_empty() && text.len() <= 63 && text.chars().all(character) && !text.starts_with('-');
        if fits {
            return Ok(text.clone());
        }
        self.fail(id.span(), format!("gateway id `{text}`: at most 63 of a-z, 0-9 and `-`, not `-` first"))
    }

    fn client_id(&self, raw: Option<&Spanned<String>>, default: impl FnOnce() -> String) -> Checked<String> {
        match raw {
            Some(id) if id.get_ref().is_empty() || id.get_ref().len() > 128 => {
                self.fail(id.span(), "client_id: 1 to 128 bytes".into())
            }
            Some(id) => Ok(id.get_ref().clone()),
            None => Ok(default()),
        }
    }

    /// Seconds. Below 5 rumqttc refuses; MQTT counts them in 16 bits.
    fn keep_alive(&self, raw: Option<&Spanned<String>>, default: &str) -> Checked<u16> {
        let seconds = self.time(raw, default)? / 1_000_000;
        match u16::try_from(seconds).ok().filter(|seconds| *seconds >= 5) {
            Some(seconds) => Ok(seconds),
            None => self.fail(raw.map_or(0..0, Spanned::span), "keep_alive: 5s to 18h".into()),
        }
    }

    /// An address of this machine only: the numbers are not meant for the network, and nothing here guards them.
    fn loopback(&self, raw: &Spanned<String>) -> Checked<SocketAddr> {
        match raw.get_ref().parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(address),
            _ => self.fail(raw.span(), format!("listen `{}`: it must be 127.0.0.1:PORT or [::1]:PORT", raw.get_ref())),
        }
    }

    fn outbox(&self, raw: &raw::Outbox) -> Checked<OutboxConfig> {
        let path =
            raw.path.as_ref().map_or(self.defaults.path.unwrap_or(DEFAULT_PATH).into(), |path| path.get_ref().clone());
        let max_bytes = raw.max_bytes.as_ref().map_or(Ok(MAX_OUTBOX_BYTES), |text| match self.bytes(text)? {
            0..MIN_OUTBOX_BYTES => self.fail(text.span(), "max_bytes: at least 1MB".into()),
            bytes => Ok(bytes),
        })?;
        let rate = raw.backlog_rate.as_ref();
        let backlog_rate = rate.map(|rate| self.number(Some(rate), 0, 1..=u32::MAX)).transpose()?;
        let commit_every_us = self.time(raw.commit_every.as_ref(), "1s")?;
        Ok(OutboxConfig { path, bounds: Bounds { bytes: max_bytes, backlog_rate }, commit_every_us })
    }

    fn streams(&self, raw: BTreeMap<Spanned<String>, raw::Stream>) -> Checked<BTreeMap<String, StreamConfig>> {
        let mut streams = BTreeMap::new();
        for (name, raw) in raw {
            if let Err(error) = check_name(name.get_ref()) {
                return self.fail(name.span(), format!("stream `{}`: it has {error}", name.get_ref()));
            }
            if let Some(unit) = &raw.unit {
                quantity::unit(unit.get_ref()).or_else(|message| self.fail(unit.span(), format!("unit {message}")))?;
            }
            let unit = raw.unit.map_or_else(String::new, Spanned::into_inner);
            let calibration = raw.calibration.map(|raw| self.calibration(raw)).transpose()?;
            streams.insert(name.into_inner(), StreamConfig { unit, calibration, params: self.params(raw.params)? });
        }
        Ok(streams)
    }

    pub(super) fn cells(
        &self,
        mut slots: BTreeMap<Spanned<String>, raw::Slot>,
        routes: BTreeMap<Spanned<String>, raw::Route>,
        default_topic: &TopicTemplate,
        gateway: &str,
        sinks: &[Sink],
    ) -> Checked<CellSet> {
        let all: BTreeSet<String> = slots.keys().map(|name| name.get_ref().clone()).collect();
        let (mut checked, mut logs) = (Vec::new(), Vec::new());
        for (name, raw) in routes {
            if let Err(error) = check_name(name.get_ref()) {
                return self.fail(name.span(), format!("route `{}`: it has {error}", name.get_ref()));
            }
            if raw.streams.is_empty() {
                return self.fail(name.span(), format!("route `{}` names no streams", name.get_ref()));
            }
            let pattern = |text: &Spanned<String>| {
                let parsed = Pattern::parse(text.get_ref());
                parsed.or_else(|error| self.fail(text.span(), format!("streams `{}`: {error}", text.get_ref())))
            };
            let streams = raw.streams.iter().map(pattern).collect::<Checked<Vec<_>>>()?;
            let kinds = [PacketKind::Readings, PacketKind::Messages].map(|kind| (kind.name(), kind));
            let input = self.one_of(raw.packets.as_ref(), "packets", PacketKind::Readings, &kinds)?;
            let mut flowing = input;
            let mut chain = Vec::new();
            for name in &raw.slots {
                let slot = self.slot(name, &mut slots, &all, gateway)?;
                if slot.world.input() != flowing {
                    let (world, wants) = (slot.world.name(), slot.world.input().name());
                    let message = format!(
                        "slot `{}` (world {world}) takes {wants}, and what reaches it are {}",
                        slot.name,
                        flowing.name()
                    );
                    return self.fail(name.span(), message);
                }
                flowing = slot.world.output();
                if let LogTo::File(log) = &slot.log {
                    self.no_clash_of_logs(name.span(), &logs, log)?;
                    logs.push(log.clone());
                }
                chain.push(slot);
            }
            let publishes = [("at-once", Publish::AtOnce), ("after-commit", Publish::AfterCommit)];
            let publish = self.one_of(raw.publish.as_ref(), "publish", Publish::AtOnce, &publishes)?;
            let priority = self.one_of(raw.priority.as_ref(), "priority", Priority::Normal, Priority::WORDS)?;
            let overflow = self.one_of(raw.overflow.as_ref(), "overflow", Overflow::DropOldest, Overflow::WORDS)?;
            let expire_us = self.expire(raw.expire.as_ref())?.unwrap_or(u64::MAX);
            let encoding = self.one_of(raw.encoding.as_ref(), "encoding", Encoding::Json, &Encoding::ALL)?;
            if flowing == PacketKind::Messages && encoding != Encoding::Json {
                let span = raw.encoding.as_ref().map_or(0..0, Spanned::span);
                return self.fail(
                    span,
                    format!("encoding `{}`: the route ends in messages, which only json can carry", encoding.name()),
                );
            }
            let (uplink, sinks) = self.ends(&name, raw.sinks, sinks, &chain)?;
            checked.push(Route {
                input,
                uplink,
                sinks,
                topic: self.topic(raw.topic.as_ref(), default_topic, gateway)?,
                name: name.into_inner(),
                streams,
                slots: chain,
                publish,
                queue: QueueId::new(priority, overflow),
                expire_us,
                encoding,
                batch_bytes: self.number(raw.batch.bytes.as_ref(), BATCH_BYTES, 256..=MAX_BATCH_BYTES)?,
                batch_packets: self.number(raw.batch.packets.as_ref(), MAX_BATCH, 1..=MAX_BATCH)?,
                batch_wait_us: self.time(raw.batch.wait.as_ref(), "0s")?,
                record: raw.record.map(|record| self.record(&record)).transpose()?,
            });
        }
        let recorded: usize = checked.iter().filter_map(|route| route.record).map(|record| record.bytes).sum();
        if recorded > MAX_RECORDED_BYTES {
            return self
                .fail(0..0, format!("the routes record {recorded} bytes together: at most {MAX_RECORDED_BYTES}"));
        }
        if let Some((name, _)) = slots.first_key_value() {
            let text = name.get_ref();
            return self.fail(name.span(), format!("slot `{text}` is in no route"));
        }
        Ok(CellSet { routes: checked, text: desired::text(self.text) })
    }

    fn record(&self, raw: &Spanned<raw::Record>) -> Checked<Recording> {
        let raw::Record { time, bytes } = raw.get_ref();
        let us = match self.time(Some(time), "")? {
            us @ 1..=MAX_RECORDED_US => us,
            _ => return self.fail(time.span(), format!("record `{}`: up to 1d", time.get_ref())),
        };
        let bytes = bytes.as_ref().map_or(Ok(RECORDED_BYTES), |text| match self.bytes(text)? {
            bytes @ 10_000..=4_000_000 => Ok(bytes),
            _ => self.fail(text.span(), "bytes of a recording: 10kB to 4MB".into()),
        })?;
        // Within the bounds, which are small.
        Ok(Recording { us, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
    }

    fn params(&self, raw: BTreeMap<Spanned<String>, Spanned<Toml>>) -> Checked<Vec<Param>> {
        let param = |(name, value): (Spanned<String>, Spanned<Toml>)| {
            let span = value.span();
            let value = match value.into_inner() {
                Toml::Boolean(value) => Value::Flag(value),
                Toml::Integer(value) => Value::Integer(value),
                Toml::Float(value) => Value::Number(value),
                Toml::String(value) => Value::Text(value),
                other @ (Toml::Datetime(_) | Toml::Array(_) | Toml::Table(_)) => {
                    let message =
                        format!("parameter `{}`: {} cannot be given to a cell", name.get_ref(), other.type_str());
                    return self.fail(span, message);
                }
            };
            Ok(Param { name: name.into_inner(), value })
        };
        raw.into_iter().map(param).collect()
    }

    fn topic(&self, raw: Option<&Spanned<String>>, default: &TopicTemplate, gateway: &str) -> Checked<TopicTemplate> {
        let Some(raw) = raw else { return Ok(default.clone()) };
        let text = raw.get_ref();
        let wrong = |what: &str| self.fail(raw.span(), format!("topic `{text}`: {what}"));
        // As long and as deep as it can become: route and stream names have the same bounds.
        let name = "/".repeat(MAX_NAME_SLASHES);
        let longest = TopicTemplate(text.clone()).fill(gateway, &name, &name);
        let placeholders = text.matches("{route}").count() + text.matches("{stream}").count();
        if longest.contains(['{', '}']) {
            return wrong("the placeholders are {gw}, {route} and {stream}");
        }
        if longest.contains(['+', '#', '\0']) || longest.starts_with('$') || longest.is_empty() {
            return wrong("a topic to publish on has no wildcards and does not start with `$`");
        }
        if longest.len() + placeholders * MAX_NAME_BYTES > MAX_TOPIC_BYTES {
            return wrong(&format!("with the longest names it has more than {MAX_TOPIC_BYTES} bytes"));
        }
        let slashes = text.matches('/').count() + MAX_NAME_SLASHES * text.matches("{stream}").count();
        if slashes > MAX_TOPIC_SLASHES {
            return wrong(&format!(
                "with the deepest stream name ({MAX_NAME_SLASHES} slashes) it has {slashes} slashes, brokers in the cloud allow {MAX_TOPIC_SLASHES}"
            ));
        }
        match self.origin.may_publish(text, TopicKind::Data) {
            Ok(()) => Ok(TopicTemplate(text.clone())),
            Err(what) => wrong(&what),
        }
    }

    pub(super) fn time(&self, raw: Option<&Spanned<String>>, default: &str) -> Checked<u64> {
        let text = raw.map_or(default, |text| text.get_ref());
        let span = raw.map_or(0..0, Spanned::span);
        quantity::microseconds(text).or_else(|message| self.fail(span, format!("`{text}`: {message}")))
    }

    /// How often the numbers are published, in microseconds; `None`: never.
    fn metrics_us(&self, raw: &raw::Metrics) -> Checked<Option<u64>> {
        const SECOND: u64 = 1_000_000;
        let every_us = self.time(raw.every.as_ref(), "10min")?;
        if !(10 * SECOND..=86_400 * SECOND).contains(&every_us) {
            let text = raw.every.as_ref().map_or("", |every| every.get_ref());
            let span = raw.every.as_ref().map_or(0..0, Spanned::span);
            return self.fail(span, format!("metrics.every = {text}: must be between 10s and 24h"));
        }
        Ok(raw.publish.unwrap_or(true).then_some(every_us))
    }

    /// After how long a packet is given up, in microseconds.
    fn expire(&self, raw: Option<&Spanned<String>>) -> Checked<Option<u64>> {
        let Some(expire) = raw else { return Ok(None) };
        match self.time(Some(expire), "")? {
            0 => self.fail(expire.span(), "expire: more than nothing".into()),
            expire_us => Ok(Some(expire_us)),
        }
    }

    pub(super) fn bytes(&self, text: &Spanned<String>) -> Checked<u64> {
        let bytes = quantity::bytes(text.get_ref());
        bytes.or_else(|message| self.fail(text.span(), format!("`{}`: {message}", text.get_ref())))
    }

    pub(super) fn number<T: Copy + PartialOrd + core::fmt::Display>(
        &self,
        raw: Option<&Spanned<T>>,
        default: T,
        bounds: core::ops::RangeInclusive<T>,
    ) -> Checked<T> {
        match raw {
            None => Ok(default),
            Some(value) if bounds.contains(value.get_ref()) => Ok(*value.get_ref()),
            Some(value) => {
                let message = format!("{}: {} to {}", value.get_ref(), bounds.start(), bounds.end());
                self.fail(value.span(), message)
            }
        }
    }

    /// One of a list of words.
    fn one_of<T: Copy>(
        &self,
        raw: Option<&Spanned<String>>,
        what: &str,
        default: T,
        known: &[(&str, T)],
    ) -> Checked<T> {
        let Some(raw) = raw else { return Ok(default) };
        if let Some((_, value)) = known.iter().find(|(name, _)| name == raw.get_ref()) {
            return Ok(*value);
        }
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        self.choice(raw.span(), what, raw.get_ref(), &names)
    }

    pub(super) fn choice<T>(&self, span: Range<usize>, what: &str, value: &str, known: &[&str]) -> Checked<T> {
        let guess = did_you_mean(nearest(value, known.iter().copied()));
        self.fail(span, format!("{what} `{value}`: known is {}{guess}", known.join(", ")))
    }

    pub(super) fn toml_error(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message();
        let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
        let guess = match message.split('`').nth(1) {
            Some(name) if unknown => did_you_mean(nearest(name, listed(message).iter().map(String::as_str))),
            _ => String::new(),
        };
        let span = error.span().unwrap_or(0..0);
        ConfigError { line: self.line(span.start), message: format!("{message}{guess}") }
    }

    pub(super) fn fail<T>(&self, span: Range<usize>, message: String) -> Checked<T> {
        Err(ConfigError { line: self.line(span.start), message })
    }

    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }
}

fn did_you_mean(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}
