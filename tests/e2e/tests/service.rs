//! As a service: reloaded while packets flow, watched, stopped, asked what is wrong; and the unit that makes it one.

#![allow(clippy::panic)] // what is missing is said

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use porin_e2e::{
    Broker, Gateway, Process, ServiceManager, Signal, Subscriber, free_port, porind, program, publish, publish_lines,
    wait_until,
};
use porin_test_support::top;
use serde_json::Value;

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("{number}\n")).collect()
}

/// Numbers on `n/<stream>`, whole, and through a deadband.
fn rest(local: u16) -> String {
    format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{local}\"\nwindow = 500\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n[routes.all]\nstreams = [\"#\"]\nencoding = \"compact\"\n\
         [slots.quiet]\ncell = \"CELLS/deadband.wasm\"\nparams = {{ absolute = 1.5 }}\n[routes.quiet]\nstreams = [\"level\"]\nslots = [\"quiet\"]\n"
    )
}

const KEEPS: &str = "max_inflight_messages 500\nmax_queued_messages 0";

fn reload(gateway: &Gateway, agent: &Process, times: usize) {
    agent.signal(Signal::HUP);
    let reloads = || {
        let log = gateway.log();
        log.matches("the new configuration is in force").count()
            + log.matches("the new configuration is refused").count()
    };
    wait_until("it has answered", || reloads() == times);
}

/// Values of a route, each once, by the packets' names.
fn values(subscriber: &Subscriber, stream: &str) -> Vec<f64> {
    subscriber.packets().into_values().filter(|(of, ..)| of == stream).map(|(.., value)| value).collect()
}

#[test]
fn a_new_configuration_takes_over_between_two_batches_without_losing_a_packet_or_what_cells_have_learnt() {
    let (local, cloud) = (Broker::mosquitto_with(KEEPS), Broker::mosquitto_with("max_queued_messages 0"));
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let mut gateway = Gateway::new("lab", cloud.port, &rest(local.port));
    let agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().contains("listening to the local broker"));
    publish(local.port, "n/level", b"5");
    // Twice: whole, and from the cell.
    wait_until("the level is there", || values(&subscriber, "level").len() == 2);
    let port = local.port;
    let publisher = thread::spawn(move || publish_lines(port, "n/x", &lines(0..60_000)));
    for round in 0..5 {
        wait_until("some have come", || values(&subscriber, "x").len() > round * 8_000);
        let (old, new) = if round % 2 == 0 { ("\"compact\"", "\"json\"") } else { ("\"json\"", "\"compact\"") };
        gateway = gateway.edit(old, new);
        reload(&gateway, &agent, round + 1);
    }
    publisher.join().expect("it publishes");
    wait_until("everything is there", || values(&subscriber, "x").len() >= 60_000);
    let came = values(&subscriber, "x");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let distinct: BTreeSet<u64> = came.iter().map(|value| *value as u64).collect();
    assert_eq!((came.len(), distinct.len()), (60_000, 60_000), "each exactly once");
    // The cell remembers the level from before.
    publish(local.port, "n/level", b"6");
    publish(local.port, "n/level", b"7");
    wait_until("the levels are there", || values(&subscriber, "level").len() == 5);
    assert_eq!(values(&subscriber, "level"), [5.0, 5.0, 6.0, 7.0, 7.0]);
    assert_eq!(gateway.log().matches("in force").count(), 5, "{}", gateway.log());
    assert_eq!(gateway.log().matches("connected to the local broker").count(), 1, "the source did not notice");
    let status = gateway.status().expect("it runs");
    assert_eq!(status["imbalance"], Value::Array(vec![]));
    assert!(status["outbox"]["earlier"].as_u64() > Some(0), "{status}");
}

#[test]
fn a_configuration_that_is_wrong_or_needs_a_restart_is_refused_and_the_old_one_runs_on() {
    let (local, cloud) = (Broker::mosquitto_with(KEEPS), Broker::mosquitto());
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let gateway = Gateway::new("lab", cloud.port, &rest(local.port));
    let good = fs::read_to_string(gateway.config()).expect("it is there");
    let agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().contains("listening to the local broker"));
    let wrong = [
        ("absolute = 1.5", "absolut = 1.5", "absolut"),
        ("slots = [\"quiet\"]", "slots = [\"quite\"]", "did you mean `quiet`?"),
        ("deadband.wasm", "nothing.wasm", "nothing.wasm"),
        ("id = \"lab\"", "id = \"other\"", "`gateway.id` takes effect with a restart only"),
    ];
    for (times, (old, new, expected)) in wrong.into_iter().enumerate() {
        assert!(good.contains(old));
        fs::write(gateway.config(), good.replacen(old, new, 1)).expect("written");
        reload(&gateway, &agent, times + 1);
        let log = gateway.log();
        let last = log.lines().rfind(|line| line.contains("refused")).expect("it says so");
        assert!(last.contains(expected), "{last}");
        publish(local.port, "n/x", times.to_string().as_bytes());
        wait_until("the packet is there", || values(&subscriber, "x").len() == times + 1);
    }
}

