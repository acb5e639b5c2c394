//! `porin demo`: the main job on real recorded data, told in a table.
//!
//! Three runs of the real agent against a real broker: every reading its own JSON, batches without cells, batches with
//! cells. Everything in the table is computed from what a subscriber received and what a meter on the wire counted,
//! and checked against the recorded files; if anything does not add up the command fails.

mod cloud;
pub(super) mod meter;
mod picture;
mod sensors;
mod table;
mod update;

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use porin_core::{status::Snapshot, topic::Topic};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{agent::snapshot, broker::Broker};

/// A run of the agent may take this long; the slowest takes some seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// The bound asked for, in percent of a stream's span. AVEVA PI's default for exception reporting.
const PERCENT: f64 = 1.0;

/// Blood glucose in mg/dL: the limits of the alarm.
const ALARM: (f64, f64) = (70.0, 180.0);

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
    /// Keep the configurations and logs in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Draw a recorded stream with what was forwarded of it (SVG)
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// A recorded stream: what the agent is to be measured by.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// In the order of the file: time in µs, value.
    pub(crate) readings: Vec<(u64, f64)>,
    /// p99.5 − p0.5 of the values.
    pub(crate) span: f64,
}

/// Every stream of the demo by name.
pub(crate) type Data = BTreeMap<String, Recorded>;

/// One run of the agent.
#[derive(Debug)]
pub(crate) struct Run {
    /// What the cloud side has of it.
    pub(crate) received: cloud::Received,
    /// What passed on the wire.
    pub(crate) wire: meter::Reading,
    /// The agent's last status.
    pub(crate) status: Snapshot,
}

const SETS: [&str; 3] = ["buoy", "glucose", "vehicle_gps"];

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demo(arguments))
}

async fn demo(arguments: &Arguments) -> anyhow::Result<()> {
    let data = recorded(&arguments.data)?;
    let temporary = tempfile::Builder::new().prefix("porin-demo-").tempdir()?;
    let folder = arguments.keep.as_deref().unwrap_or(temporary.path());
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let packets: usize = data.values().map(|stream| stream.readings.len()).sum();
    table::introduce(packets, data.len());

    let broker = Broker::start()?;
    let cloud = cloud::subscribe(broker.address).await?;
    let mut runs = Vec::new();
    for (gateway, what, cells, batch) in [
        ("each", "1. every reading its own JSON message, no cells", false, 1),
        ("batch", "2. up to 60 readings of a stream in a message, no cells", false, 60),
        ("cells", "3. the same batches, with cells in between; glucose over a local MQTT broker", true, 60),
    ] {
        eprint!("{what} ... ");
        let (address, wire) = meter::start(broker.address).await?;
        let sensors = cells.then_some(broker.address);
        let config = config(arguments, folder, gateway, address.port(), &data, sensors, batch)?;
        let start = Instant::now();
        let status = match sensors {
            None => agent(&arguments.porind, &config).await?,
            Some(broker) => agent_with_sensors(&arguments.porind, &config, broker, &data).await?,
        };
        let seconds = start.elapsed().as_secs_f64();
        let expected = status.outbox.acknowledged;
        let received = all_received(&cloud, gateway, expected).await?;
        let wire = std::mem::take(&mut *wire.lock().ok().context("the meter failed")?);
        eprintln!("{expected} packets in {} messages, {seconds:.1} s", wire.publishes);
        runs.push(Run { received, wire, status });
    }
    let [each, batch, cells] = runs.try_into().ok().context("three runs were made")?;
    table::print(&data, &each, &batch, &cells, PERCENT, &arguments.cells)?;
    if let Some(path) = &arguments.picture {
        let picture = picture::draw(&data, [&each, &batch, &cells]).context("there is nothing to draw")?;
        fs::write(path, picture).with_context(|| format!("writing {}", path.display()))?;
    }
    update::tell(arguments, folder, &data).await?;
    let porin = std::env::args().next().unwrap_or_else(|| "porin".into());
    eprintln!(
        "\nNext:\n\
         1. See a gateway work on this computer, in a live table:\n   {porin} up -c docs/examples/laptop.toml --own-broker\n\
         2. Write a configuration for your own devices:\n   {porin} init --from mqtt://BROKER\n\
         3. Put it on a Raspberry Pi, update it, write a cell: docs/README.md"
    );
    Ok(())
}

