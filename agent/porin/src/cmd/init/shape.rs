//! What publishes and lines look like, and how a configuration reads them. Pure: samples in, proposals out.
//!
//! It knows shapes (JSON objects, numbers, SenML, lines with numbers), no vendors.

use std::collections::{BTreeMap, BTreeSet};

use porin_core::stream::check_name;
use serde_json::Value;

/// JSON fields of one group of topics; a device that publishes more is cut.
const MAX_FIELDS: usize = 50;

/// Objects within objects that are searched for numbers.
const MAX_DEPTH: usize = 3;

/// How the payloads of a group of topics are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Json,
    Number,
    Senml,
}

impl Shape {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Number => "number",
            Self::Senml => "senml",
        }
    }
}

/// A group of topics that one filter reads.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    pub(super) filter: String,
    pub(super) shape: Shape,
    /// Template of the stream's name, with the JSON pointer of its value (empty for other shapes).
    pub(super) streams: Vec<(String, String)>,
    pub(super) topics: usize,
    /// The first topic with what it published.
    pub(super) sample: (String, String),
}

/// Topics of one group, each with the pointers of its numbers.
type Members<'a> = Vec<(&'a String, BTreeSet<String>)>;

/// Groups publishes into filters. Also gives the topics that have no shape it knows.
pub(super) fn groups(publishes: &BTreeMap<String, Vec<u8>>) -> (Vec<Group>, Vec<String>) {
    let mut unknown = Vec::new();
    let mut groups: BTreeMap<(Shape, &str, usize), Members<'_>> = BTreeMap::new();
    for (topic, payload) in publishes {
        match shape(payload) {
            Some((shape, pointers)) => {
                let first = topic.split('/').next().unwrap_or_default();
                groups.entry((shape, first, topic.split('/').count())).or_default().push((topic, pointers));
            }
            None => unknown.push(topic.clone()),
        }
    }
    let group = |((shape, ..), members): ((Shape, &str, usize), Members<'_>)| {
        let levels: Vec<Vec<&str>> = members.iter().map(|(topic, _)| topic.split('/').collect()).collect();
        let (filter, prefix) = filter(&levels);
        let pointers: BTreeSet<_> = members.iter().flat_map(|(_, pointers)| pointers).take(MAX_FIELDS).collect();
        let streams = match shape {
            Shape::Json => pointers
                .into_iter()
                .map(|pointer| (stream(&prefix, &pointer[1..].replace('/', "-")), pointer.clone()))
                .collect(),
            Shape::Number => vec![(prefix, String::new())],
            Shape::Senml => vec![(stream(&prefix, "{name}"), String::new())],
        };
        let topic = members[0].0;
        let text = String::from_utf8_lossy(&publishes[topic]).into_owned();
        Group { filter, shape, streams, topics: members.len(), sample: (topic.clone(), text) }
    };
    (groups.into_iter().map(group).collect(), unknown)
}

/// The shape of a payload, with the pointers of the numbers in it.
fn shape(payload: &[u8]) -> Option<(Shape, BTreeSet<String>)> {
    // RFC 8428: an array of records, as JSON or as CBOR.
    if payload.first().is_some_and(|first| (0x80..=0x9f).contains(first)) {
        return Some((Shape::Senml, BTreeSet::new()));
    }
    match serde_json::from_slice(payload).ok()? {
        Value::Number(_) | Value::Bool(_) => Some((Shape::Number, BTreeSet::new())),
        Value::Array(records) => {
            let is_record = |record: &Value| ["n", "bn", "v"].iter().any(|key| record.get(key).is_some());
            (!records.is_empty() && records.iter().all(is_record)).then(|| (Shape::Senml, BTreeSet::new()))
        }
        object @ Value::Object(_) => {
            let mut pointers = BTreeSet::new();
            numbers(&object, String::new(), MAX_DEPTH, &mut pointers);
            (!pointers.is_empty()).then_some((Shape::Json, pointers))
        }
        Value::String(_) | Value::Null => None,
    }
}

fn numbers(value: &Value, pointer: String, depth: usize, found: &mut BTreeSet<String>) {
    match value {
        Value::Number(_) | Value::Bool(_) => {
            found.insert(pointer);
        }
        Value::Object(fields) if depth > 0 => {
            for (key, value) in fields {
                // RFC 6901 escapes.
                let key = key.replace('~', "~0").replace('/', "~1");
                numbers(value, format!("{pointer}/{key}"), depth - 1, found);
            }
        }
        Value::Object(_) | Value::Array(_) | Value::String(_) | Value::Null => {}
    }
}

