//! A status as a person reads it.

use std::fmt::Write as _;

use porin_core::{
    health::State,
    status::{
        DeadLetterStatus, InputStatus, OutboxStatus, PartStatus, RefusedStream, RouteStatus, SinkStatus, SlotStatus,
        Snapshot, SourceStatus, UpdateStatus, UplinkStatus,
    },
    time::Unix,
    words::Word,
};
use serde_json::Value;

/// Uplink, sources, routes, outbox, a line each.
#[must_use]
pub(crate) fn report(status: &Snapshot) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &Snapshot) -> std::fmt::Result {
    let Snapshot { gateway, version, epoch, uptime_s, .. } = status;
    let clock = if status.clock_trusted { "" } else { "; the clock has not been set" };
    writeln!(text, "gateway  {gateway}, porin {version}, up {uptime_s} s, epoch {epoch}{clock}")?;
    let UplinkStatus { publishes, bytes, connections, last_error, .. } = &status.uplink;
    let connected = if status.uplink.connected { "connected" } else { "NOT connected" };
    let error = also("last error: ", last_error);
    writeln!(text, "uplink   {connected}, {publishes} publishes, {bytes} bytes, {connections} connections{error}")?;
    if let Some(update) = &status.update {
        let UpdateStatus { state, cells_from, root_version, fleet, reason, refused } = update;
        let (state, why, refused) = (state.word(), also("", reason), also("last refused: ", refused));
        writeln!(text, "update   {state}, cells from {cells_from}, root {root_version} of {fleet}{why}{refused}")?;
    }
    status.sources.iter().try_for_each(|of| source(text, of))?;
    status.routes.iter().try_for_each(|of| route(text, of))?;
    for SinkStatus { name, ok, taken, done, lost, level, last_error, .. } in &status.sinks {
        let works = if *ok { "works" } else { "FAILS" };
        let level = level.map_or_else(String::new, |level| format!(" ({})", level.word()));
        let error = also("last error: ", last_error);
        writeln!(text, "sink     {name}: {works}{level}, {taken} taken, {done} done, {lost} lost{error}")?;
    }
    let OutboxStatus { waiting, waiting_bytes, acknowledged, evicted, expired, dead_lettered, resent, .. } =
        &status.outbox;
    let error = also("THE DISK FAILS: ", &status.outbox.disk_error);
    writeln!(
        text,
        "outbox   {waiting} waiting ({waiting_bytes} bytes), {acknowledged} acknowledged, {evicted} evicted, {expired} expired, \
         {dead_lettered} dead letters, {resent} sent again{error}"
    )?;
    let DeadLetterStatus { found, added, waiting, replayed, discarded, evicted, .. } = status.dead_letters;
    if found + added > 0 {
        writeln!(
            text,
            "dead     {waiting} waiting, {replayed} replayed, {discarded} discarded, {evicted} evicted: `porind dead` lists them"
        )?;
    }
    status.imbalance.iter().try_for_each(|wrong| writeln!(text, "DEFECT   {wrong}: please report it"))
}

fn source(text: &mut String, status: &SourceStatus) -> std::fmt::Result {
    let SourceStatus { name, received, unrouted, refused, bad_rows, restarts, last_error, .. } = status;
    let (ended, error) = (if status.ended { ", ended" } else { "" }, also("last error: ", last_error));
    writeln!(
        text,
        "source   {name}: {received} packets, {unrouted} unrouted, {refused} refused, {bad_rows} unreadable, {restarts} restarts{ended}{error}"
    )?;
    for InputStatus { name, empty, last_empty, .. } in status.inputs.iter().filter(|input| input.empty > 0) {
        let last = last_empty.as_deref().unwrap_or_default();
        writeln!(text, "  input  {name}: {empty} inputs gave no packet, the last: {last}")?;
    }
    for PartStatus { name, ok, polls, failures, missed, last_error } in &status.parts {
        let (answers, error) = (if *ok { "answers" } else { "DOES NOT ANSWER" }, also("last error: ", last_error));
        writeln!(text, "  part   {name}: {answers}, {polls} polls, {failures} failed, {missed} missed{error}")?;
    }
    Ok(())
}

fn route(text: &mut String, RouteStatus { name, received, forwarded, slots, .. }: &RouteStatus) -> std::fmt::Result {
    writeln!(text, "route    {name}: {received} in, {forwarded} out")?;
    for slot in slots {
        let SlotStatus { name, input, output, faults, from, digest, last_fault, .. } = slot;
        let state = match slot.state {
            State::Running => String::new(),
            other @ (State::BackOff | State::Quarantined) => other.word().to_uppercase() + " ",
        };
        let (memory, digest) = (slot.memory_bytes / 1_024, digest.get(..16).unwrap_or_default());
        let fault = also("last fault: ", last_fault);
        writeln!(
            text,
            "  slot   {name}: {state}{input} in, {output} out, {faults} faults, {memory} KB, {from} sha256:{digest}{fault}"
        )?;
        for RefusedStream { stream, reason } in &slot.refused_streams {
            writeln!(text, "    refuses stream {stream}: {reason}")?;
        }
    }
    Ok(())
}

/// Returns the text with words before it, or nothing if there is no text.
fn also(words: &str, of: &Option<String>) -> String {
    of.as_ref().map_or_else(String::new, |of| format!("; {words}{of}"))
}

/// An answer about dead letters as a person reads it.
#[must_use]
pub(crate) fn report_dead(answer: &Value) -> String {
    let mut text = String::new();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match answer["dead_letters"].as_array() {
        Some(letters) => {
            for letter in letters {
                let what = match letter.get("topic") {
                    None => letter["value"].to_string(),
                    Some(topic) => format!("{} bytes of {}", letter["bytes"], word(topic)),
                };
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "{:>6}  {}/{}  {} = {what} at {:.6}  {}  sha256:{}",
                    letter["id"].as_u64().unwrap_or(0),
                    word(&letter["route"]),
                    word(&letter["slot"]),
                    word(&letter["stream"]),
                    Unix(letter["time_us"].as_u64().unwrap_or_default()),
                    word(&letter["fault"]),
                    word(&letter["digest"]).get(..16).unwrap_or_default()
                );
            }
            let _ = writeln!(text, "{} dead letters", letters.len());
        }
        None => {
            for (name, value) in answer.as_object().into_iter().flatten() {
                let _ = writeln!(text, "{}: {value}", name.replace('_', " "));
            }
        }
    }
    text
}
