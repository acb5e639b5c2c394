//! `porind doctor`: why a gateway is silent, in the order in which a packet would come to grief.
//!
//! Looks from outside at what the agent needs, and asks the agent, if it runs, what it has met.

use std::{
    borrow::Cow,
    fs,
    io::Write,
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    time::Duration,
};

use porin_core::{
    clock::{CertificateTime, ClockSync, NEVER_BEFORE},
    config::{Broker, Config},
    framing::MAX_FRAME,
    health::State,
    status::{InputStatus, JudgedBy, OutboxStatus, RefusedStream, SinkStatus, SlotStatus, Snapshot, SourceStatus},
    time::Unix,
};
use serde::{Deserialize, Serialize};

use crate::{machine, status, tls};

/// For a broker to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Certificates that end sooner are worth a word.
const SOON_S: u64 = 30 * 86_400;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Verdict {
    Ok,
    Warning,
    Wrong,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What was looked at: board, bus, clock, cells, disk, broker, certificate, agent, source, outbox.
    pub what: Cow<'static, str>,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if there is nothing to be done.
    pub hint: String,
}

#[derive(Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    pub(crate) fn ok(&mut self, what: &'static str, found: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Ok, what: what.into(), found: found.into(), hint: String::new() });
    }

    pub(crate) fn warning(&mut self, what: &'static str, found: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Warning, what: what.into(), found: found.into(), hint: hint.into() });
    }

    fn wrong(&mut self, what: &'static str, found: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Wrong, what: what.into(), found: found.into(), hint: hint.into() });
    }
}

/// Looks at everything.
#[must_use]
pub fn doctor(config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    clock(&mut findings);
    match crate::check(config) {
        Ok(slots) => findings.ok("cells", format!("{} slots, every cell starts", slots.len())),
        Err(error) => findings.wrong("cells", format!("{error:#}"), "`porind run` does not start with this"),
    }
    disk(&mut findings, &config.gateway.outbox.path);
    for (whose, its) in config.gateway.brokers() {
        broker(&mut findings, &whose, its);
    }
    agent(&mut findings, &config.gateway.socket);
    findings.0
}

/// What came and gave nothing. Says whether there was anything to be said.
fn inputs(findings: &mut Findings, SourceStatus { name: source, received, inputs, .. }: &SourceStatus) -> bool {
    let brings_nothing = *received == 0;
    let before = findings.0.len();
    let mut find = |found: String, hint: &str| match brings_nothing {
        true => findings.wrong("source", found, hint),
        false => findings.warning("source", found, hint),
    };
    for InputStatus { name, used, empty, last_empty, unended_bytes: unended, last_unended } in inputs {
        if *empty > 0 {
            let sample = last_empty.as_deref().unwrap_or_default();
            find(
                format!("`{source}`: {empty} inputs of `{name}` gave no packet, the last: {sample}"),
                "compare the input with the pointers or the pattern of the configuration",
            );
        }
        if *unended > 0 && (brings_nothing || *unended > MAX_FRAME as u64) {
            let sample = last_unended.as_ref().map_or_else(String::new, |sample| format!(", the last: {sample}"));
            find(
                format!("`{source}`: {unended} bytes of `{name}` without the end of a line or frame{sample}"),
                "is it the right `baud`? Lines end with a line feed; frames are described by `frame`",
            );
        }
        // Where nothing has come at all, that is said once for the source.
        if !used && inputs.iter().any(|other| other.used) {
            find(
                format!("`{source}`: no input from `{name}` yet"),
                "does a device publish there? Only the first filter that matches a topic reads it",
            );
        }
    }
    findings.0.len() > before
}

/// Streams that a cell does not take.
fn refused_streams(findings: &mut Findings, slot: &SlotStatus) {
    let SlotStatus { name, refused: packets, streams_refused: all, refused_streams: shown, .. } = slot;
    for RefusedStream { stream, reason } in shown {
        findings.wrong(
            "slot",
            format!("`{name}` refuses stream `{stream}`: {reason}"),
            "its parameters are in `params` of the slot or of [streams]; its packets get the `fault` policy of the slot",
        );
    }
    if !shown.is_empty() {
        findings.warning("slot", format!("`{name}`: {packets} packets of {all} streams that it refuses"), "");
    }
}

