//! What a cell logs, as it is written and published.

use porin_cell::Level;
use porin_core::time::Unix;
use serde::Serialize;

use crate::slot::LogEntry;

/// A line as it is written and published.
#[derive(Serialize)]
struct Json<'a> {
    time_us: u64,
    slot: &'a str,
    level: &'static str,
    context: &'a str,
    message: &'a str,
}

/// A line of JSON, with a newline at its end.
pub(crate) fn line_as_json(time: Unix, slot: &str, LogEntry { level, context, message }: &LogEntry) -> String {
    let level = match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
        Level::Critical => "critical",
    };
    let mut text = serde_json::to_string(&Json { time_us: time.0, slot, level, context, message }).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_whatever_the_cell_says() {
        let line = LogEntry { level: Level::Warn, context: "a\"b".into(), message: "ü".into() };
        let text = line_as_json(Unix(7), "s", &line);
        assert_eq!(
            text,
            "{\"time_us\":7,\"slot\":\"s\",\"level\":\"warn\",\"context\":\"a\\\"b\",\"message\":\"ü\"}\n"
        );
    }
}
