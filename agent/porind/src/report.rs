//! A status as a person reads it.

use std::fmt::Write as _;

use serde_json::Value;

/// Streams, routes, outbox and uplink, a line each.
#[must_use]
pub fn report(status: &Value) -> String {
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
        uplink["last_error"].as_str().map_or_else(String::new, |error| format!("; last trouble: {error}"))
    )?;
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
            source["last_error"].as_str().map_or_else(String::new, |error| format!("; last trouble: {error}"))
        )?;
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
                "  slot   {}: {} in, {} out, {} faults, {} KB, sha256:{}{}",
                word(&slot["name"]),
                number(&slot["input"]),
                number(&slot["output"]),
                number(&slot["faults"]),
                number(&slot["memory_bytes"]) / 1_024,
                word(&slot["digest"]).get(..16).unwrap_or_default(),
                slot["last_fault"].as_str().map_or_else(String::new, |fault| format!("; last fault: {fault}"))
            )?;
        }
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
    for wrong in list("imbalance") {
        writeln!(text, "DEFECT   {}: please report it", word(&wrong))?;
    }
    Ok(())
}
