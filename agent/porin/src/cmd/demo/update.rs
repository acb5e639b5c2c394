//! The demo's second part: cells are exchanged in a gateway that runs, over the broker that is there.
//!
//! A signed one takes over, one that would forward nothing is rolled back by itself, one that strangers signed is refused, the broker goes away and
//! comes back. What the table says of packets is counted by the subscriber.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use super::{
    Arguments, Broker, Data, PATIENCE, all_received, cloud, finished, signal, snapshot, start_agent, wait_until,
};

const SET: &str = "glucose";

/// The recording takes so long here, in seconds: the story, and some.
const SECONDS: f64 = 30.0;

/// The agent waits for longer than the subscriber before it connects again, or a broker that forgets would take packets for nobody.
const RECONNECT: &str = "3s";

/// For a broker to pass on what it has taken.
const PASSED_ON: Duration = Duration::from_secs(1);

/// What happened, in the table's rows.
struct Outcome {
    what: &'static str,
    answer: String,
}

/// Runs the story; fails if any part of it ends otherwise.
pub(super) async fn tell(arguments: &Arguments, folder: &Path, data: &Data) -> anyhow::Result<()> {
    eprintln!("\nNow a gateway that is running gets other cells, signed, over the broker that is there already:\n");
    let broker = Broker::start()?;
    let address = broker.address;
    let gateways = cloud::subscribe(address).await?;
    let porin = |keys: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "porin".into()));
        command.env("PORIN_BROKER", format!("mqtt://{address}")).env_remove("PORIN_PASSPHRASE");
        (command, folder.join(keys).display().to_string())
    };
    for keys in ["keys", "forged-keys"] {
        let (mut command, keys) = porin(keys);
        let made = command
            .args(["keys", "init", "--keys", &keys])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await?;
        ensure!(made.success(), "making keys in {keys}: is it a fresh folder?");
    }
    let config = config(arguments, folder, &address.to_string(), data)?;
    let agent = start_agent(&arguments.porind, &config, &["--until-drained"])?;
    let socket = config.with_extension("sock").display().to_string();
    let uplink = || snapshot(&socket).map(|status| status.uplink);
    wait_until(|| uplink().is_some_and(|uplink| uplink.connected)).await?;

    let cell = fs::canonicalize(arguments.cells.join("deadband.wasm"))?.display().to_string();
    let push = async |keys: &str, params: &str| -> anyhow::Result<(Option<i32>, Value, f64)> {
        let (mut command, keys) = porin(keys);
        let start = Instant::now();
        command.args([
            "push", &cell, "--to", "lab", "--config", params, "--passes", "1..95", "--shadow", "1s", "--canary", "2s",
        ]);
        command.args(["--packets", "50", "--json", "--keys", &keys]).stderr(Stdio::null());
        let output = tokio::time::timeout(PATIENCE, command.output()).await.context("a push does not end")??;
        let said = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok((output.status.code(), said, start.elapsed().as_secs_f64()))
    };
    let mut told = Vec::new();
    let mut expect = |what, outcome: (Option<i32>, Value, f64), code: i32, word: &str| -> anyhow::Result<()> {
        let (found, said, seconds) = outcome;
        let gateway = &said["gateways"]["lab"];
        let answer = [&gateway["state"], &gateway["reason"]].map(|word| word.as_str().unwrap_or_default());
        ensure!(found == Some(code) && answer.contains(&word), "{what}: expected {word}, got {found:?}: {said}");
        let answer = answer.join(" ");
        eprintln!("{what} ... {}, {seconds:.1} s", answer.trim());
        told.push(Outcome { what, answer: answer.trim().into() });
        Ok(())
    };
    expect("a signed update takes over", push("keys", "percent=2.0").await?, 0, "confirmed")?;
    expect("a bad one, which would forward nothing", push("keys", "percent=5000.0").await?, 5, "output-ratio")?;
    expect("a forged one, signed by strangers", push("forged-keys", "percent=0.0").await?, 5, "too-few-signatures")?;

    let before = uplink().map_or(0, |uplink| uplink.connections);
    // This broker keeps nothing on a disk: what it has taken and not passed on when it ends would be its own loss. It is given the time.
    signal(&agent, Signal::STOP)?;
    tokio::time::sleep(PASSED_ON).await;
    drop(broker);
    signal(&agent, Signal::CONT)?;
    wait_until(|| uplink().is_some_and(|uplink| !uplink.connected)).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _broker = Broker::start_at(address)?;
    wait_until(|| uplink().is_some_and(|uplink| uplink.connections > before)).await?;
    let waited = "the agent connects again, and sends what waited";
    eprintln!("the broker goes away and comes back ... {waited}");
    told.push(Outcome { what: "the broker goes away and comes back", answer: waited.into() });

    let status = finished(agent, &config).await?;
    let (made, kept) = (status.sources.iter().map(|source| source.received).sum::<u64>(), status.outbox.appended);
    let received = all_received(&gateways, "lab", kept).await?;
    let lost = kept.saturating_sub(received.packets);
    let recorded: usize =
        data.iter().filter(|(name, _)| name.starts_with(SET)).map(|(_, stream)| stream.readings.len()).sum();
    print(&told, made, kept, received.packets, received.duplicates, lost)?;
    ensure!(made == recorded as u64, "{made} of {recorded} recorded readings came to the cells");
    ensure!(lost == 0 && received.packets == kept, "{} of {kept} packets were received", received.packets);
    let slot = status.routes.iter().flat_map(|route| &route.slots).next().context("there is no slot")?;
    ensure!(slot.from.starts_with("release "), "the slot has {}", slot.from);
    Ok(())
}

