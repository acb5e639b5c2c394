//! `porin bench-e2e`: from a broker through a filter and back, per second of the filter's own processor time.
//!
//! The subjects take turns at the same mosquitto on loopback: `porind` with a deadband cell, and the smallest program that does
//! the same with rumqttc and native code (`native.rs`). What is compared is what each process used, as the system
//! counts it; the broker and the publisher use the other processor.

mod native;
mod sensors;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use self::sensors::{BOUND, Sensors};
use super::{agent::snapshot, broker::free_address};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The agent's program
    #[arg(long, value_name = "FILE", default_value = "target/release/porind")]
    porind: PathBuf,
    /// Folder of the built cells
    #[arg(long, value_name = "DIR", default_value = "target/cells")]
    cells: PathBuf,
    /// Messages of a round
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Be the native program (used by the benchmark itself)
    #[arg(long, hide = true)]
    native: Option<u16>,
    /// Quality of service of the native program
    #[arg(long, hide = true, default_value_t = 1)]
    qos: u8,
}

/// Anything may take so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Without progress for so long, what is missing is lost.
const IDLE: Duration = Duration::from_secs(3);

/// Who filters.
#[derive(Clone, Copy, PartialEq)]
enum Subject {
    /// The host parses the JSON, a `filter` decides.
    Porind,
    /// A `message-filter` parses the JSON itself and decides.
    InCell,
    Native,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Porind => "porind",
            Self::InCell => "in cell",
            Self::Native => "native",
        }
    }
}

/// What a round measured.
struct Round {
    /// Messages for each second of the process's time.
    per_cpu_second: f64,
    /// Messages for each second on the wall.
    per_second: f64,
    /// Messages that the subject has seen.
    seen: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(port) = arguments.native {
        return native::run(port, arguments.qos);
    }
    let broker = Mosquitto::start()?;
    let mut text = format!(
        "MQTT → deadband → MQTT through mosquitto on loopback, {} messages of JSON, about 5 % forwarded; median of {} rounds\n\n\
         {:>3} {:<8} {:>16} {:>12} {:>10}\n",
        arguments.messages, arguments.rounds, "QoS", "", "per CPU second", "per second", "seen"
    );
    use std::fmt::Write as _;
    let mut saturation = 0.0;
    for qos in [0, 1] {
        let (mut of_porind, mut of_in_cell, mut of_native) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=arguments.rounds {
            eprint!("\rQoS {qos}, round {number} of {}   ", arguments.rounds);
            of_porind.push(round(arguments, &broker, Subject::Porind, qos)?);
            of_native.push(round(arguments, &broker, Subject::Native, qos)?);
            of_in_cell.push(round(arguments, &broker, Subject::InCell, qos)?);
        }
        let (porind, in_cell, native) = (median(of_porind), median(of_in_cell), median(of_native));
        for (subject, round) in [(Subject::Porind, &porind), (Subject::InCell, &in_cell), (Subject::Native, &native)] {
            let name = subject.name();
            writeln!(
                text,
                "{qos:>3} {name:<8} {:>16.0} {:>12.0} {:>10}",
                round.per_cpu_second, round.per_second, round.seen
            )?;
        }
        let ratio = |round: &Round| round.per_cpu_second / native.per_cpu_second;
        let (host, cell) = (ratio(&porind), ratio(&in_cell));
        writeln!(text, "    porind / native: {host:.2} (goal 0.9); JSON parsed inside the cell / native: {cell:.2}")?;
        saturation = porind.per_second;
    }
    writeln!(
        text,
        "\nlatency at QoS 1, publisher → broker → porind → broker → subscriber; packets leave before their commit\n"
    )?;
    writeln!(
        text,
        "{:>16} {:>10} {:>10} {:>10} {:>16} {:>16}",
        "of saturation", "per second", "p50, ms", "p99, ms", "mean commit, ms", "slowest, ms"
    )?;
    for share in [0.1, 0.5, 0.9] {
        eprint!("\rlatency at {:.0} %          ", share * 100.0);
        let (mut times, [mean, slowest]) = latency(arguments, &broker, saturation * share)?;
        ensure!(!times.is_empty(), "no packet came back");
        times.sort_unstable();
        let at = |share: f64| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let index = ((times.len() - 1) as f64 * share) as usize;
            times[index].as_secs_f64() * 1e3
        };
        let (percent, rate, p50, p99) = (share * 100.0, saturation * share, at(0.5), at(0.99));
        writeln!(text, "{percent:>14.0} % {rate:>10.0} {p50:>10.2} {p99:>10.2} {mean:>16.2} {slowest:>16.2}")?;
    }
    writeln!(text, "\nstart of the process → its first publish at the subscriber, median of {}, ms\n", 5)?;
    for subject in [Subject::Porind, Subject::Native] {
        let mut times: Vec<_> = (0..5).map(|_| first(arguments, &broker, subject)).collect::<anyhow::Result<_>>()?;
        times.sort_unstable();
        writeln!(text, "{:<8} {:.1}", subject.name(), times[times.len() / 2].as_secs_f64() * 1e3)?;
    }
    eprintln!();
    Ok(std::io::Write::write_all(&mut crate::output::stdout(), text.as_bytes())?)
}

