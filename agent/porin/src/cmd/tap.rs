//! `porin tap`: packets as they pass through a running agent, as sources make them and as routes keep them.

use std::io::Write;

use anyhow::{Context, bail};
use porin_core::time::Unix;
use serde_json::Value;

use super::agent::Which;
use crate::failure::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Streams, with MQTT wildcards: `boiler/temp`, `boiler/+`, `#`
    streams: String,
    #[command(flatten)]
    which: Which,
    /// The agent's socket, instead of the configuration's
    #[arg(long, value_name = "FILE")]
    socket: Option<String>,
    /// Stop after this many packets
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let socket = match &arguments.socket {
        Some(socket) => socket.clone(),
        None => arguments.which.read()?.1.gateway.socket,
    };
    let lines = porind::tap(&socket, &arguments.streams).map_err(|error| Failure {
        exit: Exit::Unreachable,
        message: format!("{error:#}"),
        hint: Some("does the agent run with the same configuration?".into()),
    })?;
    let mut stdout = std::io::stdout().lock();
    let mut shown = 0;
    for line in lines {
        let line = line.context("the agent has ended")?;
        let packet: Value = serde_json::from_str(&line).with_context(|| format!("the agent says {line}"))?;
        if let Some(error) = packet["error"].as_str() {
            bail!("{error}");
        }
        if packet["looking"] == true {
            eprintln!("looking at `{}`; ctrl-C ends it", arguments.streams);
            continue;
        }
        shown += usize::from(packet["at"].is_string());
        let text = if arguments.json { line } else { readable(&packet) };
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            outcome => outcome?,
        }
        if arguments.count.is_some_and(|count| shown >= count) {
            return Ok(());
        }
    }
    eprintln!("the agent has ended");
    Ok(())
}

/// A packet in a line for the eyes.
fn readable(packet: &Value) -> String {
    if let Some(missed) = packet["missed"].as_u64() {
        return format!("… {missed} packets were too fast to be shown");
    }
    let text = |key: &str| packet[key].as_str().unwrap_or_default();
    let time = Unix(packet["time_us"].as_u64().unwrap_or_default());
    let what = match (packet["bytes"].as_u64(), &packet["value"]) {
        (Some(bytes), _) => format!("{bytes} bytes from {}", text("topic")),
        (None, Value::String(value)) => value.clone(),
        (None, value) => value.to_string(),
    };
    let way = match text("at") {
        "in" => "→".to_owned(),
        _ => format!("   ⇒ {}", text("route")),
    };
    let quality = packet["quality"].as_u64().filter(|quality| *quality != 0);
    let quality = quality.map_or_else(String::new, |quality| format!("  quality {quality}"));
    format!("{time:.6} {} {what} {way}{quality}", text("stream"))
}
