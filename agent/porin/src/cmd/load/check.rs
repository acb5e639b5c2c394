//! `porin load check`: a subscriber that keeps the books.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use porin_core::{payload, topic::TopicKind};
use rumqttc::v5::{
    AsyncClient, Event, MqttOptions,
    mqttbytes::{QoS, v5::Packet},
};

use super::{
    address,
    ledger::{Account, Ledger},
    unique,
};
use crate::failure::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// mqtt://HOST or mqtt://HOST:PORT
    #[arg(long, default_value = "mqtt://127.0.0.1")]
    broker: String,
    /// What to subscribe to
    #[arg(long, default_value_t = TopicKind::Data.filter(&[]))]
    filter: String,
    /// Stop when so many packets have come, each counted once; fewer are missing ones
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// Stop after this many seconds in which nothing came; the first packet may take ten times as long
    #[arg(long, value_name = "S", default_value_t = 5)]
    idle: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (host, port) = address(&arguments.broker)?;
    let mut options = MqttOptions::new(format!("porin-check-{}", unique()), host, port);
    options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(Some(1 << 20));
    let (client, mut event_loop) = AsyncClient::new(options, 16);
    client.subscribe(&arguments.filter, QoS::AtLeastOnce).await?;
    let mut ledger = Ledger::default();
    let (mut others, mut publishes) = (0u64, 0u64);
    let idle = Duration::from_secs(arguments.idle.max(1));
    let mut last = Instant::now();
    while arguments.packets.is_none_or(|packets| ledger.packets() < packets) {
        let patience = if publishes == 0 { idle * 10 } else { idle };
        let Some(left) = patience.checked_sub(last.elapsed()) else { break };
        // Dropped in the middle only at the very end.
        let Ok(event) = tokio::time::timeout(left, event_loop.poll()).await else { break };
        match event.with_context(|| format!("the broker at {}", arguments.broker))? {
            Event::Incoming(Packet::SubAck(_)) => {
                eprintln!("listening to {}", arguments.filter);
                last = Instant::now();
            }
            Event::Incoming(Packet::Publish(publish)) => {
                last = Instant::now();
                publishes += 1;
                match payload::decode(&publish.payload) {
                    Ok(decoded) => ledger.enter(decoded),
                    Err(_) => others += 1,
                }
            }
            Event::Incoming(Packet::Disconnect(reason)) => bail!("the broker ends the connection: {reason:?}"),
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
    }
    report(arguments, &ledger, publishes, others)
}

fn report(arguments: &Arguments, ledger: &Ledger, publishes: u64, others: u64) -> anyhow::Result<()> {
    let accounts = ledger.accounts();
    let mut stdout = crate::output::stdout();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::json!({ "publishes": publishes, "others": others, "accounts": accounts }))?;
    } else {
        writeln!(
            stdout,
            "{:<24} {:<28} {:>10} {:>10} {:>8} {:>12}",
            "gateway", "epoch", "packets", "twice", "missing", "out of order"
        )?;
        for Account { gateway, epoch, packets, duplicates, missing, out_of_order, .. } in &accounts {
            writeln!(
                stdout,
                "{gateway:<24} {epoch:<28} {packets:>10} {duplicates:>10} {missing:>8} {out_of_order:>12}"
            )?;
        }
        writeln!(stdout, "{publishes} publishes, {others} that were no packets of porin's")?;
    }
    let sum = |of: fn(&Account) -> u64| accounts.iter().map(of).fold(0, u64::saturating_add);
    let (missing, out_of_order) = (sum(|account| account.missing), sum(|account| account.out_of_order));
    let fewer = arguments.packets.map_or(0, |packets| packets.saturating_sub(ledger.packets()));
    if accounts.is_empty() {
        let hint = format!("is anything published on `{}`?", arguments.filter);
        return Err(Failure { exit: Exit::Differs, message: "no packet came".into(), hint: Some(hint) }.into());
    }
    if missing == 0 && out_of_order == 0 && fewer == 0 {
        return Ok(());
    }
    let message =
        format!("{missing} packets are missing in between, {fewer} at the end, {out_of_order} are out of order");
    let hint = "a gap is also what is left by an outbox that was full (`porind status`, outbox.evicted), and by a mosquitto that \
                drops what waits for a subscriber beyond max_queued_messages, 1,000 unless it is set";
    Err(Failure { exit: Exit::Differs, message, hint: Some(hint.into()) }.into())
}