fn median(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|a, b| a.per_cpu_second.total_cmp(&b.per_cpu_second));
    rounds.swap_remove(rounds.len() / 2)
}

/// Debian's mosquitto, killed when dropped, that drops nothing.
struct Mosquitto {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Mosquitto {
    fn start() -> anyhow::Result<Self> {
        let (address, folder) = (free_address()?, tempfile::tempdir()?);
        let file = folder.path().join("mosquitto.conf");
        let port = address.port();
        fs::write(
            &file,
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence false\nmax_inflight_messages 1000\n\
                 max_queued_messages 0\nqueue_qos0_messages true\n"
            ),
        )?;
        let child = Command::new("mosquitto").arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.context("starting mosquitto (apt-get install mosquitto)")?;
        let broker = Self { child, port, folder };
        wait_until("mosquitto", || Ok(std::net::TcpStream::connect(address).is_ok()))?;
        Ok(broker)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A subject that runs; killed when dropped.
struct Running {
    child: Child,
    folder: tempfile::TempDir,
    subject: Subject,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(arguments: &Arguments, broker: &Mosquitto, subject: Subject, qos: u8) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(broker.folder.path())?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = match subject {
            Subject::Native => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["bench-e2e", "--native", &broker.port.to_string(), "--qos", &qos.to_string()]);
                command
            }
            Subject::Porind | Subject::InCell => {
                let config = folder.path().join("porin.toml");
                fs::write(&config, Self::config(arguments, folder.path(), broker.port, subject, qos)?)?;
                let mut command = Command::new(&arguments.porind);
                command.args(["run", "--config"]).arg(config);
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(log).spawn().context("starting the subject")?;
        Ok(Self { child, folder, subject })
    }

