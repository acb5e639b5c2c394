//! `porin init`: listens to a source for a moment, shows the streams in it, and writes a configuration that reads them.

mod listen;
mod shape;
mod write;

use std::{
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use porin_core::config::{Config, Defaults, address};

use super::up::Places;
use crate::{
    failure::{Exit, Failure},
    output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// mqtt://HOST:PORT, udp://ADDRESS:PORT, a serial device or a CSV file; without it, a made-up stream
    #[arg(long, value_name = "SOURCE")]
    from: Option<String>,
    /// Seconds to listen
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Baud rate of a serial device
    #[arg(long, value_name = "N", default_value_t = 9_600)]
    baud: u32,
    /// The broker that gets the filtered values: mqtt://HOST:PORT; `own`: `porin up` starts one
    #[arg(long, value_name = "URL")]
    uplink: Option<String>,
    /// The cell that filters: deadband, or none
    #[arg(long, value_name = "NAME", value_parser = ["deadband", "none"])]
    cell: Option<String>,
    /// Folder of the built cells [default: beside this program or /usr/lib/porin/cells]
    #[arg(long, value_name = "DIR")]
    cells: Option<PathBuf>,
    /// Where the configuration goes
    #[arg(long, value_name = "FILE", default_value = "porin.toml")]
    out: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

/// Where readings come from.
#[derive(Debug, PartialEq)]
enum Source {
    Mqtt(String),
    Udp(std::net::SocketAddr),
    /// A device and its baud rate.
    Serial(PathBuf, u32),
    Csv(PathBuf),
    Simulator,
}

fn usage(message: String, hint: &str) -> anyhow::Error {
    Failure { exit: Exit::Usage, message, hint: Some(hint.into()) }.into()
}

fn parse(from: Option<&str>, baud: u32) -> anyhow::Result<Source> {
    const FORMS: &str = "mqtt://HOST:PORT, udp://ADDRESS:PORT, /dev/ttyUSB0, or a file of timestamp,channel,value";
    let Some(text) = from else { return Ok(Source::Simulator) };
    if text.starts_with("mqtt://") {
        address(text).map_err(|what| usage(format!("--from {text}: {what}"), FORMS))?;
        return Ok(Source::Mqtt(text.to_owned()));
    }
    if let Some(place) = text.strip_prefix("udp://") {
        let place =
            place.parse().map_err(|_| usage(format!("--from {text}: an IP address and a port are needed"), FORMS))?;
        return Ok(Source::Udp(place));
    }
    if text.contains("://") {
        return Err(usage(format!("--from {text}: unknown kind of source"), FORMS));
    }
    let path = fs::canonicalize(text).map_err(|error| usage(format!("--from {text}: {error}"), FORMS))?;
    Ok(if path.starts_with("/dev") { Source::Serial(path, baud) } else { Source::Csv(path) })
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let out = arguments.out.display();
    if arguments.out.exists() && !arguments.force {
        let hint = Some("--force replaces it, --out FILE writes another".into());
        return Err(Failure { exit: Exit::Refused, message: format!("{out} is there already"), hint }.into());
    }
    let from = parse(arguments.from.as_deref(), arguments.baud)?;
    let found = listen::to(&from, Duration::from_secs(arguments.seconds))?;
    output::print(&found.describe())?;
    if found.is_empty() {
        let message = format!("nothing that a stream can be made of came in {} seconds", arguments.seconds);
        let hint = Some("--seconds N listens longer; does the source send now?".into());
        return Err(Failure { exit: Exit::Unreachable, message, hint }.into());
    }
    let uplink = match &arguments.uplink {
        Some(uplink) => uplink.clone(),
        None => ask("uplink, the broker for the filtered values", "own")?,
    };
    if uplink != "own" {
        address(&uplink).map_err(|what| usage(format!("--uplink {uplink}: {what}"), "mqtt://HOST:PORT, or own"))?;
    }
    let cell = match &arguments.cell {
        Some(cell) => cell.clone(),
        None => ask("cell, deadband or none", "deadband")?,
    };
    let cell = match cell.as_str() {
        "none" => None,
        "deadband" => Some(cell_file(arguments.cells.as_deref(), "deadband")?),
        other => return Err(usage(format!("there is no cell `{other}` here"), "deadband, or none")),
    };
    let text = write::configuration(&from, &found, (uplink != "own").then_some(uplink.as_str()), cell.as_deref());
    let places = Places::beside(&arguments.out);
    let defaults =
        Defaults { broker: Some("mqtt://localhost"), path: Some(&places.path), socket: Some(&places.socket) };
    Config::parse_with(&text, defaults).map_err(|error| anyhow!("a defect in porin: {error}\n{text}"))?;
    fs::write(&arguments.out, text).with_context(|| format!("writing {out}"))?;
    output::print(&format!("\nwrote {out}. Next: porin up -c {out}\n"))
}

/// Asks at a terminal; elsewhere takes the default.
fn ask(what: &str, default: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return Ok(default.to_owned());
    }
    eprint!("{what} [{default}]: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let answer = answer.trim();
    Ok(if answer.is_empty() { default.to_owned() } else { answer.to_owned() })
}

fn cell_file(folder: Option<&Path>, name: &str) -> anyhow::Result<String> {
    // target/demo/porin → target/cells
    let beside = std::env::current_exe()?.ancestors().nth(2).map(|target| target.join("cells"));
    let folders = match folder {
        Some(folder) => vec![folder.to_path_buf()],
        None => beside.into_iter().chain([PathBuf::from("/usr/lib/porin/cells")]).collect(),
    };
    let files = folders.iter().map(|folder| folder.join(name).with_extension("wasm"));
    let file = files.into_iter().find(|file| file.is_file());
    let file =
        file.ok_or_else(|| usage(format!("there is no {name}.wasm in {folders:?}"), "--cells DIR, or --cell none"))?;
    Ok(fs::canonicalize(file)?.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_known_by_its_form() {
        assert_eq!(parse(None, 9_600).expect("none"), Source::Simulator);
        assert_eq!(parse(Some("mqtt://x:1884"), 9_600).expect("a broker"), Source::Mqtt("mqtt://x:1884".into()));
        assert_eq!(parse(Some("/dev/null"), 9_600).expect("a device"), Source::Serial("/dev/null".into(), 9_600));
        for wrong in ["mqtt://", "udp://localhost", "http://x", "/nowhere.csv"] {
            let error = parse(Some(wrong), 9_600).expect_err(wrong);
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
