//! What comes from a source in a moment.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{ErrorKind, Read},
    net::UdpSocket,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use porin_core::{config::Protocol, topic};

use super::{
    Source,
    shape::{self, Group},
};
use crate::{
    cloud::{BrokerArguments, Cloud},
    cmd::demo,
    failure::{Exit, Failure},
};

/// Topics, lines and bytes that are kept of what comes.
const MAX_TOPICS: usize = 2_000;
const MAX_LINES: usize = 100;
const MAX_BYTES: usize = 1 << 20;

/// What was found.
pub(super) enum Found {
    Topics {
        groups: Vec<Group>,
        unknown: Vec<String>,
    },
    Lines {
        lines: Vec<String>,
        pattern: Option<String>,
    },
    /// Channels with their number of readings, the last value, and the range.
    Channels(Vec<(String, usize, f64, f64)>),
    MadeUp,
}

pub(super) fn to(from: &Source, time: Duration) -> anyhow::Result<Found> {
    match from {
        Source::Mqtt(url) => topics(url, time),
        Source::Udp(place) => {
            let socket = UdpSocket::bind(place).with_context(|| format!("listening at {place}"))?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let mut datagram = vec![0; 65_536];
            lines(time, || {
                let length = socket.recv(&mut datagram)?;
                // A datagram ends its last line.
                Ok([&datagram[..length], b"\n"].concat())
            })
        }
        Source::Serial(device, baud) => {
            let name = device.display().to_string();
            let port = serialport::new(&name, *baud).timeout(Duration::from_millis(100)).open();
            let mut port = port.with_context(|| format!("opening {name}"))?;
            let mut bytes = vec![0; 4_096];
            lines(time, || port.read(&mut bytes).map(|length| bytes[..length].to_vec()))
        }
        Source::Csv(path) => channels(path),
        Source::Simulator => Ok(Found::MadeUp),
    }
}

fn topics(url: &str, time: Duration) -> anyhow::Result<Found> {
    eprintln!("listening to {url} for {} s", time.as_secs());
    let connect = |protocol| Cloud::connect(&BrokerArguments::plain(url, protocol));
    let mut cloud = connect(Protocol::V5).or_else(|_| connect(Protocol::V311))?;
    cloud.subscribe("#")?;
    let (start, mut publishes, mut bytes) = (Instant::now(), BTreeMap::new(), 0);
    while let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        let Some((topic, payload)) = cloud.next(left)? else { break };
        bytes += payload.len();
        // What porin itself publishes is no sensor's.
        if !payload.is_empty()
            && !topic.starts_with(topic::PREFIX)
            && publishes.len() < MAX_TOPICS
            && bytes < MAX_BYTES * 16
        {
            publishes.insert(topic, payload);
        }
    }
    let (groups, unknown) = shape::groups(&publishes);
    Ok(Found::Topics { groups, unknown })
}

/// Lines of what `read` gives, until the time is over.
fn lines(time: Duration, mut read: impl FnMut() -> std::io::Result<Vec<u8>>) -> anyhow::Result<Found> {
    eprintln!("listening for {} s", time.as_secs());
    let (start, mut bytes) = (Instant::now(), Vec::new());
    while start.elapsed() < time && bytes.len() < MAX_BYTES {
        match read() {
            Ok(more) => bytes.extend(more),
            Err(error)
                if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The last one may not have ended, and the first one not have begun.
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.take(MAX_LINES).collect();
    let judged = if lines.len() > 1 { &lines[1..] } else { &lines[..] };
    Ok(Found::Lines { pattern: shape::pattern(judged), lines })
}

fn channels(path: &Path) -> anyhow::Result<Found> {
    let hint = "the first line must be timestamp,channel,value; the timestamp in seconds since 1970";
    let data = demo::read(path).map_err(|error| Failure {
        exit: Exit::Usage,
        message: format!("{error:#}"),
        hint: Some(hint.into()),
    })?;
    let channel = |(name, recorded): (String, demo::Recorded)| {
        let last = recorded.readings.last().map_or(0.0, |(_, value)| *value);
        (name, recorded.readings.len(), last, recorded.span)
    };
    Ok(Found::Channels(data.into_iter().map(channel).collect()))
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Topics { groups, .. } => groups.is_empty(),
            Self::Lines { lines, .. } => lines.is_empty(),
            Self::Channels(channels) => channels.is_empty(),
            Self::MadeUp => false,
        }
    }

    /// What was found, with a sample of each.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        match self {
            Self::Topics { groups, unknown } => {
                for Group { filter, shape, streams, topics, sample } in groups {
                    let _ = writeln!(text, "{filter}: {topics} topics, {}", shape.name());
                    let _ = writeln!(text, "  {} {}", sample.0, short(&sample.1));
                    for (stream, pointer) in streams {
                        let _ = writeln!(text, "  → {stream} {pointer}");
                    }
                }
                if !unknown.is_empty() {
                    let _ = writeln!(text, "{} topics have no number: {}", unknown.len(), short(&unknown.join(", ")));
                }
            }
            Self::Lines { lines, pattern } => {
                let _ = writeln!(
                    text,
                    "{} lines, the last: {}",
                    lines.len(),
                    short(lines.last().map_or("", String::as_str))
                );
                let what = if pattern.is_some() { "numbers" } else { "text: they go on as messages" };
                let _ = writeln!(text, "  → {what}");
            }
            Self::Channels(channels) => {
                for (name, readings, last, span) in channels {
                    let _ = writeln!(text, "{name}: {readings} readings, the last {last}, range {span}");
                }
            }
            Self::MadeUp => text += "no source: three made-up streams\n",
        }
        text
    }
}

/// One line of at most 100 characters, without control characters.
fn short(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect();
    if line.chars().count() < text.chars().count() { line + "…" } else { line }
}
