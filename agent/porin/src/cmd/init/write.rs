//! The configuration as text, with comments for its owner.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Source, listen::Found, shape::Group};

/// Writes a configuration that reads what was found.
pub(super) fn configuration(from: &Source, found: &Found, uplink: Option<&str>, cell: Option<&str>) -> String {
    let mut text = String::from(
        "# Made by `porin init`. docs/config.md describes each key; `porin check` tries a change before it runs.\n\n\
         [gateway]\nid = \"gateway\"                # part of each topic: give each gateway its own\n\n[uplink]\n",
    );
    text += &match uplink {
        Some(url) => format!("broker = {}\n", quoted(url)),
        None => "# broker = \"mqtt://HOST:1883\"  # without it, `porin up` starts a broker of its own\n".to_owned(),
    };
    text += &match (from, found) {
        (Source::Mqtt(url), Found::Topics { groups, unknown }) => topics(url, groups, unknown),
        (Source::Udp(place), Found::Lines { pattern, .. }) => {
            format!(
                "\n[sources.net.udp]\nlisten = {}\n{}",
                quoted(&place.to_string()),
                lines("net", pattern.as_deref())
            )
        }
        (Source::Serial(device, baud), Found::Lines { pattern, .. }) => {
            let device = quoted(&device.display().to_string());
            format!("\n[sources.line.serial]\ndevice = {device}\nbaud = {baud}\n{}", lines("line", pattern.as_deref()))
        }
        (Source::Csv(path), Found::Channels(channels)) => {
            let mut text = format!(
                "\n# Replays the recording. `speed` is in recorded seconds per second, or \"max\".\n[sources.file.replay]\nfile = {}\n\
                 streams = \"{{channel}}\"\nspeed = 60\n",
                quoted(&path.display().to_string())
            );
            for (name, _, _, span) in channels {
                let _ = write!(
                    text,
                    "\n[streams.{}]\nparams = {{ span = {span:?} }}        # the range seen\n",
                    quoted(name)
                );
            }
            text
        }
        _ => "\n[sources.made_up.simulator]\nstreams = \"sim/{n}\"\ncount = 3\nevery = \"1s\"\nstep = 0.1\n".to_owned(),
    };
    let is_message = matches!(found, Found::Lines { pattern: None, .. });
    let cell = cell.filter(|_| !is_message);
    if let Some(cell) = cell {
        let params = match found {
            Found::Channels(_) => "percent = 1.0",
            Found::MadeUp => "absolute = 0.3",
            Found::Topics { .. } | Found::Lines { .. } => "absolute = 0.0",
        };
        let _ = write!(
            text,
            "\n# Forwards a value when it has moved by more than the bound, and at least one an hour.\n\
             # `absolute` is in the stream's unit, `percent` of its `span`; [streams.\"NAME\"] params win.\n\
             [slots.quiet]\ncell = {}\nparams = {{ {params}, max_silence_s = 3600 }}\n",
            quoted(cell)
        );
    }
    text += "\n[routes.all]\nstreams = [\"#\"]\n";
    if is_message {
        text += "packets = \"messages\"\n";
    }
    if cell.is_some() {
        text += "slots = [\"quiet\"]\n";
    }
    text
}

fn topics(url: &str, groups: &[Group], unknown: &[String]) -> String {
    let mut text = format!("\n[sources.local.mqtt]\nbroker = {}\n", quoted(url));
    let mut names = BTreeSet::new();
    for Group { filter, shape, streams, .. } in groups {
        let _ = write!(
            text,
            "\n[[sources.local.mqtt.topics]]\nfilter = {}\npayload = \"{}\"\n",
            quoted(filter),
            shape.name()
        );
        match streams.as_slice() {
            [(stream, pointer)] if pointer.is_empty() => {
                let _ = writeln!(text, "stream = {}", quoted(&unique(stream, filter, &mut names)));
            }
            streams => {
                text += "[sources.local.mqtt.topics.streams]\n";
                for (stream, pointer) in streams {
                    let _ = writeln!(text, "{} = {}", quoted(&unique(stream, filter, &mut names)), quoted(pointer));
                }
            }
        }
    }
    if !unknown.is_empty() {
        text += "\n# These topics have no number that a stream could be made of:\n";
        for topic in unknown.iter().take(20) {
            let _ = writeln!(text, "#   {}", topic.escape_debug());
        }
    }
    text
}

/// The name, or one with the whole filter in it if another group has come to the same name.
fn unique(name: &str, filter: &str, names: &mut BTreeSet<String>) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    let name =
        if names.contains(name) { format!("{}/{last}", filter.replace(['/', '+', '#'], "-")) } else { name.to_owned() };
    names.insert(name.clone());
    name
}

fn lines(prefix: &str, pattern: Option<&str>) -> String {
    match pattern {
        Some(pattern) => format!(
            "# Each named group of the pattern is a channel.\nlines = {{ pattern = {}, streams = \"{prefix}/{{channel}}\" }}\n",
            quoted(pattern)
        ),
        None => format!(
            "# Lines go on as they are: a decoder cell, or a `pattern` with named groups, makes readings of them.\nlines = {{ message = \"{prefix}/raw\" }}\n"
        ),
    }
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