fn clock(findings: &mut Findings) {
    let says = machine::wall_clock();
    match (machine::wall_clock() >= NEVER_BEFORE, machine::clock_is_kept()) {
        (false, _) => findings.wrong(
            "clock",
            format!("{says}: it has not been set"),
            "is there a network, and systemd-timesyncd or chrony? Packets are marked time-uncertain meanwhile",
        ),
        (true, ClockSync::Synchronised) => findings.ok("clock", format!("{says}, kept right (NTP)")),
        (true, ClockSync::Free) => findings.warning(
            "clock",
            format!("{says}, and nothing keeps it right"),
            "fine with a clock chip; on a board without one set gateway.clock = \"synchronised\" and run NTP",
        ),
    }
}

fn disk(findings: &mut Findings, path: &str) {
    let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = folder.join(".porin-doctor");
    // Only a file of its own, never what somebody has put in its place: root may be asking.
    let _ = fs::remove_file(&probe);
    let written = fs::File::create_new(&probe).and_then(|mut file| file.write_all(&[0; 4_096]).and(file.sync_all()));
    match written {
        Ok(()) => {
            let size = fs::metadata(path).map_or(0, |file| file.len());
            findings
                .ok("disk", format!("{} can be written to; the store has {} MB", folder.display(), size / 1_000_000));
        }
        Err(error) => findings.wrong(
            "disk",
            format!("{}: {error}", folder.display()),
            "is the card full, read-only (worn out), or does it belong to another user?",
        ),
    }
    let _ = fs::remove_file(probe);
    let aside = fs::read_dir(folder).into_iter().flatten().flatten();
    let aside = aside.filter(|entry| entry.file_name().to_string_lossy().contains(".redb.corrupt-")).count();
    if aside > 0 {
        findings.warning(
            "disk",
            format!("{aside} corrupt stores were renamed in {}", folder.display()),
            "the card may be failing; their packets are not sent; delete them if you do not need them",
        );
    }
}

fn broker(findings: &mut Findings, whose: &str, broker: &Broker) {
    let place = format!("{}:{}", broker.host, broker.port);
    match tls::access(broker, CertificateTime::Clock(Unix(0))) {
        Ok(access) => {
            let now_s = machine::wall_clock().0 / 1_000_000;
            for certificate in access.certificates {
                let until = Unix(certificate.not_after_s.saturating_mul(1_000_000));
                let found = format!("{whose}: {} is valid until {until:.0}", certificate.file);
                match certificate.not_after_s.saturating_sub(now_s) {
                    0 => findings.wrong(
                        "certificate",
                        format!("{whose}: {} has expired: {until:.0}", certificate.file),
                        "renew it",
                    ),
                    1..SOON_S => findings.warning("certificate", found, "renew it soon"),
                    _ => findings.ok("certificate", found),
                }
            }
        }
        Err(error) => {
            findings.wrong("certificate", format!("{whose}: {error:#}"), "without it the agent cannot connect")
        }
    }
    let addresses = match (broker.host.as_str(), broker.port).to_socket_addrs() {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(error) => {
            findings.wrong("broker", format!("{whose}: `{}`: {error}", broker.host), "is there a network, and DNS?");
            return;
        }
    };
    let errors: Vec<_> =
        addresses.iter().map_while(|address| TcpStream::connect_timeout(address, CONNECT).err()).collect();
    if errors.len() < addresses.len() {
        findings.ok("broker", format!("{whose}: {place} accepts a connection"));
    } else {
        let error = errors.last().map_or_else(|| "no address".into(), ToString::to_string);
        findings.wrong(
            "broker",
            format!("{whose}: {place}: {error}"),
            "does it run there, and does a firewall allow it?",
        );
    }
}

/// What the agent says of itself.
fn agent(findings: &mut Findings, socket: &str) {
    match status::ask_doctor(socket) {
        Ok(found) => findings.0.extend(found),
        Err(error) => findings.wrong("agent", error.to_string(), "start it: `systemctl start porind`, or `porind run`"),
    }
}