    fn config(arguments: &Arguments, folder: &Path, port: u16, subject: Subject, qos: u8) -> anyhow::Result<String> {
        let (payload, packets, world, cell) = match subject {
            Subject::InCell => {
                ("payload = \"message\"\nstream = \"{stream}\"", "messages", "message-filter", "json-deadband")
            }
            Subject::Porind | Subject::Native => {
                ("streams = { \"{stream}\" = \"/v\" }", "readings", "filter", "deadband")
            }
        };
        let (place, cell) = (folder.display(), fs::canonicalize(arguments.cells.join(cell).with_extension("wasm"))?);
        Ok(format!(
            "[gateway]\nid = \"b{0}\"\nsocket = \"{place}/s\"\n[uplink]\nbroker = \"mqtt://127.0.0.1:{port}\"\ntopic = \"out/{{stream}}\"\n[outbox]\n\
             path = \"{place}/r.redb\"\n[sources.in.mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\nclient_id = \"b{0}-{1}\"\nqos = {qos}\nwindow = 1000\n\
             [[sources.in.mqtt.topics]]\nfilter = \"in/{{stream}}\"\n{payload}\n[slots.q]\ncell = \"{2}\"\nworld = \"{world}\"\n\
             params = {{ absolute = {BOUND:?} }}\n[routes.r]\nstreams = [\"#\"]\npackets = \"{packets}\"\nslots = [\"q\"]\n",
            std::process::id(),
            folder.file_name().map(|name| name.to_string_lossy().replace('.', "")).unwrap_or_default(),
            cell.display()
        ))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> String {
        self.folder.path().join("s").display().to_string()
    }

    fn listens(&self) -> bool {
        self.log().contains("listening to the local broker")
    }

    /// Messages seen so far, and whether what came of them has left.
    fn progress(&self) -> (u64, bool) {
        match self.subject {
            Subject::Native => {
                let log = self.log();
                let seen = log.lines().rev().find_map(|line| line.strip_prefix("seen ")?.parse().ok());
                (seen.unwrap_or(0), true)
            }
            Subject::Porind | Subject::InCell => {
                let socket = self.folder.path().join("s").display().to_string();
                snapshot(&socket).map_or((0, false), |status| {
                    (status.sources.iter().map(|source| source.received).sum(), status.outbox.waiting == 0)
                })
            }
        }
    }

    /// Processor time that the process has used, as the system counts it.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // After the name in brackets: state is the first field, utime the 12th, stime the 13th; in hundredths of a second.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).context("/proc/PID/stat");
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }
}

fn wait_until(what: &str, mut so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let start = Instant::now();
    while !so()? {
        ensure!(start.elapsed() < PATIENCE, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // for the eyes
fn round(arguments: &Arguments, broker: &Mosquitto, subject: Subject, qos: u8) -> anyhow::Result<Round> {
    let running = Running::start(arguments, broker, subject, qos)?;
    wait_until("the subject to listen", || Ok(running.listens()))?;
    let (before, start) = (running.cpu()?, Instant::now());
    Sensors::new(broker.port, qos).publish(arguments.messages)?;
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let (seen, drained) = running.progress();
        if seen > last {
            (last, moved) = (seen, Instant::now());
        }
        if (seen >= arguments.messages && drained) || moved.elapsed() > IDLE {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let (cpu, wall) = (running.cpu()?.saturating_sub(before), moved.duration_since(start));
    let seen = last;
    Ok(Round {
        per_cpu_second: seen as f64 / cpu.as_secs_f64().max(0.01),
        per_second: seen as f64 / wall.as_secs_f64(),
        seen,
    })
}

/// Times from the publisher to the subscriber at a steady rate; and, apart, the mean and the slowest commit in milliseconds.
#[allow(clippy::cast_precision_loss)] // for the eyes
fn latency(arguments: &Arguments, broker: &Mosquitto, per_second: f64) -> anyhow::Result<(Vec<Duration>, [f64; 2])> {
    let running = Running::start(arguments, broker, Subject::Porind, 1)?;
    wait_until("the subject to listen", || Ok(running.listens()))?;
    let times = Sensors::new(broker.port, 1).publish_and_time(per_second, Duration::from_secs(4))?;
    let outbox = snapshot(&running.socket()).context("the agent does not answer")?.outbox;
    let mean = outbox.commit_us as f64 / outbox.commits.max(1) as f64 / 1e3;
    Ok((times, [mean, outbox.slowest_commit_us as f64 / 1e3]))
}

/// From the start of the process to its first publish at a subscriber: a retained message waits for it.
fn first(arguments: &Arguments, broker: &Mosquitto, subject: Subject) -> anyhow::Result<Duration> {
    let mut waiting = Sensors::new(broker.port, 1).listen_after_retaining()?;
    let start = Instant::now();
    let _running = Running::start(arguments, broker, subject, 1)?;
    waiting.first(PATIENCE)?;
    let took = start.elapsed();
    waiting.forget()?;
    Ok(took)
}