/// One filter for these topics, and the beginning of their streams' names: levels that differ become placeholders.
fn filter(topics: &[Vec<&str>]) -> (String, String) {
    let count = topics.first().map_or(0, Vec::len);
    let varies = |level: usize| topics.iter().any(|topic| topic[level] != topics[0][level]);
    // A stream's name has room for two; those before match anything.
    let varying: Vec<_> = (0..count).filter(|level| varies(*level)).collect();
    let named = &varying[varying.len().saturating_sub(2)..];
    let level = |(level, text): (usize, &&str)| match named.iter().position(|varying| *varying == level) {
        Some(0) => "{device}".to_owned(),
        Some(_) => "{part}".to_owned(),
        None if varies(level) => "+".to_owned(),
        None => (*text).to_owned(),
    };
    let filter: Vec<_> = topics.first().map_or(&[][..], Vec::as_slice).iter().enumerate().map(level).collect();
    let last = filter.last().cloned().unwrap_or_default();
    let prefix = match named {
        [] => last,
        [device] if device + 1 == count => "{device}".into(),
        [_] => format!("{{device}}/{}", name(&last)),
        _ => "{device}/{part}".into(),
    };
    (filter.join("/"), name(&prefix))
}

/// `prefix/rest`, or `prefix-rest` where a name has no room for another slash.
fn stream(prefix: &str, rest: &str) -> String {
    let separator = if prefix.matches('/').count() < 2 { '/' } else { '-' };
    let rest = if rest == "{name}" { rest.to_owned() } else { name(rest) };
    format!("{prefix}{separator}{rest}")
}

/// A text as a part of a stream's name; placeholders stay.
fn name(text: &str) -> String {
    let plain = text.replace("{device}", "d").replace("{part}", "p");
    if check_name(&plain).is_ok() {
        return text.to_owned();
    }
    let clean: String = text.chars().map(|c| if c.is_alphanumeric() || "-_./".contains(c) { c } else { '_' }).collect();
    if clean.is_empty() { "unnamed".into() } else { clean }
}

/// The pattern that reads lines with numbers in fixed places, if all of them have the same number of them: `v1`, `v2`, …
pub(super) fn pattern(lines: &[String]) -> Option<String> {
    let numbers = |line: &String| {
        let parts: Vec<_> = line.split([',', ';', '\t', ' ']).map(str::trim).filter(|part| !part.is_empty()).collect();
        let all = parts.iter().all(|part| part.parse::<f64>().is_ok());
        (all && !parts.is_empty()).then_some(parts.len())
    };
    let counts: BTreeSet<_> = lines.iter().map(numbers).collect();
    let count = (counts.len() == 1).then(|| counts.into_iter().next()).flatten().flatten()?;
    let number = |index: usize| format!("(?<v{index}>[-+0-9.eE]+)");
    let numbers: Vec<_> = (1..=count).map(number).collect();
    Some(format!("^\\s*{}\\s*$", numbers.join("[,; \\t]+")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publishes(all: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        all.iter().map(|(topic, payload)| ((*topic).to_owned(), payload.as_bytes().to_vec())).collect()
    }

    #[test]
    fn topics_of_one_form_become_one_filter() {
        let (groups, unknown) = groups(&publishes(&[
            ("zigbee2mqtt/bath", r#"{"temperature":21.5,"battery":90}"#),
            ("zigbee2mqtt/kitchen", r#"{"temperature":19,"contact":true,"state":{"level":3}}"#),
            ("zigbee2mqtt/bridge/state", "online"),
        ]));
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((group.filter.as_str(), group.shape, group.topics), ("zigbee2mqtt/{device}", Shape::Json, 2));
        let streams: Vec<_> = group.streams.iter().map(|(stream, pointer)| format!("{stream} {pointer}")).collect();
        let expected = ["battery /battery", "contact /contact", "state-level /state/level", "temperature /temperature"];
        assert_eq!(streams, expected.map(|rest| format!("{{device}}/{rest}")));
        assert_eq!(unknown, ["zigbee2mqtt/bridge/state"]);
    }

    #[test]
    fn numbers_and_senml_are_known_and_names_have_room() {
        let (groups, _) = groups(&publishes(&[
            ("home/bath/temperature", "21.5"),
            ("home/hall/humidity", "40"),
            ("lab", r#"[{"n":"t","v":1}]"#),
            ("tele/x/SENSOR", r#"{"A+B":{"Temp":20}}"#),
        ]));
        let texts: Vec<_> =
            groups.iter().map(|g| format!("{} {} {}", g.filter, g.shape.name(), g.streams[0].0)).collect();
        let expected = [
            "tele/x/SENSOR json SENSOR/A_B-Temp",
            "home/{device}/{part} number {device}/{part}",
            "lab senml lab/{name}",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn lines_of_numbers_have_a_pattern_and_others_have_none() {
        let lines = |all: &[&str]| all.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let two = pattern(&lines(&["1.5, -2", "3e2; 4"])).expect("two numbers");
        assert_eq!(two, "^\\s*(?<v1>[-+0-9.eE]+)[,; \\t]+(?<v2>[-+0-9.eE]+)\\s*$");
        assert_eq!(pattern(&lines(&["1", "1 2"])), None);
        assert_eq!(pattern(&lines(&["T=5"])), None);
        assert_eq!(pattern(&[]), None);
    }
}