/// The subscriber is behind the broker: it gets a moment for the last packets.
async fn all_received(cloud: &cloud::Gateways, gateway: &str, expected: u64) -> anyhow::Result<cloud::Received> {
    let start = Instant::now();
    loop {
        {
            let mut gateways = cloud.lock().ok().context("the subscriber failed")?;
            let there = gateways.get(gateway).map_or(0, |received| received.packets);
            // Late or lost: the table says which.
            if there >= expected || start.elapsed() > Duration::from_secs(10) {
                return Ok(gateways.remove(gateway).unwrap_or_default());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs the agent to its end and gives its last status.
pub(super) async fn agent(program: &Path, config: &Path) -> anyhow::Result<Snapshot> {
    finished(start_agent(program, config, &["--until-drained"])?, config).await
}

/// Runs the agent with sensors that publish to a broker, until it has sent what came of all of it: a broker has no end.
async fn agent_with_sensors(
    program: &Path,
    config: &Path,
    broker: SocketAddr,
    data: &Data,
) -> anyhow::Result<Snapshot> {
    let child = start_agent(program, config, &[])?;
    let log = config.with_extension("log");
    let listens = || fs::read_to_string(&log).is_ok_and(|log| log.contains("listening to the local broker"));
    wait_until(listens).await.context("the agent does not hear its local broker")?;
    sensors::publish(broker, data).await?;
    let expected: u64 = data.values().map(|stream| stream.readings.len() as u64).sum();
    let socket = config.with_extension("sock").display().to_string();
    let done = || {
        snapshot(&socket).is_some_and(|status| {
            let received: u64 = status.sources.iter().map(|source| source.received).sum();
            received >= expected && status.outbox.waiting == 0
        })
    };
    wait_until(done).await.context("the agent does not send everything")?;
    signal(&child, Signal::TERM)?;
    finished(child, config).await
}

/// Not by the program `kill`: a small system has none.
pub(super) fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).context("the agent has ended")?;
    Ok(kill_process(id, signal)?)
}

async fn wait_until(mut so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !so() {
        ensure!(start.elapsed() < PATIENCE, "timed out after {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn start_agent(program: &Path, config: &Path, args: &[&str]) -> anyhow::Result<Child> {
    let log = fs::File::create(config.with_extension("log"))?;
    let mut command = Command::new(program);
    command.args(["run", "--json", "--config"]).arg(config).args(args);
    command.stdin(Stdio::null()).stderr(log).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().with_context(|| format!("starting {}", program.display()))
}

async fn finished(child: Child, config: &Path) -> anyhow::Result<Snapshot> {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.context("the agent does not end")??;
    if !output.status.success() {
        let log = fs::read_to_string(config.with_extension("log")).unwrap_or_default();
        anyhow::bail!("the agent failed: {}\n{log}", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The recorded files, read on their own: not by the agent's code.
fn recorded(folder: &Path) -> anyhow::Result<Data> {
    let mut data = Data::new();
    for set in SETS {
        let channels = read(&folder.join(set).with_extension("csv.gz"))?;
        data.extend(channels.into_iter().map(|(channel, recorded)| (format!("{set}/{channel}"), recorded)));
    }
    ensure!(data.values().all(|stream| stream.span > 0.0), "a stream that never moves has no span");
    Ok(data)
}

/// The channels of a recorded file.
pub(super) fn read(path: &Path) -> anyhow::Result<Data> {
    let mut text = String::new();
    let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text)?;
    let mut channels = Data::new();
    for row in csv::Reader::from_reader(text.as_bytes()).deserialize() {
        let (seconds, channel, value): (f64, String, f64) =
            row.with_context(|| format!("reading {}", path.display()))?;
        let recorded = channels.entry(channel).or_insert(Recorded { readings: Vec::new(), span: 0.0 });
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        recorded.readings.push(((seconds * 1e6).round() as u64, value));
    }
    for recorded in channels.values_mut() {
        recorded.span = span(&recorded.readings);
    }
    Ok(channels)
}

/// The range of the values without the outermost half percent on either side.
fn span(readings: &[(u64, f64)]) -> f64 {
    let mut values: Vec<_> = readings.iter().map(|(_, value)| *value).collect();
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = |share: f64| values[((values.len() as f64 * share) as usize).min(last)];
    rank(0.995) - rank(0.005)
}

/// Writes the agent's configuration: a real one, to be read by whoever keeps it.
fn config(
    arguments: &Arguments,
    folder: &Path,
    gateway: &str,
    port: u16,
    data: &Data,
    sensors: Option<SocketAddr>,
    batch: usize,
) -> anyhow::Result<PathBuf> {
    use std::fmt::Write as _;
    let mut text = String::new();
    let place = folder.join(gateway);
    let place = place.display();
    let topic = Topic::Data { gateway: "{gw}", below: "{stream}" };
    write!(
        text,
        "[gateway]\nid = \"{gateway}\"\nsocket = \"{place}.sock\"\n\n[uplink]\nbroker = \"mqtt://127.0.0.1:{port}\"\n\
         topic = \"{topic}\"\n\n[outbox]\npath = \"{place}.redb\"\n"
    )?;
    for set in SETS {
        let file = fs::canonicalize(arguments.data.join(set).with_extension("csv.gz"))?;
        let file = file.display();
        match sensors.filter(|_| set == sensors::SET) {
            Some(broker) => text += &sensors::source(broker),
            None => write!(
                text,
                "\n[sources.{set}.replay]\nfile = \"{file}\"\nstreams = \"{set}/{{channel}}\"\nspeed = \"max\"\n"
            )?,
        }
        write!(
            text,
            "\n[routes.{set}]\nstreams = [\"{set}/#\"]\nbatch = {{ packets = {batch}, bytes = 65536, wait = \"2s\" }}\n"
        )?;
        if sensors.is_some() {
            let cell = fs::canonicalize(arguments.cells.join("deadband.wasm"))?;
            let cell = cell.display();
            write!(
                text,
                "slots = [\"{set}-deadband\"]\n\n[slots.{set}-deadband]\ncell = \"{cell}\"\nparams = {{ percent = {PERCENT} }}\n"
            )?;
        }
    }
    if sensors.is_some() {
        for (name, Recorded { span, .. }) in data {
            write!(text, "\n[streams.\"{name}\"]\nparams = {{ span = {span:?} }}\n")?;
        }
        let cell = fs::canonicalize(arguments.cells.join("threshold.wasm"))?;
        let (cell, (low, high)) = (cell.display(), ALARM);
        write!(
            text,
            "\n[routes.alarm]\nstreams = [\"glucose/glucose_mg_dL\"]\nslots = [\"limits\"]\nbatch = {{ packets = {batch}, bytes = 65536, wait = \"2s\" }}\n\n\
             [slots.limits]\ncell = \"{cell}\"\nparams = {{ low = {low:?}, high = {high:?}, hysteresis = 5.0 }}\noutputs = [\"{{stream}}/alarm\"]\n"
        )?;
    }
    let path = folder.join(gateway).with_extension("toml");
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
