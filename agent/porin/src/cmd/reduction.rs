//! `porin reduction`: bytes on the broker's socket for each reading, by data set, encoding, batch and cell, as Markdown.
//!
//! Each number is a run of the real agent to a real broker with a meter on the wire between them, as in the demo. `make
//! reduction` keeps the table in `docs/reduction.md`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use porin_core::payload::Encoding;

use super::{
    broker::Broker,
    demo::{self, meter},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The agent's program
    #[arg(long, value_name = "FILE", default_value = "target/release/porind")]
    porind: PathBuf,
    /// Folder of the built cells
    #[arg(long, value_name = "DIR", default_value = "target/cells")]
    cells: PathBuf,
    /// Folder of the recorded data
    #[arg(long, value_name = "DIR", default_value = "tests/data")]
    data: PathBuf,
}

/// Packets in a publish at most, or bytes.
const BATCHES: [(&str, &str); 3] =
    [("1", "packets = 1"), ("60 packets", "packets = 60, bytes = 131072, wait = \"5s\""), ("4 KB", "wait = \"5s\"")];

const CELLS: [Option<&str>; 3] = [None, Some("deadband"), Some("swinging-door")];

/// Of the channel's span.
const PERCENT: f64 = 1.0;

/// Goals: with the better cell, at most this share of the bytes of the same batch without it.
const GOALS: [(&str, f64); 4] = [("office", 45.0), ("buoy", 45.0), ("glucose", 60.0), ("vehicle_gps", 30.0)];

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tables(arguments))
}

async fn tables(arguments: &Arguments) -> anyhow::Result<()> {
    let mut sets: Vec<PathBuf> = fs::read_dir(&arguments.data)
        .with_context(|| format!("reading {}", arguments.data.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".csv.gz"))
        .collect();
    sets.sort();
    ensure!(!sets.is_empty(), "{} has no recorded data", arguments.data.display());
    let broker = Broker::start()?;
    let mut text = String::from(HEAD);
    let mut summary = String::from(SUMMARY);
    for path in sets {
        let set = path.file_name().map(|name| name.to_string_lossy().replace(".csv.gz", "")).unwrap_or_default();
        let channels = demo::read(&path)?;
        let readings: usize = channels.values().map(|recorded| recorded.readings.len()).sum();
        write!(text, "\n## {set}: {readings} readings of {} channels\n\n{ROWS}", channels.len())?;
        for (batch, rule) in BATCHES {
            for (name, encoding) in Encoding::ALL {
                let mut each = [0.0; CELLS.len()];
                for (cell, each) in CELLS.into_iter().zip(&mut each) {
                    eprint!("\r{set}, {name}, {batch}, {:<20}", cell.unwrap_or("no cell"));
                    let run = Run { arguments, path: &path, channels: &channels, rule, encoding, cell };
                    #[allow(clippy::cast_precision_loss)]
                    let bytes = run.bytes(&broker).await? as f64;
                    #[allow(clippy::cast_precision_loss)]
                    let readings = readings as f64;
                    *each = bytes / readings;
                }
                let share = |index: usize| each[index] / each[0] * 100.0;
                writeln!(
                    text,
                    "| {batch} | {name} | {:.2} | {:.2} | {:.0} % | {:.2} | {:.0} % |",
                    each[0],
                    each[1],
                    share(1),
                    each[2],
                    share(2)
                )?;
                if batch == "4 KB" && matches!(encoding, Encoding::Json | Encoding::Compact) {
                    let (better, cell) = if each[1] <= each[2] { (1, "deadband") } else { (2, "swinging-door") };
                    let goal = GOALS.iter().find(|(known, _)| *known == set);
                    let goal = goal.map_or_else(|| "–".into(), |(_, goal)| format!("≤ {goal:.0} %"));
                    writeln!(
                        summary,
                        "| {set} | {name} | {:.2} | {:.2} | {cell} | {:.0} % | {goal} |",
                        each[0],
                        each[better],
                        share(better)
                    )?;
                }
            }
        }
    }
    eprintln!();
    let mut stdout = crate::output::stdout();
    Ok(std::io::Write::write_all(&mut stdout, text.replace("SUMMARY", &summary).as_bytes())?)
}

/// One number of the table.
struct Run<'a> {
    arguments: &'a Arguments,
    path: &'a Path,
    channels: &'a BTreeMap<String, demo::Recorded>,
    rule: &'a str,
    encoding: Encoding,
    cell: Option<&'a str>,
}

impl Run<'_> {
    /// Bytes of publishes with data and of their acknowledgements.
    async fn bytes(&self, broker: &Broker) -> anyhow::Result<u64> {
        let folder = tempfile::Builder::new().prefix("porin-reduction-").tempdir()?;
        let (address, wire) = meter::start(broker.address).await?;
        let place = folder.path().display();
        let mut config = format!(
            "[gateway]\nid = \"r\"\nsocket = \"{place}/s\"\n[uplink]\nbroker = \"mqtt://{address}\"\ntopic = \"r\"\n[outbox]\n\
             path = \"{place}/r.redb\"\n[sources.r.replay]\nfile = \"{}\"\nstreams = \"{{channel}}\"\nspeed = \"max\"\n[routes.r]\n\
             streams = [\"#\"]\nencoding = \"{}\"\nbatch = {{ {} }}\n",
            fs::canonicalize(self.path)?.display(),
            self.encoding.name(),
            self.rule
        );
        if let Some(cell) = self.cell {
            let file = fs::canonicalize(self.arguments.cells.join(cell).with_extension("wasm"))?;
            let file = file.display();
            write!(config, "slots = [\"s\"]\n[slots.s]\ncell = \"{file}\"\nparams = {{ percent = {PERCENT:?} }}\n")?;
            for (channel, recorded) in self.channels {
                write!(config, "[streams.\"{channel}\"]\nparams = {{ span = {:?} }}\n", recorded.span)?;
            }
        }
        let path = folder.path().join("porin.toml");
        fs::write(&path, config)?;
        let status = demo::agent(&self.arguments.porind, &path).await?;
        ensure!(status.imbalance.is_empty(), "the agent's books do not balance: {:?}", status.imbalance);
        let wire = wire.lock().ok().context("the meter failed")?;
        Ok(wire.topics.get("r").copied().unwrap_or(0))
    }
}

const HEAD: &str = "\
# Bytes on the broker's socket for each reading

This page answers: how many bytes does a reading cost with each encoding, batch size and cell, on recorded data?

Made by `make reduction`: every number is a run of the real agent over a recording to a real broker.
A meter on the wire counts the bytes of publishes and their acknowledgements (MQTT 5, QoS 1, without TLS and TCP).
They are divided by the *recorded* readings.
The cells are set to 1 % of each channel's span (p99.5 − p0.5).

The shares compare with the same batch without a cell.
Most of the saving comes from batching and coding, and is there without any cell.
On signals that move all the time an error bound saves little; a `summary` is right there.

SUMMARY
";

const SUMMARY: &str = "\
## With the better cell, batches of 4 KB

| set | encoding | without | with | better cell | share | goal |
|---|---|---|---|---|---|---|
";

const ROWS: &str = "\
| batch | encoding | no cell | deadband | | swinging-door | |
|---|---|---|---|---|---|---|
";
