//! The last values of each stream as sources read them, from the agent's tap, for the live table.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde_json::Value;

/// Values kept for each stream: one character of the sparkline each.
const KEPT: usize = 16;

/// Streams with values; the agent may have thousands.
const MAX_STREAMS: usize = 1_000;

type Streams = HashMap<String, VecDeque<f64>>;

#[derive(Clone, Default)]
pub(super) struct Values(Arc<Mutex<Streams>>);

impl Values {
    /// Follows the agent at this socket until it ends.
    pub(super) fn follow(socket: String) -> anyhow::Result<Self> {
        let values = Self::default();
        let shared = values.clone();
        thread::Builder::new().name("values".into()).spawn(move || {
            let Ok(lines) = porind::tap(&socket, "#") else { return };
            for packet in lines.map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok()) {
                shared.take(&packet);
            }
        })?;
        Ok(values)
    }

    fn take(&self, packet: &Value) {
        let (Some("in"), Some(stream)) = (packet["at"].as_str(), packet["stream"].as_str()) else { return };
        let Some(value) = packet["value"].as_f64() else { return };
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.len() >= MAX_STREAMS && !streams.contains_key(stream) {
            return;
        }
        let last = streams.entry(stream.to_owned()).or_default();
        last.push_back(value);
        if last.len() > KEPT {
            last.pop_front();
        }
    }

    /// The current value of a stream and its sparkline; nothing if it has none yet.
    pub(super) fn of(&self, stream: &str) -> (String, String) {
        let streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = streams.get(stream) else { return ("-".into(), String::new()) };
        (last.back().map_or_else(|| "-".into(), |value| short(*value)), sparkline(last))
    }
}

/// A value in at most ten characters.
fn short(value: f64) -> String {
    let text = format!("{value}");
    match text.len() {
        ..=10 => text,
        _ if (1e-3..1e7).contains(&value.abs()) => format!("{value:.3}").chars().take(10).collect(),
        _ => format!("{value:.3e}"),
    }
}

/// One character a value, from the smallest to the largest of them.
fn sparkline(values: &VecDeque<f64>) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
    let level = |value: &f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 7
        LEVELS.get((share * 7.0).round() as usize).copied().unwrap_or(' ')
    };
    values.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_goes_from_the_smallest_to_the_largest_value() {
        assert_eq!(sparkline(&[0.0, 7.0, 3.5].into()), "▁█▅");
        assert_eq!(sparkline(&[2.0, 2.0].into()), "▅▅");
        let values = Values::default();
        for value in 0..20 {
            values.take(&serde_json::json!({ "at": "in", "stream": "a", "value": value }));
        }
        values.take(&serde_json::json!({ "at": "out", "stream": "a", "value": 99 }));
        let (now, line) = values.of("a");
        assert_eq!((now.as_str(), line.chars().count()), ("19", KEPT));
        assert_eq!(values.of("b"), ("-".into(), String::new()));
    }

    #[test]
    fn values_fit_their_column() {
        for (value, text) in
            [(21.5, "21.5"), (1.0 / 3.0, "0.333"), (-1.23e-9, "-1.230e-9"), (123_456_789.123, "1.235e8")]
        {
            assert_eq!(short(value), text);
        }
    }
}
