//! A status as a person reads it.

use std::fmt::Write as _;

use porin_core::time::Unix;
use serde_json::Value;

/// Streams, routes, outbox and uplink, a line each.
#[must_use]
pub(crate) fn report(status: &Value) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &Value) -> std::fmt::Result {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    writeln!(
        text,
        "gateway  {}, porin {}, up {} s, epoch {}{}",
        word(&status["gateway"]),
        word(&status["version"]),
        number(&status["uptime_s"]),
        word(&status["epoch"]),
        if status["clock_trusted"] == true { "" } else { "; the clock has not been set" }
    )?;
    let uplink = &status["uplink"];
    let connected = if uplink["connected"] == true { "connected" } else { "NOT connected" };
    writeln!(
        text,
        "uplink   {connected}, {} publishes, {} bytes, {} connections{}",
        number(&uplink["publishes"]),
        number(&uplink["bytes"]),
        number(&uplink["connections"]),
        uplink["last_error"].as_str().map_or_else(String::new, |error| format!("; last error: {error}"))
    )?;
    let update = &status["update"];
    if update.is_object() {
        let why =
            |key: &str, word: &str| update[key].as_str().map_or_else(String::new, |reason| format!("; {word}{reason}"));
        writeln!(
            text,
            "update   {}, cells from {}, root {} of {}{}{}",
            word(&update["state"]),
            word(&update["cells_from"]),
            number(&update["root_version"]),
            word(&update["fleet"]),
            why("reason", ""),
            why("refused", "last refused: ")
        )?;
    }
    for source in list("sources") {
        writeln!(
            text,
            "source   {}: {} packets, {} unrouted, {} refused, {} unreadable, {} restarts{}{}",
            word(&source["name"]),
            number(&source["received"]),
            number(&source["unrouted"]),
            number(&source["refused"]),
            number(&source["bad_rows"]),
            number(&source["restarts"]),
            if source["ended"] == true { ", ended" } else { "" },
            source["last_error"].as_str().map_or_else(String::new, |error| format!("; last error: {error}"))
        )?;
        let inputs = source["inputs"].as_array().into_iter().flatten();
        for input in inputs.filter(|input| number(&input["empty"]) > 0) {
            writeln!(
                text,
                "  input  {}: {} inputs gave no packet, the last: {}",
                word(&input["name"]),
                number(&input["empty"]),
                word(&input["last_empty"])
            )?;
        }
        for part in source["parts"].as_array().into_iter().flatten() {
            writeln!(
                text,
                "  part   {}: {}, {} polls, {} failed, {} missed{}",
                word(&part["name"]),
                if part["ok"] == true { "answers" } else { "DOES NOT ANSWER" },
                number(&part["polls"]),
                number(&part["failures"]),
                number(&part["missed"]),
                part["last_error"].as_str().map_or_else(String::new, |error| format!("; last error: {error}"))
            )?;
        }
    }
    for route in list("routes") {
        writeln!(
            text,
            "route    {}: {} in, {} out",
            word(&route["name"]),
            number(&route["received"]),
            number(&route["forwarded"])
        )?;
        for slot in route["slots"].as_array().into_iter().flatten() {
            writeln!(
                text,
                "  slot   {}: {}{} in, {} out, {} faults, {} KB, {} sha256:{}{}",
                word(&slot["name"]),
                match slot["state"].as_str() {
                    Some("running") | None => String::new(),
                    Some(other) => format!("{} ", other.to_uppercase()),
                },
                number(&slot["input"]),
                number(&slot["output"]),
                number(&slot["faults"]),
                number(&slot["memory_bytes"]) / 1_024,
                word(&slot["from"]),
                word(&slot["digest"]).get(..16).unwrap_or_default(),
                slot["last_fault"].as_str().map_or_else(String::new, |fault| format!("; last fault: {fault}"))
            )?;
            for refused in slot["refused_streams"].as_array().into_iter().flatten() {
                let (stream, reason) = (word(&refused["stream"]), word(&refused["reason"]));
                writeln!(text, "    refuses stream {stream}: {reason}")?;
            }
        }
    }
    for sink in list("sinks") {
        writeln!(
            text,
            "sink     {}: {}{}, {} taken, {} done, {} lost{}",
            word(&sink["name"]),
            if sink["ok"] == true { "works" } else { "FAILS" },
            sink["level"].as_str().map_or_else(String::new, |level| format!(" ({level})")),
            number(&sink["taken"]),
            number(&sink["done"]),
            number(&sink["lost"]),
            sink["last_error"].as_str().map_or_else(String::new, |error| format!("; last error: {error}"))
        )?;
    }
    let outbox = &status["outbox"];
    writeln!(
        text,
        "outbox   {} waiting ({} bytes), {} acknowledged, {} evicted, {} expired, {} dead letters, {} sent again{}",
        number(&outbox["waiting"]),
        number(&outbox["waiting_bytes"]),
        number(&outbox["acknowledged"]),
        number(&outbox["evicted"]),
        number(&outbox["expired"]),
        number(&outbox["dead_lettered"]),
        number(&outbox["resent"]),
        outbox["disk_error"].as_str().map_or_else(String::new, |error| format!("; THE DISK FAILS: {error}"))
    )?;
    let dead = &status["dead_letters"];
    if number(&dead["found"]) + number(&dead["added"]) > 0 {
        writeln!(
            text,
            "dead     {} waiting, {} replayed, {} discarded, {} evicted: `porind dead` lists them",
            number(&dead["waiting"]),
            number(&dead["replayed"]),
            number(&dead["discarded"]),
            number(&dead["evicted"])
        )?;
    }
    for wrong in list("imbalance") {
        writeln!(text, "DEFECT   {}: please report it", word(&wrong))?;
    }
    Ok(())
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
