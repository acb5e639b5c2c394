//! Every topic that porin publishes or subscribes to: each is one row below, from which it is built and parsed.
//!
//! Owners name topics of their own (`uplink.topic`, a route's `topic`, a log's); those that they get without are the templates here.

use alloc::string::String;

use crate::trust::{Digest, Target};

/// What all of them begin with.
pub const PREFIX: &str = "porin/v1/";

/// Where publishes go when the configuration does not say: 5 slashes of the 7 that AWS IoT allows.
pub const DATA_TEMPLATE: &str = "porin/v1/gw/{gw}/data/{route}";

/// Where a cell's log is published when the configuration does not say.
pub const LOG_TEMPLATE: &str = "porin/v1/gw/{gw}/log/{slot}";

macro_rules! topics {
    ($($(#[$doc:meta])* $kind:ident { $($field:ident: $type:ty),* } = $pattern:literal;)*) => {
        /// A topic. `Display` builds it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Topic<'a> {
            $($(#[$doc])* $kind { $(#[allow(missing_docs)] $field: $type),* },)*
        }

        /// What a topic is for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum TopicKind {
            $($(#[$doc])* $kind,)*
        }

        impl<'a> Topic<'a> {
            /// Reads a topic. `None`: it is none of porin's.
            #[must_use]
            pub fn parse(topic: &'a str) -> Option<Self> {
                let parsed = None;
                $(let parsed = parsed.or_else(|| {
                    let mut _levels = Levels { pattern: $pattern.split('/'), topic: Some(topic) };
                    let parsed = Self::$kind { $($field: Field::read(_levels.value()?)?),* };
                    _levels.end().then_some(parsed)
                });)*
                parsed
            }
        }

        impl core::fmt::Display for Topic<'_> {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self {
                    $(Self::$kind { $($field),* } => write!(f, $pattern),)*
                }
            }
        }

        impl TopicKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The topic with names in braces for what varies.
            #[must_use]
            pub const fn pattern(self) -> &'static str {
                match self {
                    $(Self::$kind => $pattern,)*
                }
            }
        }
    };
}

