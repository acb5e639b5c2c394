//! Stream names, the patterns that routes choose them by, and the durable table of their ids.

use alloc::{borrow::ToOwned, collections::BTreeMap, string::String, vec::Vec};

use crate::ids::StreamId;

/// Bytes of a stream's name. With a topic template around it, it stays below the 256 bytes of AWS IoT.
pub const MAX_NAME_BYTES: usize = 100;

/// Slashes in a stream's name. AWS IoT allows 7 in a topic, and `gw/{gw}/data/{stream}` below porin/v1 has 5 of its own.
pub const MAX_NAME_SLASHES: usize = 2;

/// Why a text cannot name a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing, or nothing between two slashes.
    #[error("an empty level")]
    Empty,
    /// Longer than [`MAX_NAME_BYTES`].
    #[error("more than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_NAME_SLASHES`].
    #[error("more than {MAX_NAME_SLASHES} slashes")]
    TooDeep,
    /// A wildcard, a placeholder's brace or a control character.
    #[error("the character {0:?}")]
    Character(char),
}

/// Checks a stream's name: levels of printable characters between slashes, without MQTT's wildcards.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), BadName> {
    if name.len() > MAX_NAME_BYTES {
        return Err(BadName::TooLong);
    }
    if name.split('/').any(str::is_empty) {
        return Err(BadName::Empty);
    }
    if name.matches('/').count() > MAX_NAME_SLASHES {
        return Err(BadName::TooDeep);
    }
    match name.chars().find(|c| matches!(c, '+' | '#' | '{' | '}' | '$') || c.is_control()) {
        Some(c) => Err(BadName::Character(c)),
        None => Ok(()),
    }
}

/// Chooses streams by name, with MQTT's wildcards: `+` is one level, a last `#` is all that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let last = text.split('/').count() - 1;
        for (index, level) in text.split('/').enumerate() {
            let wildcard = level.contains(['+', '#']);
            if level == "#" && index != last {
                return Err("`#` stands only at the end".to_owned());
            }
            if wildcard && level.len() > 1 {
                return Err("a wildcard stands alone in its level".to_owned());
            }
            if !wildcard {
                check_name(level).map_err(|error| alloc::format!("it has {error}"))?;
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// A name that it chooses, with `level` for each wildcard.
    #[must_use]
    pub fn example(&self, level: &str) -> String {
        self.0.replace(['+', '#'], level)
    }

    /// Whether the stream is chosen.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        chooses(&self.0, name)
    }
}

/// Whether MQTT's filter chooses this name: `+` is one level, a last `#` is all that follows.
#[must_use]
pub fn chooses(filter: &str, name: &str) -> bool {
    let mut levels = name.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            // MQTT: `a/#` also chooses `a` itself.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            (_, None) => return filter.strip_suffix("/#") == Some(name),
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// The table is full: the name is refused and its packets are counted as refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Names by the order of first appearance. An id is never given to a second name.
#[derive(Clone, Debug, Default)]
pub struct NameTable {
    names: Vec<String>,
    ids: BTreeMap<String, u32>,
    max: usize,
}

impl NameTable {
    /// The table as it was stored, in the order of ids, with room for `max` names in all.
    #[must_use]
    pub fn new(names: Vec<String>, max: usize) -> Self {
        let ids = (0..).zip(&names).map(|(id, name)| (name.clone(), id)).collect();
        Self { names, ids, max }
    }

    /// The id of a name, given out now if it is new.
    ///
    /// # Errors
    /// [`Full`] if it is new and there is no room.
    pub fn intern(&mut self, name: &str) -> Result<StreamId, Full> {
        if let Some(id) = self.ids.get(name) {
            return Ok(StreamId(*id));
        }
        let id = u32::try_from(self.names.len()).map_err(|_| Full)?;
        if self.names.len() >= self.max {
            return Err(Full);
        }
        self.names.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        Ok(StreamId(id))
    }

    /// The id of a name that is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<StreamId> {
        self.ids.get(name).map(|id| StreamId(*id))
    }

    /// The name of an id that this table gave out.
    #[must_use]
    pub fn name(&self, id: StreamId) -> Option<&str> {
        self.names.get(id.0 as usize).map(String::as_str)
    }

    /// All names; the position is the id.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_follow_mqtt() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let parsed = Pattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(name), expected, "{pattern} on {name}");
        };
        check("a/b", "a/b", true);
        check("a/b", "a/b/c", false);
        check("a/b", "a", false);
        check("a/+", "a/b", true);
        check("a/+", "a", false);
        check("+", "a", true);
        check("+", "a/b", false);
        check("#", "a/b", true);
        check("a/#", "a", true);
        check("a/#", "a/b/c", true);
        check("a/#", "ab", false);
        check("a/+/c", "a/b/c", true);
        check("a/+/c", "a/b/d", false);
        for bad in ["", "a//b", "#/a", "a#", "a/b+", "a/\u{7}"] {
            assert!(Pattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_stays_with_its_name_and_the_table_has_an_end() {
        let mut table = NameTable::new(vec!["a".into(), "b".into()], 3);
        assert_eq!(table.intern("b"), Ok(StreamId(1)));
        assert_eq!(table.intern("c"), Ok(StreamId(2)));
        assert_eq!(table.intern("d"), Err(Full));
        assert_eq!(table.intern("c"), Ok(StreamId(2)));
        assert_eq!(table.name(StreamId(2)), Some("c"));
    }

    #[test]
    fn names_are_bounded_and_without_wildcards() {
        assert_eq!(check_name("boiler/temp_°C"), Ok(()));
        assert_eq!(check_name(""), Err(BadName::Empty));
        assert_eq!(check_name("a/b/c/d"), Err(BadName::TooDeep));
        assert_eq!(check_name(&"x".repeat(101)), Err(BadName::TooLong));
        assert_eq!(check_name("a/+"), Err(BadName::Character('+')));
        assert_eq!(check_name("a\nb"), Err(BadName::Character('\n')));
    }
}