fn config(arguments: &Arguments, folder: &Path, broker: &str, data: &Data) -> anyhow::Result<std::path::PathBuf> {
    let place = folder.join("lab").display().to_string();
    let (file, cell) = (arguments.data.join(SET).with_extension("csv.gz"), arguments.cells.join("deadband.wasm"));
    let (file, cell) = (fs::canonicalize(file)?, fs::canonicalize(cell)?);
    let streams = || data.iter().filter(|(name, _)| name.starts_with(SET));
    let times = || streams().flat_map(|(_, stream)| &stream.readings).map(|(time, _)| *time);
    let (first, last) = times().min().zip(times().max()).context("there is no recording")?;
    #[allow(clippy::cast_precision_loss)] // for a speed
    let speed = ((last - first) as f64 / 1e6 / SECONDS).max(1.0);
    let mut text = format!(
        "[gateway]\nid = \"lab\"\nsocket = \"{place}.sock\"\n\n[uplink]\nbroker = \"mqtt://{broker}\"\nreconnect = \"{RECONNECT}\"\n\n\
         [updates]\nroot = \"{}\"\n\n[outbox]\npath = \"{place}.redb\"\n\n\
         [sources.{SET}.replay]\nfile = \"{}\"\nstreams = \"{SET}/{{channel}}\"\nspeed = {speed:.1}\n\n\
         [slots.quiet]\ncell = \"{}\"\nparams = {{ percent = 1.0 }}\n\n\
         [routes.{SET}]\nstreams = [\"{SET}/#\"]\nslots = [\"quiet\"]\n",
        folder.join("keys/root-1").display(),
        file.display(),
        cell.display()
    );
    for (name, stream) in streams() {
        text += &format!("\n[streams.\"{name}\"]\nparams = {{ span = {:?} }}\n", stream.span);
    }
    let path = folder.join("lab.toml");
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn print(told: &[Outcome], made: u64, kept: u64, received: u64, again: u64, lost: u64) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = crate::output::stdout();
    writeln!(out, "\n{:<40} what came of it", "while packets flow")?;
    told.iter().try_for_each(|Outcome { what, answer }| writeln!(out, "{what:<40} {answer}"))?;
    writeln!(
        out,
        "\n{made} readings came to the cells, {kept} were kept; the subscriber received {received} ({again} came again, and were dropped by name), {lost} lost."
    )?;
    Ok(())
}