topics! {
    /// What routes send.
    Data { gateway: &'a str, below: &'a str } = "porin/v1/gw/{gateway}/data/{below}";
    /// What a slot's cell logs.
    Log { gateway: &'a str, below: &'a str } = "porin/v1/gw/{gateway}/log/{below}";
    /// Whether a gateway is connected; retained, also as its last will.
    State { gateway: &'a str } = "porin/v1/gw/{gateway}/state";
    /// Its counters.
    Metrics { gateway: &'a str } = "porin/v1/gw/{gateway}/metrics";
    /// A step of an update.
    Event { gateway: &'a str } = "porin/v1/gw/{gateway}/event";
    /// Its reported state; retained, signed.
    Reported { gateway: &'a str } = "porin/v1/gw/{gateway}/reported";
    /// A part of what a route recorded, as an answer to a request.
    Record { gateway: &'a str, request: u64, part: usize, parts: usize } = "porin/v1/gw/{gateway}/record/{request}/{part}/{parts}";
    /// Asks a gateway for what a route recorded.
    Request { gateway: &'a str } = "porin/v1/gw/{gateway}/request";
    /// The desired state of one gateway; retained, signed.
    Desired { gateway: &'a str } = "porin/v1/gw/{gateway}/desired";
    /// The desired state of a group; retained, signed.
    GroupDesired { group: &'a str } = "porin/v1/group/{group}/desired";
    /// A root of trust; retained.
    Root { version: u64 } = "porin/v1/fleet/root/{version}";
    /// A release; retained, signed.
    Release { digest: Digest } = "porin/v1/fleet/rel/{digest}";
    /// A piece of a component; retained.
    Blob { component: Digest, piece: u32 } = "porin/v1/fleet/blob/{component}/{piece}";
}

impl<'a> Topic<'a> {
    /// Where the desired state of a gateway or a group is.
    #[must_use]
    pub fn desired(target: &'a Target) -> Self {
        match target {
            Target::Gateway(gateway) => Self::Desired { gateway },
            Target::Group(group) => Self::GroupDesired { group },
        }
    }
}

impl TopicKind {
    /// The filter for the topics of this kind whose first values are these: `[]` for all, `[gateway]` for those of one gateway.
    #[must_use]
    pub fn filter(self, values: &[&str]) -> String {
        let mut values = values.iter();
        let mut filter = String::new();
        for level in self.pattern().split('/') {
            if !filter.is_empty() {
                filter.push('/');
            }
            filter.push_str(match level {
                BELOW => values.next().copied().unwrap_or("#"),
                _ if level.starts_with('{') => values.next().copied().unwrap_or("+"),
                _ => level,
            });
        }
        filter
    }
}

/// At the end of a pattern: one level or more.
const BELOW: &str = "{below}";

/// Walks along a pattern and a topic.
struct Levels<'p, 'a> {
    pattern: core::str::Split<'p, char>,
    topic: Option<&'a str>,
}

impl<'a> Levels<'_, 'a> {
    /// The next value. `None`: the topic is another one up to there.
    fn value(&mut self) -> Option<&'a str> {
        loop {
            let level = self.pattern.next()?;
            let found = self.take(level)?;
            if level.starts_with('{') {
                return Some(found).filter(|found| !found.is_empty());
            } else if level != found {
                return None;
            }
        }
    }

    fn take(&mut self, level: &str) -> Option<&'a str> {
        let topic = self.topic?;
        let (found, rest) = match topic.split_once('/') {
            Some((found, rest)) if level != BELOW => (found, Some(rest)),
            _ => (topic, None),
        };
        self.topic = rest;
        Some(found)
    }

    /// Whether the rest of both is the same.
    fn end(mut self) -> bool {
        while let Some(level) = self.pattern.next() {
            if self.take(level) != Some(level) {
                return false;
            }
        }
        self.topic.is_none()
    }
}

/// A value in a topic. It is read only as it would be written.
trait Field<'a>: Sized {
    fn read(text: &'a str) -> Option<Self>;
}

impl<'a> Field<'a> for &'a str {
    fn read(text: &'a str) -> Option<Self> {
        Some(text)
    }
}

impl Field<'_> for Digest {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text).filter(|_| !text.bytes().any(|byte| byte.is_ascii_uppercase()))
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Field<'_> for $number {
            fn read(text: &str) -> Option<Self> {
                let as_written = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
                text.parse().ok().filter(|_| as_written)
            }
        })*
    };
}
numbers!(u32, u64, usize);

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::*;

    /// One of each kind.
    fn examples() -> Vec<Topic<'static>> {
        let (gateway, digest) = ("gw-1", Digest::of(b"cell"));
        let example = |kind: &TopicKind| match kind {
            TopicKind::Data => Topic::Data { gateway, below: "boiler/temp" },
            TopicKind::Log => Topic::Log { gateway, below: "quiet" },
            TopicKind::State => Topic::State { gateway },
            TopicKind::Metrics => Topic::Metrics { gateway },
            TopicKind::Event => Topic::Event { gateway },
            TopicKind::Reported => Topic::Reported { gateway },
            TopicKind::Record => Topic::Record { gateway, request: 1_700_000_000_000_000, part: 0, parts: 12 },
            TopicKind::Request => Topic::Request { gateway },
            TopicKind::Desired => Topic::Desired { gateway },
            TopicKind::GroupDesired => Topic::GroupDesired { group: "north" },
            TopicKind::Root => Topic::Root { version: 7 },
            TopicKind::Release => Topic::Release { digest },
            TopicKind::Blob => Topic::Blob { component: digest, piece: 6 },
        };
        TopicKind::ALL.iter().map(example).collect()
    }

    #[test]
    fn each_topic_is_read_as_it_was_built_and_nothing_else_is() {
        for topic in examples() {
            let text = topic.to_string();
            assert!(text.starts_with(PREFIX));
            assert_eq!(Topic::parse(&text), Some(topic), "{text}");
            for other in
                [format!("{text}/"), format!("/{text}"), text.replace("v1", "v2"), text[..text.len() - 1].into()]
            {
                assert_ne!(Topic::parse(&other), Some(topic), "{other}");
            }
        }
        let digest = Digest::of(b"cell").to_string();
        for none in [
            "",
            "porin/v1",
            "porin/v1/gw//state",
            "porin/v1/gw/a/b/state",
            "porin/v1/gw/a/data",
            "porin/v1/gw/a/data/",
            "porin/v1/fleet/root/07",
            "porin/v1/fleet/root/+1",
            "porin/v1/fleet/root/18446744073709551616",
            &format!("porin/v1/fleet/rel/{}", digest.to_uppercase()),
            &format!("porin/v1/fleet/blob/{digest}/1/2"),
        ] {
            assert_eq!(Topic::parse(none), None, "{none}");
        }
    }

    /// The last level of a table's row in a page: its first cells, without marks of code.
    fn rows(page: &str, section: &str) -> Vec<(String, String)> {
        let section =
            page.split(section).nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section is there");
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        cells
            .map(|(topic, rest)| (topic.to_string(), rest.split(" |").next().unwrap_or_default().to_string()))
            .collect()
    }

    /// Each kind with whether gateways publish it, as the documentation says.
    fn documented() -> Vec<(TopicKind, bool)> {
        let rows = rows(include_str!("../../../docs/payloads.md"), "## Topics");
        let written =
            |kind: TopicKind| kind.pattern()[PREFIX.len()..].replace(BELOW, "…").replace('{', "<").replace('}', ">");
        assert_eq!(
            rows.iter().map(|(topic, _)| topic.clone()).collect::<Vec<_>>(),
            TopicKind::ALL.iter().map(|kind| written(*kind)).collect::<Vec<_>>(),
            "docs/payloads.md"
        );
        TopicKind::ALL.iter().copied().zip(rows.iter().map(|(_, publisher)| publisher == "gateway")).collect()
    }

    #[test]
    fn each_topic_is_a_row_of_the_documentation_and_a_rule_for_the_broker() {
        let kinds = documented();
        let rules = include_str!("../../../docs/cloud/mosquitto.acl");
        let rules: Vec<_> = rules.lines().filter_map(|line| line.strip_prefix("pattern ")).collect();
        let rule = |(kind, writes): &(TopicKind, bool)| {
            let who: &[&str] = if kind.pattern().contains("{gateway}") { &["%u"] } else { &[] };
            format!("{} {}", if *writes { "write" } else { "read" }, kind.filter(who))
        };
        let mut expected: Vec<_> = kinds.iter().map(rule).collect();
        expected.sort();
        let mut found = rules.clone();
        found.sort_unstable();
        assert_eq!(found, expected, "docs/cloud/mosquitto.acl");

        // Everything that a gateway publishes, and nothing else, is in the table of what leaves it.
        let leaves = rows(include_str!("../../../docs/what-leaves.md"), "## Publishes");
        let first = |topic: &str| topic.split('/').next().unwrap_or_default().to_string();
        let mut leaves: Vec<_> = leaves.iter().map(|(topic, _)| first(topic)).collect();
        let gateways = kinds.iter().filter(|(_, writes)| *writes);
        let mut published: Vec<_> =
            gateways.map(|(kind, _)| kind.pattern().split('/').nth(4).unwrap_or_default().to_string()).collect();
        leaves.sort();
        published.sort();
        assert_eq!(leaves, published, "docs/what-leaves.md");
    }

    #[test]
    fn filters_leave_open_what_is_not_given() {
        assert_eq!(TopicKind::Data.filter(&[]), "porin/v1/gw/+/data/#");
        assert_eq!(TopicKind::Reported.filter(&["gw-1"]), "porin/v1/gw/gw-1/reported");
        assert_eq!(TopicKind::Record.filter(&["gw-1", "5"]), "porin/v1/gw/gw-1/record/5/+/+");
        assert_eq!(TopicKind::Blob.filter(&[]), "porin/v1/fleet/blob/+/+");
    }
}
