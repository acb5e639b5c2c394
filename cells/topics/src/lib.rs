//! Topics: forwards messages by their topic and size.
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `only` | | a topic filter (MQTT's `+` and `#`): other topics are dropped; default all pass |
//! | `except` | | a topic filter: these topics are dropped; default none |
//! | `min_bytes`, `max_bytes` | bytes | a payload outside is dropped; default 0 and 65,536 |
//!
//! A message goes on as it is. Not where the value decides: a payload must first become a reading.
//!
//! Source: OASIS MQTT 5.0, section 4.7 (topic filters).
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{
    string::{String, ToString},
    vec::Vec,
};

use porin_sdk::{Cell, Malformed, Message, StateReader, StateWriter, Stream};

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct Topics {
    only: Option<String>,
    except: Option<String>,
    min_bytes: usize,
    max_bytes: usize,
}

/// Whether a topic filter chooses a topic.
fn chooses(filter: &str, topic: &str) -> bool {
    // A wildcard at the beginning does not choose the broker's own topics.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

fn filter(stream: &Stream, name: &str) -> Result<Option<String>, String> {
    let Some(filter) = stream.text(name)? else { return Ok(None) };
    let last = filter.split('/').count() - 1;
    let wrong = |(index, level): (usize, &str)| {
        (level.len() > 1 && level.contains(['+', '#'])) || (level == "#" && index != last)
    };
    if filter.is_empty() || filter.split('/').enumerate().any(wrong) {
        return Err(stream.error(name, "a wildcard has a level for itself, and `#` stands at the end"));
    }
    Ok(Some(filter.to_string()))
}

fn bytes(stream: &Stream, name: &str, default: usize) -> Result<usize, String> {
    match stream.integer(name)? {
        None => Ok(default),
        Some(count) => usize::try_from(count).map_err(|_| stream.error(name, "must not be negative")),
    }
}

impl Cell<Message, Message> for Topics {
    const PARAMS: &'static [&'static str] = &["only", "except", "min_bytes", "max_bytes"];

    fn new(stream: &Stream) -> Result<Self, String> {
        Ok(Self {
            only: filter(stream, "only")?,
            except: filter(stream, "except")?,
            min_bytes: bytes(stream, "min_bytes", 0)?,
            max_bytes: bytes(stream, "max_bytes", 65_536)?,
        })
    }

    fn process(&mut self, message: Message, out: &mut Vec<Message>) {
        let chosen = self.only.as_ref().is_none_or(|filter| chooses(filter, &message.topic));
        let excepted = self.except.as_ref().is_some_and(|filter| chooses(filter, &message.topic));
        let fits = (self.min_bytes..=self.max_bytes).contains(&message.payload.len());
        if chosen && !excepted && fits {
            out.push(message);
        }
    }

    fn save(&self, _state: &mut StateWriter) {}

    fn restore(&mut self, _state: &mut StateReader) -> Result<(), Malformed> {
        Ok(())
    }
}

porin_sdk::export!(Topics as message_filter);

#[cfg(test)]
mod tests {
    use porin_sdk::{Param, StreamInfo, Value};

    use super::*;

    fn topics(params: &[(&str, Value)]) -> Result<Topics, String> {
        let param = |(name, value): &(&str, Value)| Param { name: (*name).into(), value: value.clone() };
        let params: Vec<_> = params.iter().map(param).collect();
        let info = StreamInfo { id: 1, name: "a".into(), unit: String::new(), params: vec![] };
        Topics::new(&Stream { info: &info, params: &params, outputs: &[] })
    }

    fn passes(params: &[(&str, Value)], topic: &str, len: usize) -> bool {
        let mut out = Vec::new();
        let message = Message { time_us: 1, stream: 1, quality: 0, topic: topic.into(), payload: vec![7; len] };
        topics(params).expect("good parameters").process(message.clone(), &mut out);
        assert!(out.is_empty() || out == [message]);
        !out.is_empty()
    }

    #[test]
    fn topics_and_sizes_decide() {
        let text = |text: &str| Value::Text(text.into());
        assert!(passes(&[], "a/b", 0));
        assert!(passes(&[("only", text("a/+"))], "a/b", 1));
        assert!(!passes(&[("only", text("a/+"))], "a/b/c", 1));
        assert!(!passes(&[("only", text("a/#")), ("except", text("+/b"))], "a/b", 1));
        let sizes = [("min_bytes", Value::Integer(2)), ("max_bytes", Value::Integer(3))];
        assert_eq!([1, 2, 3, 4].map(|len| passes(&sizes, "a", len)), [false, true, true, false]);
        assert!(!passes(&[("only", text("#"))], "$SYS/x", 1));
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused() {
        for filter in ["", "a+", "#/a"] {
            assert!(topics(&[("only", Value::Text(filter.into()))]).is_err(), "{filter}");
        }
        assert!(topics(&[("max_bytes", Value::Integer(-1))]).is_err());
    }
}
