//! Sinks: files, output lines, local brokers.

use alloc::{format, string::String, vec::Vec};

use toml::Spanned;

use super::{Checked, Parser};
use crate::{
    config::{
        GpioLine, Level, LocalBroker, LocalPayload, OutputLine, RotatedFile, Sink, SinkKind, Slot, TopicTemplate,
        UPLINK, raw,
    },
    fault::FaultPolicy,
    stream::check_name,
    words::Word,
};

/// Bytes of a file, and how many older ones are kept: 4 MB in all.
const FILE_BYTES: u64 = 1_000_000;
const FILES_KEPT: u32 = 3;

/// Where a local broker gets packets: a stream's name has two slashes at most.
const LOCAL_TOPIC: &str = "porin/{gw}/{stream}";

/// A local broker that does not answer is given up after twice this and five seconds.
const LOCAL_KEEP_ALIVE: &str = "10s";

/// Between two attempts to reach a local broker: it is near, and somebody waits for what it passes on.
const LOCAL_RECONNECT: &str = "100ms";
const LOCAL_MAX_PAUSE_US: u64 = 5_000_000;

/// As if the configuration said it.
fn said(text: &str) -> Spanned<String> {
    Spanned::new(0..0, text.into())
}

impl Parser<'_> {
    pub(super) fn sink(&self, name: &Spanned<String>, raw: raw::Sink, gateway: &str) -> Checked<Sink> {
        let text = name.get_ref();
        if text == UPLINK {
            return self.fail(name.span(), format!("sink `{UPLINK}`: that is the name of the uplink"));
        }
        if let Err(error) = check_name(text) {
            return self.fail(name.span(), format!("sink `{text}`: it has {error}"));
        }
        let kind = match raw {
            raw::Sink::File(file) => SinkKind::File(self.rotated(file, "sink")?),
            raw::Sink::Gpio(gpio) => SinkKind::Gpio(self.output_line(gpio)?),
            raw::Sink::Mqtt(local) => SinkKind::Mqtt(self.local_broker(text, *local, gateway)?.into()),
        };
        Ok(Sink { name: text.clone(), kind })
    }

    pub(super) fn rotated(&self, raw: raw::RotatedFile, of: &str) -> Checked<RotatedFile> {
        let raw::RotatedFile { path, max_bytes, keep } = raw;
        if !path.get_ref().starts_with('/') {
            let message = format!("{of} file `{}`: it must be an absolute path", path.get_ref());
            return self.fail(path.span(), message);
        }
        let max_bytes = max_bytes.map_or(Ok(FILE_BYTES), |text| match self.bytes(&text)? {
            bytes @ 1_000..=1_000_000_000 => Ok(bytes),
            _ => self.fail(text.span(), format!("max_bytes of a {of}: 1kB to 1GB")),
        })?;
        let keep = self.number(keep.as_ref(), FILES_KEPT, 0..=100)?;
        Ok(RotatedFile { path: path.into_inner(), max_bytes, keep })
    }

    fn output_line(&self, raw: raw::OutputLine) -> Checked<OutputLine> {
        let raw::OutputLine { line, on, safe, hold } = raw;
        let hold_us = match hold.as_ref().map(|hold| self.time(Some(hold), "")).transpose()? {
            None => None,
            Some(hold_us @ 10_000..) => Some(hold_us),
            Some(_) => return self.fail(hold.map_or(0..0, |hold| hold.span()), "hold: 10ms at least".into()),
        };
        Ok(OutputLine {
            line: self.gpio_line(&line)?,
            on: self.one_of(on.as_ref(), "on", Level::High, Level::WORDS)?,
            safe: self.one_of(Some(&safe), "safe", Level::Low, Level::WORDS)?,
            hold_us,
        })
    }

    fn local_broker(&self, name: &str, raw: raw::LocalBroker, gateway: &str) -> Checked<LocalBroker> {
        let expire_us = self.expire(raw.expire.as_ref())?;
        let topic = self.topic(raw.topic.as_ref(), &TopicTemplate(LOCAL_TOPIC.into()), gateway)?.of(gateway);
        let payload = self.one_of(raw.payload.as_ref(), "payload", LocalPayload::default(), &LocalPayload::ALL)?;
        let link = raw::Uplink {
            broker: Some(raw.broker),
            tls: raw.tls,
            login: raw.login,
            protocol: raw.protocol,
            client_id: raw.client_id,
            keep_alive: Some(raw.keep_alive.unwrap_or_else(|| said(LOCAL_KEEP_ALIVE))),
            reconnect: Some(said(LOCAL_RECONNECT)),
            ..raw::Uplink::default()
        };
        let link = self.link(link, LOCAL_MAX_PAUSE_US, || format!("porin-{gateway}-sink-{name}"))?;
        Ok(LocalBroker { link, topic, retain: raw.retain, payload, expire_us })
    }

    pub(super) fn gpio_line(&self, raw: &Spanned<String>) -> Checked<GpioLine> {
        let text = raw.get_ref();
        let wrong =
            || format!("line `{text}`: a name such as GPIO17, or a chip and a number such as /dev/gpiochip0:17");
        match text.rsplit_once(':') {
            Some((chip, number)) if chip.starts_with("/dev/") => match number.parse() {
                Ok(number) => Ok(GpioLine::Numbered(chip.into(), number)),
                Err(_) => self.fail(raw.span(), wrong()),
            },
            None if !text.is_empty() && !text.contains('/') => Ok(GpioLine::Named(text.clone())),
            _ => self.fail(raw.span(), wrong()),
        }
    }

    /// Where a route ends: whether at the uplink, and at which of the sinks that there are.
    pub(super) fn ends(
        &self,
        name: &Spanned<String>,
        raw: Option<Vec<Spanned<String>>>,
        sinks: &[Sink],
        slots: &[Slot],
    ) -> Checked<(bool, Vec<String>)> {
        let route = name.get_ref();
        let Some(raw) = raw else { return Ok((true, Vec::new())) };
        let known: Vec<_> = core::iter::once(UPLINK).chain(sinks.iter().map(|sink| sink.name.as_str())).collect();
        let mut ends: Vec<String> = Vec::new();
        for end in raw {
            let text = end.get_ref();
            if !known.contains(&text.as_str()) {
                return self.choice(end.span(), "sink", text, &known);
            }
            if ends.contains(text) {
                return self.fail(end.span(), format!("route `{route}` names sink `{text}` twice"));
            }
            let is_line = sinks.iter().any(|sink| sink.name == *text && matches!(sink.kind, SinkKind::Gpio(_)));
            if let (true, Some(slot)) = (is_line, slots.iter().find(|slot| slot.fault == FaultPolicy::Pass)) {
                let slot = &slot.name;
                let message = format!(
                    "route `{route}` ends at the output line `{text}`, and slot `{slot}` has fault = \"pass\": a measurement \
                     that it passes on would be taken for a decision"
                );
                return self.fail(end.span(), message);
            }
            ends.push(end.into_inner());
        }
        if ends.is_empty() {
            return self.fail(name.span(), format!("route `{route}` ends nowhere: its `sinks` are none"));
        }
        let uplink = ends.iter().any(|end| end == UPLINK);
        ends.retain(|end| end != UPLINK);
        Ok((uplink, ends))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::config::{Config, LinkConfig, Policy, tests::refuses};

    const SINKS: &str = r##"
[gateway]
id = "kitchen"
[uplink]
broker = "mqtt://localhost"

[sinks.siren.gpio]
line = "GPIO17"
safe = "low"
hold = "10s"

[sinks.valve.gpio]
line = "/dev/gpiochip1:4"
on = "low"
safe = "high"

[sinks.history.file]
path = "/var/lib/porin/history.jsonl"
max_bytes = "10MB"

[sinks.house.mqtt]
broker = "mqtt://house.local"
topic = "cmnd/{stream}"
payload = "value"
expire = "1min"

[routes.alarm]
streams = ["boiler/#"]
sinks = ["siren", "uplink"]

[routes.all]
streams = ["#"]
sinks = ["history"]
"##;

    #[test]
    fn routes_end_at_the_uplink_at_sinks_or_at_both() {
        let config = Config::parse(SINKS).expect("it is good");
        let ends: Vec<_> = config.cells.routes.iter().map(|route| (route.uplink, route.sinks.clone())).collect();
        assert_eq!(ends, [(true, vec!["siren".into()]), (false, vec!["history".into()])]);
        let siren = OutputLine {
            line: GpioLine::Named("GPIO17".into()),
            on: Level::High,
            safe: Level::Low,
            hold_us: Some(10_000_000),
        };
        assert_eq!(config.gateway.sinks[2], Sink { name: "siren".into(), kind: SinkKind::Gpio(siren) });
        let check = |good: &str, bad: &str, expected: &str| refuses(SINKS, good, bad, expected);
        check(
            "\"siren\", \"uplink\"",
            "\"sirene\"",
            "line 29: sink `sirene`: known is uplink, history, house, siren, valve; did you mean `siren`?",
        );
        check("\"siren\", \"uplink\"", "\"siren\", \"siren\"", "line 29: route `alarm` names sink `siren` twice");
        check("[sinks.siren.gpio]", "[sinks.uplink.gpio]", "line 7: sink `uplink`: that is the name of the uplink");
        check("GPIO17", "gpiochip0/17", "line 8: line `gpiochip0/17`: a name such as GPIO17");
        check("/dev/gpiochip1:4", "/dev/gpiochip1:x", "line 13: line `/dev/gpiochip1:x`");
        check("safe = \"low\"\n", "", "missing field `safe`");
        check("on = \"low\"", "on = \"lo\"", "line 14: on `lo`: known is low, high; did you mean `low`?");
        check("hold = \"10s\"", "hold = \"1ms\"", "line 10: hold: 10ms at least");
        check("/var/lib", "var/lib", "line 18: sink file `var/lib/porin/history.jsonl`: it must be an absolute path");
        check("10MB", "1B", "line 19: max_bytes of a sink: 1kB to 1GB");
        check("mqtt://house.local", "house.local", "line 22: broker `house.local`: it must be mqtt://HOST");
        check("cmnd/{stream}", "cmnd/#", "line 23: topic `cmnd/#`: a topic to publish on has no wildcards");
        check("\"value\"", "\"valu\"", "line 24: payload `valu`: known is json, value; did you mean `value`?");
        check("1min", "0s", "line 25: expire: more than nothing");
    }

    #[test]
    fn a_local_broker_is_asked_again_soon_and_has_one_topic_for_each_stream() {
        let local = |text: &str| {
            let sinks = Config::parse(text).expect("it is good").gateway.sinks;
            sinks.into_iter().find_map(|sink| if let SinkKind::Mqtt(local) = sink.kind { Some(local) } else { None })
        };
        let house = local(SINKS).expect("there is one");
        assert_eq!(house.topic.fill("", "alarm", "boiler/temp"), "cmnd/boiler/temp");
        assert_eq!((house.payload, house.retain, house.expire_us), (LocalPayload::Value, false, Some(60_000_000)));
        let LinkConfig { broker, client_id, keep_alive_s, reconnect_us, max_pause_us, .. } = house.link;
        assert_eq!((&*broker.host, broker.port, &*client_id), ("house.local", 1883, "porin-kitchen-sink-house"));
        assert_eq!((keep_alive_s, reconnect_us, max_pause_us), (10, 100_000, 5_000_000));
        let plain = SINKS.replace("topic = \"cmnd/{stream}\"\npayload = \"value\"\nexpire = \"1min\"\n", "");
        let plain = local(&plain).expect("there is one");
        assert_eq!(plain.topic.fill("", "alarm", "boiler/temp"), "porin/kitchen/boiler/temp");
        assert_eq!((plain.payload, plain.expire_us), (LocalPayload::Json, None));
    }

    #[test]
    fn what_a_sink_publishes_does_not_come_back_as_a_source() {
        let source = |filter: &str| {
            format!(
                "{SINKS}\n[sources.house.mqtt]\nbroker = \"mqtt://house.local\"\n\
                 topics = [{{ filter = \"{filter}\", payload = \"number\", stream = \"a\" }}]\n"
            )
            .replace("\"siren\", \"uplink\"", "\"house\", \"uplink\"")
        };
        assert!(Config::parse(&source("stat/#")).is_ok());
        let error = Config::parse(&source("cmnd/#")).expect_err("a circle").to_string();
        assert!(
            error.contains("source `house` would receive what sink `house` publishes on the same broker"),
            "{error}"
        );
        // One topic of many, which the route's streams reach or do not; another name of the same machine.
        let here =
            |filter: &str| source(filter).replace("house.local", "localhost").replacen("localhost", "127.0.0.1", 1);
        assert!(Config::parse(&source("cmnd/boiler/temp")).is_err() && Config::parse(&here("cmnd/boiler/+")).is_err());
        assert!(Config::parse(&source("cmnd/garden/temp")).is_ok());
        // Nothing goes there.
        assert!(Config::parse(&source("cmnd/#").replace("[\"house\", \"uplink\"]", "[\"uplink\"]")).is_ok());
    }

    #[test]
    fn what_is_written_here_is_not_followed_as_a_source_and_two_do_not_want_the_same() {
        let with = |more: &str| Config::parse(&format!("{SINKS}\n{more}")).map_err(|error| error.to_string());
        let follow = |path: &str| {
            with(&format!(
                "[sources.f.file]\npath = \"{path}\"\nlines = {{ pattern = '(?<v>[0-9]+)', streams = \"f\" }}\n"
            ))
        };
        assert!(follow("/var/lib/porin/other.jsonl").is_ok());
        let error = follow("/var/lib/porin/history.jsonl").expect_err("a circle");
        assert!(error.contains("source `f` would receive what sink `history` writes"), "{error}");
        let check = |more: &str, expected: &str| {
            let error = with(more).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        };
        check("[sinks.bell.gpio]\nline = \"GPIO17\"\nsafe = \"low\"", "sink `bell` has line GPIO17 already");
        check(
            "[sources.pins.gpio]\ninputs = [{ line = \"GPIO17\", stream = \"a\" }]",
            "line 7: sink `siren`: source `pins` has line GPIO17 already",
        );
        check("[sinks.again.file]\npath = \"/var/lib/porin/history.jsonl\"", "sink `again` has file /var/lib/porin/h");
        check("[sinks.again.file]\npath = \"/var/lib/porin/porin.redb\"", "sink `again`: the outbox has file");
        check("[sinks.again.file]\npath = \"/var/lib/porin/porin.redb.reserve\"", "sink `again`: the outbox has file");
        // A rotated file has the names of its older ones, whichever of the two is given first.
        check(
            "[sinks.again.file]\npath = \"/var/lib/porin/history.jsonl.1\"",
            "has file /var/lib/porin/history.jsonl.1 already",
        );
        check(
            "[sinks.a.file]\npath = \"/var/lib/porin/history.jsonl.3\"",
            "has file /var/lib/porin/history.jsonl.3 already",
        );
        for free in ["history.jsonl.4", "history.jsonl.0", "history.jsonl.01", "history.jsonl.x", "history.jsonl1"] {
            let more = format!("[sinks.again.file]\npath = \"/var/lib/porin/{free}\"");
            assert!(with(&more).is_ok(), "{free}: {:?}", with(&more));
        }
        let log = |name: &str, path: &str| {
            format!(
                "[slots.{name}]\ncell = \"x.wasm\"\nlog = {{ file = {{ path = \"/l/{path}\", keep = 2 }} }}\n[routes.{name}]\nstreams = [\"s\"]\nslots = [\"{name}\"]\n"
            )
        };
        check(&(log("a", "x") + &log("b", "x.2")), "log file `/l/x.2`: the log of another slot has it already");
        assert!(with(&(log("a", "x") + &log("b", "x.3"))).is_ok());
        check(
            &(log("a", "x") + "[sinks.again.file]\npath = \"/l/x.1\""),
            "the log of slot `a` has file /l/x.1 already",
        );
        check(
            "[sinks.again.mqtt]\nbroker = \"mqtt://house.local\"\nclient_id = \"porin-kitchen-sink-house\"",
            "has client id porin-kitchen-sink-house at house.local:1883 already",
        );
    }

    #[test]
    fn a_measurement_does_not_pass_for_a_decision_and_no_route_ends_nowhere() {
        refuses(SINKS, "\"siren\", \"uplink\"", "", "line 27: route `alarm` ends nowhere");
        let slot = "slots = [\"limit\"]\nsinks = [\"siren\", \"uplink\"]";
        let with = |fault: &str| {
            let text = SINKS.replace("sinks = [\"siren\", \"uplink\"]", slot);
            Config::parse(&format!("{text}\n[slots.limit]\ncell = \"c.wasm\"\nfault = \"{fault}\"\n"))
        };
        assert!(with("dead-letter").is_ok() && with("drop").is_ok());
        let error = with("pass").expect_err("it may move the line").to_string();
        assert!(error.contains("output line `siren`, and slot `limit` has fault = \"pass\""), "{error}");
    }

    #[test]
    fn a_policy_says_at_which_sinks_routes_may_end() {
        let cells = Config::parse(SINKS).expect("it is good").cells;
        let allows = |policy: &str| Policy::parse(policy).expect("it is good").allows(&cells);
        assert_eq!(allows(""), Ok(()));
        assert_eq!(allows("sinks = [\"history\", \"siren\"]"), Ok(()));
        let error = allows("sinks = [\"history\"]").expect_err("it is not allowed");
        assert!(
            error.contains("route `alarm` ends at sink `siren`") && error.contains("sinks = [\"siren\"]"),
            "{error}"
        );
        assert!(allows("sinks = []").is_err());
    }
}