/// What an agent finds about itself.
#[must_use]
pub(crate) fn about(status: &Snapshot) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.ok("agent", format!("runs for {} s, epoch {}", status.uptime_s, status.epoch));
    if !status.clock_trusted {
        findings.warning("clock", "the agent does not trust it", "its packets are marked time-uncertain");
    }
    if status.certificate_time == JudgedBy::Floor {
        findings.warning(
            "certificate",
            "nothing has set the clock since the machine's start: of a broker's certificate only the end is judged, by the time at which the \
             clock was last trusted",
            "once NTP or a person sets the clock, the agent reconnects and judges certificates by it",
        );
    }
    if status.uplink.connected {
        findings.ok("broker", format!("connected; {} publishes sent", status.uplink.publishes));
    } else {
        let why = status.uplink.last_error.as_deref().unwrap_or_default();
        findings.wrong("broker", format!("the agent is not connected: {why}"), "packets wait in the outbox meanwhile");
    }
    status.sources.iter().for_each(|of| source(&mut findings, of));
    status.sinks.iter().for_each(|of| sink(&mut findings, of));
    for slot in status.routes.iter().flat_map(|route| &route.slots) {
        if slot.state == State::Quarantined {
            findings.wrong(
                "slot",
                format!("`{}` is in quarantine: {}", slot.name, slot.last_fault.as_deref().unwrap_or_default()),
                "its cell faulted too often and is not called; another cell, or a restart, ends that",
            );
        }
        refused_streams(&mut findings, slot);
    }
    outbox(&mut findings, &status.outbox);
    findings.0
}

fn source(findings: &mut Findings, status: &SourceStatus) {
    let SourceStatus { name, received, bad_rows, last_error, last_bad_row, .. } = status;
    let heard = inputs(findings, status);
    match (received, last_error, bad_rows) {
        (0, None, 0) if heard => {}
        (0, Some(error), _) => findings.wrong("source", format!("`{name}` gives no packets: {error}"), ""),
        (0, None, 0) => {
            findings.warning("source", format!("`{name}` has given no packet yet"), "does a device send to it?")
        }
        (received, _, bad @ 1..) => findings.warning(
            "source",
            format!(
                "`{name}`: {received} packets, {bad} that could not be read, the last: {}",
                last_bad_row.as_deref().unwrap_or_default()
            ),
            "",
        ),
        (received, ..) => findings.ok("source", format!("`{name}`: {received} packets")),
    }
    if status.unrouted > 0 && status.routed == 0 {
        findings.wrong(
            "source",
            format!("packets of `{name}` match no route"),
            "compare `streams` of the routes with `porin tap '#'`",
        );
    }
}

fn sink(findings: &mut Findings, SinkStatus { name, ok, done, lost, last_error, .. }: &SinkStatus) {
    if !ok {
        let error = last_error.as_deref().unwrap_or_default();
        findings.wrong("sink", format!("`{name}` fails: {error}"), "");
    } else if *lost > 0 {
        let why = last_error.as_ref().map(|error| format!("; the last error: {error}")).unwrap_or_default();
        findings.warning("sink", format!("`{name}`: {done} packets, {lost} lost or overtaken{why}"), "");
    } else {
        findings.ok("sink", format!("`{name}`: {done} packets"));
    }
}

fn outbox(findings: &mut Findings, status: &OutboxStatus) {
    if let Some(error) = &status.disk_error {
        findings.wrong("disk", format!("commits fail: {error}"), "packets wait in memory, within a bound");
    }
    let lost = status.evicted + status.expired;
    if lost > 0 {
        findings.warning(
            "outbox",
            format!("{lost} packets were discarded"),
            "see `overflow`, `expire` and `max_bytes` in docs/routes.md",
        );
    }
    if status.dead_lettered > 0 {
        let reasons =
            status.dead_letters.iter().map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>();
        findings.wrong(
            "outbox",
            format!("the broker refused packets for good: {}", reasons.join(", ")),
            "may this gateway publish on its topics?",
        );
    }
    findings.ok("outbox", format!("{} packets wait", status.waiting));
}