#[test]
fn another_broker_and_other_sources_take_effect_without_a_restart() {
    let (local, other) = (Broker::mosquitto_with(KEEPS), Broker::mosquitto_with(KEEPS));
    let cloud = Broker::mosquitto();
    let nobody = free_port();
    let gateway = Gateway::new("lab", nobody, &rest(local.port));
    let agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().contains("listening to the local broker"));
    publish_lines(local.port, "n/x", &lines(0..100));
    let waiting = || gateway.status().and_then(|status| status["outbox"]["waiting"].as_u64());
    wait_until("they wait", || waiting() == Some(100));
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    let text = fs::read_to_string(gateway.config()).expect("it is there");
    let text = text
        .replace(&nobody.to_string(), &cloud.port.to_string())
        .replace(&local.port.to_string(), &other.port.to_string());
    fs::write(gateway.config(), text).expect("written");
    reload(&gateway, &agent, 1);
    wait_until("what waited is at the new broker", || values(&subscriber, "x").len() == 100);
    wait_until("it listens to the other one", || gateway.log().matches("listening to the local broker").count() == 2);
    publish_lines(other.port, "n/x", &lines(100..200));
    wait_until("what comes from there is, too", || values(&subscriber, "x").len() == 200);
    assert_eq!(gateway.status().expect("it runs")["imbalance"], Value::Array(vec![]));
}

#[test]
fn the_service_manager_hears_of_the_loop_and_of_nobody_in_its_place() {
    let gateway = Gateway::new("lab", free_port(), "");
    let manager = ServiceManager::of(&gateway);
    let (mut heard, begun) = (Vec::new(), Instant::now());
    let mut listen = |so: &dyn Fn(&[String]) -> bool| {
        let start = Instant::now();
        while !so(&heard) && start.elapsed() < porin_e2e::PATIENCE {
            heard.extend(manager.hear(Duration::from_millis(100)));
        }
        assert!(so(&heard), "{heard:?}");
        heard.len()
    };
    let mut agent = gateway.run_with(&[], &[("NOTIFY_SOCKET", &manager.place()), ("WATCHDOG_USEC", "400000")]);
    let fed = |heard: &[String]| heard.iter().filter(|word| word.contains("WATCHDOG=1")).count();
    listen(&|heard| heard.iter().any(|word| word.contains("READY=1")));
    // Nothing happens, and it goes on all the same.
    let before = listen(&|heard| fed(heard) > 10);
    // The loop, and nobody in its place: it reads a new configuration, and one of its cells is a pipe into which nobody writes.
    let pipe = gateway.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    let text = fs::read_to_string(gateway.config()).expect("it is there");
    let slot = format!("[slots.s]\ncell = \"{}\"\n[routes.r]\nstreams = [\"#\"]\nslots = [\"s\"]\n", pipe.display());
    fs::write(gateway.config(), text + &slot).expect("written");
    agent.signal(Signal::HUP);
    // It may take a second to notice, and then speaks no more.
    thread::sleep(Duration::from_millis(1_500));
    while manager.hear(Duration::from_millis(600)).is_some() {
        assert!(Instant::now().duration_since(begun) < porin_e2e::PATIENCE, "it goes on speaking");
    }
    drop(fs::OpenOptions::new().write(true).open(&pipe).expect("it waits for us"));
    listen(&|heard| heard.len() > before && fed(&heard[before..]) > 2);
    assert!(gateway.log().contains("the new configuration is refused"), "{}", gateway.log());
    agent.terminate();
    listen(&|heard| heard.iter().any(|word| word.contains("STOPPING=1")));
    assert!(agent.wait().success());
}

#[test]
fn a_stop_without_a_broker_ends_soon_and_keeps_what_waits() {
    let local = Broker::mosquitto_with(KEEPS);
    let gateway = Gateway::new("lab", free_port(), &rest(local.port)).commit_every("1h");
    let mut agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().contains("listening to the local broker"));
    // Less than half a window: nothing but the stop commits it.
    publish_lines(local.port, "n/x", &lines(0..100));
    let waiting = || gateway.status().and_then(|status| status["outbox"]["waiting"].as_u64());
    wait_until("they wait", || waiting() == Some(100));
    agent.terminate();
    assert!(agent.wait().success());
    let _agent = gateway.run(&[]);
    wait_until("it runs", || gateway.status().is_some());
    assert_eq!(gateway.status().and_then(|status| status["outbox"]["found"].as_u64()), Some(100));
}

