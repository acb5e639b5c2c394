//! Topic filters with names: `zigbee2mqtt/{device}` is MQTT's `zigbee2mqtt/+`, and calls that level `device`.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Which topics, and what their levels are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFilter(Vec<Level>);

/// Names and what they stand for in a topic.
pub type Captures<'a> = Vec<(&'a str, &'a str)>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Exactly(String),
    /// `+`, or `{name}`.
    Any(Option<String>),
    /// `#`, at the end.
    Rest,
}

impl TopicFilter {
    /// Reads a filter: MQTT's, with `{name}` for a level that is to be named.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 1_024 || text.contains('\0') {
            return Err("1 to 1,024 bytes, none of them zero".into());
        }
        let mut levels = Vec::new();
        let count = text.split('/').count();
        for (index, level) in text.split('/').enumerate() {
            let name = level.strip_prefix('{').and_then(|level| level.strip_suffix('}'));
            levels.push(match (level, name) {
                ("#", _) if index + 1 == count => Level::Rest,
                ("#", _) => return Err("`#` stands only at the end".into()),
                ("+", _) => Level::Any(None),
                (_, Some("name")) => {
                    return Err("{name} is the name of a SenML record; call the level otherwise".into());
                }
                (_, Some(name)) if is_name(name) && !levels.contains(&Level::Any(Some(name.into()))) => {
                    Level::Any(Some(name.into()))
                }
                (_, Some(name)) => return Err(format!("`{{{name}}}` is not a-z, 0-9 and _, or there twice")),
                (level, None) if level.contains(['+', '#', '{', '}']) => {
                    return Err(format!("`{level}`: a wildcard or name has a level for itself"));
                }
                (level, None) => Level::Exactly(level.to_string()),
            });
        }
        Ok(Self(levels))
    }

    /// As MQTT knows it.
    #[must_use]
    pub fn mqtt(&self) -> String {
        let level = |level: &Level| match level {
            Level::Exactly(text) => text.clone(),
            Level::Any(_) => "+".into(),
            Level::Rest => "#".into(),
        };
        self.0.iter().map(level).collect::<Vec<_>>().join("/")
    }

    /// The names of its levels.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|level| match level {
            Level::Any(name) => name.as_deref(),
            Level::Exactly(_) | Level::Rest => None,
        })
    }

    /// What the named levels are in this topic; `None` if it is not chosen.
    #[must_use]
    pub fn captures<'a>(&'a self, topic: &'a str) -> Option<Captures<'a>> {
        // MQTT: a wildcard at the beginning does not choose the broker's own topics.
        if topic.starts_with('$') && !matches!(self.0.first(), Some(Level::Exactly(_))) {
            return None;
        }
        let mut captures = Vec::new();
        let mut rest = Some(topic);
        for level in &self.0 {
            if *level == Level::Rest {
                return Some(captures);
            }
            let (here, after) = match rest?.split_once('/') {
                Some((here, after)) => (here, Some(after)),
                None => (rest?, None),
            };
            match level {
                Level::Exactly(text) if text == here => {}
                Level::Any(None) => {}
                Level::Any(Some(name)) => captures.push((name.as_str(), here)),
                Level::Exactly(_) | Level::Rest => return None,
            }
            rest = after;
        }
        // MQTT: `a/#` also chooses `a`, which the loop above leaves at its end.
        rest.is_none().then_some(captures)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
