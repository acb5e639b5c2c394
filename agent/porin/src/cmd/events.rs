//! `porin events`: what gateways say has happened: updates taken up, refused, rolled back.

use std::{io::Write, time::Duration};

use porin_core::{time::Unix, topic::TopicKind};
use serde_json::Value;

use crate::{
    cloud::{BrokerArguments, Cloud},
    fleet::plain,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this gateway
    gateway: Option<String>,
    /// Run until Ctrl-C instead of a second
    #[arg(short, long)]
    follow: bool,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    #[command(flatten)]
    broker: BrokerArguments,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// One look: events are not retained.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cloud = Cloud::connect(&arguments.broker)?;
    cloud.subscribe(&TopicKind::Event.filter(arguments.gateway.as_deref().as_slice()))?;
    if arguments.follow {
        eprintln!("waiting for events; ctrl-C ends it");
    }
    let mut stdout = std::io::stdout().lock();
    let mut shown = 0;
    loop {
        if arguments.count.is_some_and(|count| shown >= count) {
            return Ok(());
        }
        let Some((topic, payload)) = cloud.next(LOOK)? else {
            if arguments.follow {
                continue;
            }
            return Ok(());
        };
        // Whose it is says the topic, which the broker guards; what is in the payload anybody may have written.
        let gateway = topic.split('/').nth(3).unwrap_or_default();
        let Ok(Value::Object(mut event)) = serde_json::from_slice::<Value>(&payload) else {
            eprintln!("warning: an event of {} is no JSON", plain(gateway));
            continue;
        };
        event.insert("gw".into(), gateway.into());
        let event = Value::Object(event);
        shown += 1;
        let line = if arguments.json { event.to_string() } else { plain(&readable(&event)) };
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            outcome => outcome?,
        }
    }
}

fn readable(event: &Value) -> String {
    let word = |key: &str| event[key].as_str().unwrap_or_default();
    let time = Unix(event["time_us"].as_u64().unwrap_or_default());
    let desired = event["desired"].as_u64().map_or_else(String::new, |seq| format!(" desired state {seq}"));
    let slot = event["slot"].as_str().map_or_else(String::new, |slot| format!(" slot `{slot}`"));
    let why = event["reason"].as_str().map_or_else(String::new, |code| format!(": {code}: {}", word("text")));
    format!("{time} {} {}{desired}{slot}{why}", word("gw"), word("event"))
}