#[test]
fn the_doctor_finds_why_a_gateway_is_silent() {
    let gateway = Gateway::new("lab", free_port(), &rest(free_port()));
    let findings = || -> Vec<(String, String, String)> {
        let output = porind(&gateway.config()).args(["doctor", "--json"]).output().expect("it runs");
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let wrong = findings.iter().any(|finding| finding["verdict"] == "wrong");
        assert_eq!(output.status.code(), Some(i32::from(wrong)));
        let text = |finding: &Value, field: &str| finding[field].as_str().expect("text").to_owned();
        findings
            .iter()
            .map(|finding| (text(finding, "verdict"), text(finding, "what"), text(finding, "found")))
            .collect()
    };
    let has = |findings: &[(String, String, String)], verdict: &str, what: &str, words: &str| {
        let found = findings.iter().any(|(v, w, found)| v == verdict && w == what && found.contains(words));
        assert!(found, "no {verdict} {what} with {words:?} in {findings:#?}");
    };
    let dead = findings();
    has(&dead, "ok", "cells", "every cell starts");
    has(&dead, "ok", "disk", "can be written to");
    has(&dead, "wrong", "broker", "the uplink: 127.0.0.1:");
    has(&dead, "wrong", "agent", "no agent answers");
    let _agent = gateway.run(&[]);
    wait_until("it has tried", || {
        gateway.status().is_some_and(|status| {
            status["sources"][0]["last_error"].is_string() && status["uplink"]["last_error"].is_string()
        })
    });
    let alive = findings();
    has(&alive, "wrong", "source", "`local` gives no packets");
    has(&alive, "wrong", "broker", "the agent is not connected");
    let output = porind(&gateway.config()).arg("status").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("uplink   NOT connected") && text.contains("outbox   0 waiting"), "{text}");
}

#[test]
fn the_unit_is_sound_and_gives_the_agent_no_more_than_it_needs() {
    let unit = fs::read_to_string(top().join("cross/deb/porind.service")).expect("it is there");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("porind.service");
    // Where this machine has the program.
    let here = program("porind").canonicalize().expect("it was built").display().to_string();
    fs::write(&file, unit.replace("/usr/bin/porind", &here)).expect("written");
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&file).output();
        let output = output.expect("systemd-analyze; `make test` installs it");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (sound, stdout, stderr) = analyze(&["verify", "--man=no"]);
    assert!(sound && !stderr.contains("porind.service:"), "{stdout}{stderr}");
    let (_, stdout, stderr) = analyze(&["security", "--offline=true", "--no-pager"]);
    let overall =
        stdout.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{stderr}"));
    let level: f64 = overall
        .split(": ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{overall}"));
    assert!(level <= 1.8, "{overall}");
    // What it does need, whatever the score.
    // Devices are allowed by the names that the kernel has for their drivers: spidev registers itself as `spi`.
    for line in [
        "Type=notify",
        "WatchdogSec=",
        "SystemCallFilter=adjtimex",
        "DeviceAllow=char-i2c rw",
        "DeviceAllow=char-spi rw",
        "DeviceAllow=char-ttyS rw",
        "StateDirectory=porin",
    ] {
        assert!(unit.contains(line), "{line}");
    }
}

/// Under the most generous mask: the store holds the gateway's private key, logs and sinks hold what sensors say.
#[test]
fn every_file_of_the_agent_is_its_users_alone_and_an_open_store_is_closed() {
    use std::os::unix::fs::PermissionsExt;
    let rest = "[sources.sim.simulator]\nstreams = \"s/{n}\"\nevery = \"5ms\"\n[sinks.history.file]\npath = \"HERE/made/history.jsonl\"\n\
        [slots.quiet]\ncell = \"CELLS/deadband.wasm\"\nparams = { absolute = 0.0 }\nlog = { file = { path = \"HERE/made/quiet.log\" } }\n[routes.all]\nstreams = [\"#\"]\n\
        slots = [\"quiet\"]\nsinks = [\"history\", \"uplink\"]\n";
    let gateway = Gateway::new("lab", 1, rest);
    let given: BTreeSet<_> = ["porin.toml", "log"].map(|name| gateway.path(name)).into();
    let files = || {
        let folders = [gateway.path(""), gateway.path("made")];
        let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let found = entries.map(|entry| (entry.path(), entry.metadata().expect("there").permissions().mode() & 0o777));
        found.filter(|(path, _)| !given.contains(path)).collect::<Vec<_>>()
    };
    let start = || {
        let command =
            format!("umask 000; exec {} --config {} run", program("porind").display(), gateway.config().display());
        let log = fs::File::create(gateway.path("log")).expect("a log");
        Process::spawn(Command::new("sh").args(["-c", &command]).stderr(log).stdout(std::process::Stdio::null()))
    };
    let mut agent = start();
    wait_until("it writes", || files().len() >= 5 && gateway.status().is_some());
    for (path, mode) in files() {
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:04o}", path.display());
    }
    agent.terminate();
    agent.wait();
    // As earlier versions left it.
    fs::set_permissions(gateway.path("porin.redb"), fs::Permissions::from_mode(0o644)).expect("ours");
    let _agent = start();
    wait_until("it runs again", || gateway.status().is_some());
    let mode = fs::metadata(gateway.path("porin.redb")).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    wait_until("the log has a warning", || gateway.log().contains("others could read the store"));
}
