//! `porin record`: what a gateway has recorded of a route. Readings become a file that a replay reads: a filter can be tried on it in the evening; messages
//! become lines of JSON. The answer is as good as the broker: it is not signed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use porin_core::{
    config::microseconds,
    payload,
    time::Unix,
    topic::{Topic, TopicKind},
    trust::{Request, Target, documents::is_name},
};
use porind::wall_clock;

use super::push::Operator;
use crate::{
    cloud::Cloud,
    failure::{Exit, Failure},
    fleet,
    keys::{KeyFolder, RoleName, sign},
};

/// A request counts for so long.
const COUNTS_US: u64 = 600_000_000;

/// For all of it.
const AT_MOST: Duration = Duration::from_secs(900);

/// Pieces of an answer: a gateway records four megabytes of a route.
const MAX_PIECES: usize = 100_000;

/// Between two pieces.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The gateway's id
    #[arg(value_name = "GW", value_parser = gateway)]
    gateway: String,
    /// Route with `record` in its configuration
    #[arg(long)]
    route: String,
    /// How far back
    #[arg(long = "for", value_name = "TIME", default_value = "10min", value_parser = time)]
    back: Unix,
    /// Output file [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    operator: Operator,
}

fn gateway(text: &str) -> Result<String, String> {
    if is_name(text) && !text.contains('/') { Ok(text.into()) } else { Err("a gateway's id".into()) }
}

fn time(text: &str) -> Result<Unix, String> {
    super::push::time(text).and_then(|text| microseconds(&text)).map(Unix)
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { gateway, route, back, out, operator } = arguments;
    let keys = KeyFolder::at(operator.keys.as_deref())?;
    let root = keys.root()?;
    let pair = keys.pair(RoleName::Operator, &root)?;
    let mut cloud = Cloud::connect(&operator.broker)?;
    // That it is there, and that it is the one that was seen before.
    fleet::members(&mut cloud, &keys, &Target::Gateway(gateway.clone()), operator.new_key())?;
    let issued = wall_clock();
    let expires = Unix(issued.0 + COUNTS_US);
    let (fleet, route, seq) = (root.fleet.clone(), route.clone(), issued.0);
    let request = Request { fleet, gateway: gateway.clone(), seq, issued, expires, route, us: back.0 };
    cloud.subscribe(&TopicKind::Record.filter(&[gateway, &seq.to_string()]))?;
    cloud.say(&Topic::Request { gateway }.to_string(), sign(&request, &[&pair]))?;
    let pieces = collect(&mut cloud, seq)?;
    write(&pieces, out.as_ref())
}

/// The pieces of the answer, by number.
fn collect(cloud: &mut Cloud, seq: u64) -> anyhow::Result<BTreeMap<usize, Vec<u8>>> {
    let mut pieces = BTreeMap::new();
    let (start, mut last, mut of) = (Instant::now(), Instant::now(), None);
    while last.elapsed() < PATIENCE && start.elapsed() < AT_MOST {
        let Some((topic, payload)) = cloud.next(PATIENCE.saturating_sub(last.elapsed()))? else { continue };
        let Some(Topic::Record { request, part: number, parts: all, .. }) = Topic::parse(&topic) else { continue };
        if request != seq {
            continue;
        }
        // What is there says how many there are; whoever else publishes here does not make it more.
        if *of.get_or_insert(all) != all || all > MAX_PIECES || (all > 0 && number >= all) {
            continue;
        }
        last = Instant::now();
        if all == 0 {
            return Err(Failure {
                exit: Exit::Failed,
                message: "the gateway has recorded nothing of this route".into(),
                hint: Some("`record = { time = \"10min\" }` in the route's configuration does".into()),
            }
            .into());
        }
        pieces.insert(number, payload);
        eprint!("\r{} of {all} pieces", pieces.len());
        if pieces.len() == all {
            eprintln!();
            return Ok(pieces);
        }
    }
    Err(Failure {
        exit: Exit::Unreachable,
        message: format!("no answer within {} s; {} pieces came", PATIENCE.as_secs(), pieces.len()),
        hint: Some("is it connected, and does its root belong to these keys? `porin ls`".into()),
    }
    .into())
}

/// Rows as a replay reads them; messages as lines of JSON.
fn write(pieces: &BTreeMap<usize, Vec<u8>>, out: Option<&PathBuf>) -> anyhow::Result<()> {
    let mut text = String::new();
    let mut rows = 0_usize;
    for payload in pieces.values() {
        match payload::decode(payload) {
            Ok(decoded) => {
                if rows == 0 {
                    text.push_str("timestamp,channel,value\n");
                }
                for packet in decoded.packets {
                    rows += 1;
                    let (seconds, us) = (packet.time_us / 1_000_000, packet.time_us % 1_000_000);
                    text.push_str(&format!("{seconds}.{us:06},{},{}\n", fleet::plain(&packet.stream), packet.value));
                }
            }
            Err(_) => {
                let line =
                    std::str::from_utf8(payload).map_err(|_| anyhow!("a piece is neither readings nor messages"))?;
                rows += 1;
                text.push_str(&fleet::plain(line));
                text.push('\n');
            }
        }
    }
    match out {
        Some(path) => {
            let written = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("{rows} rows in {}", path.display());
        }
        None => crate::output::stdout().write_all(text.as_bytes())?,
    }
    Ok(())
}
