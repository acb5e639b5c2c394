//! Bad cells in the real agent: what becomes of their packets, their logs and their neighbours, and who may allow what.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Output,
    time::{Duration, Instant},
};

use porin_e2e::{
    Broker, Gateway, Process, ServiceManager, Signal, Subscriber, porind, program, publish_lines, wait_until,
};
use porin_test_support::{LOG_IMPORT, PASS, WatCell, skip, target_dir};
use serde_json::Value;

const KEEPS: &str = "max_inflight_messages 500\nmax_queued_messages 0";

/// Passes everything on but traps on a value of 13.
fn superstitious() -> Vec<u8> {
    let each = format!(
        "(block $done (loop $next
           (br_if $done (i32.ge_u (local.get $i) (local.get $arg1)))
           (if (f64.eq (f64.load offset=8 (i32.add (local.get $arg0) (i32.mul (local.get $i) (i32.const 24)))) (f64.const 13))
             (then unreachable))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br $next))) {PASS}"
    );
    WatCell { process: &each, ..WatCell::default() }.build()
}

/// Numbers from a local broker through the cell `HERE/cell.wasm`, and past it; `keys`: of the slot.
fn rest(local: u16, keys: &str) -> String {
    format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{local}\"\nwindow = 500\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n[slots.odd]\ncell = \"HERE/cell.wasm\"\n{keys}\n\
         [routes.through]\nstreams = [\"#\"]\nslots = [\"odd\"]\n[routes.past]\nstreams = [\"#\"]\n"
    )
}

fn gateway(cloud: u16, local: u16, keys: &str, cell: &[u8]) -> Gateway {
    let gateway = Gateway::new("lab", cloud, &rest(local, keys));
    fs::write(gateway.path("cell.wasm"), cell).expect("written");
    gateway
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("{number}\n")).collect()
}

/// The values that came, sorted, each once.
fn values(subscriber: &Subscriber) -> Vec<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // whole numbers
    let mut values: Vec<_> = subscriber.packets().into_values().map(|(.., value)| value as u64).collect();
    values.sort_unstable();
    values.dedup();
    values
}

fn run(gateway: &Gateway) -> Process {
    let before = gateway.log().matches("listening to the local broker").count();
    let agent = gateway.run(&[]);
    wait_until("it listens", || gateway.log().matches("listening to the local broker").count() > before);
    agent
}

fn dead(gateway: &Gateway, words: &[&str]) -> Output {
    porind(&gateway.config()).arg("dead").args(words).output().expect("it runs")
}

fn dead_json(gateway: &Gateway, words: &[&str]) -> Value {
    let output = dead(gateway, &[words, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn slot(gateway: &Gateway) -> Value {
    let status = gateway.status().expect("it runs");
    let routes = status["routes"].as_array().expect("routes");
    routes.iter().find(|route| route["name"] == "through").expect("it is there")["slots"][0].clone()
}

#[test]
fn a_dead_letter_survives_a_kill_and_goes_on_once_the_cell_is_mended() {
    let (local, cloud) = (Broker::mosquitto_with(KEEPS), Broker::mosquitto());
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/through");
    let gateway = gateway(cloud.port, local.port, "", &superstitious());
    let mut agent = run(&gateway);
    publish_lines(local.port, "n/x", &lines(0..20));
    let but_13: Vec<_> = (0..20).filter(|number| *number != 13).collect();
    wait_until("the others are there", || values(&subscriber) == but_13);
    let slot_then = slot(&gateway);
    assert_eq!((slot_then["faulted"].as_u64(), slot_then["dead_lettered"].as_u64()), (Some(1), Some(1)));

    // What is durable of the batch is durable with the letter; what is not comes again from the local broker, and dies again.
    agent.kill();
    let agent = run(&gateway);
    let listed = || dead_json(&gateway, &[])["dead_letters"].as_array().map_or(0, Vec::len);
    wait_until("it is there", || listed() > 0);
    let letters = dead_json(&gateway, &[]);
    let [letter] = letters["dead_letters"].as_array().expect("a list").as_slice() else { unreachable!("{letters}") };
    assert_eq!((&letter["route"], &letter["slot"], &letter["stream"]), (&"through".into(), &"odd".into(), &"x".into()));
    assert_eq!((letter["value"].as_f64(), &letter["digest"]), (Some(13.0), &slot_then["digest"]));
    assert!(letter["fault"].as_str().is_some_and(|fault| fault.contains("trap")), "{letter}");
    let text = String::from_utf8(dead(&gateway, &["list"]).stdout).expect("text");
    assert!(text.contains("through/odd") && text.ends_with("1 dead letters\n"), "{text}");

    // The same cell faults again, and nothing is lost by trying.
    let answer = dead_json(&gateway, &["replay", "--all"]);
    assert_eq!((answer["replayed"].as_u64(), answer["faulted_again"].as_u64()), (Some(1), Some(1)));
    let unknown = dead_json(&gateway, &["replay", "12345"]);
    assert_eq!((unknown["replayed"].as_u64(), unknown["unknown"].as_u64()), (Some(0), Some(1)));

    // The mended one takes it.
    fs::write(gateway.path("cell.wasm"), WatCell::default().build()).expect("written");
    agent.signal(Signal::HUP);
    wait_until("it has taken over", || gateway.log().contains("the new configuration is in force"));
    let id = dead_json(&gateway, &[])["dead_letters"][0]["id"].to_string();
    assert_eq!(dead_json(&gateway, &["replay", &id])["faulted_again"].as_u64(), Some(0));
    wait_until("it is there, too", || values(&subscriber) == (0..20).collect::<Vec<_>>());
    let status = gateway.status().expect("it runs");
    assert_eq!(status["dead_letters"]["waiting"].as_u64(), Some(0));
    assert_eq!(dead_json(&gateway, &[])["dead_letters"], Value::Array(vec![]));
}

#[test]
fn the_dead_command_says_what_is_wrong_with_a_question() {
    let (local, cloud) = (Broker::mosquitto_with(KEEPS), Broker::mosquitto());
    let gateway = gateway(cloud.port, local.port, "", &superstitious());
    for (words, expected) in [
        (&["replay"][..], "either numbers or --all"),
        (&["replay", "x"], "`x` is not a number"),
        (&["replay", "--all", "3"], "either numbers or --all"),
        (&["forget"], "there is no `forget`"),
    ] {
        let output = dead(&gateway, words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(expected), "{words:?}: {error}");
    }
    assert_eq!(dead(&gateway, &[]).status.code(), Some(4), "no agent answers");
    let _agent = run(&gateway);
    publish_lines(local.port, "n/x", "13\n");
    wait_until("it is dead", || slot(&gateway)["dead_lettered"].as_u64() == Some(1));
    let answer = dead_json(&gateway, &["discard", "--all"]);
    assert_eq!(answer["discarded"].as_u64(), Some(1));
    assert_eq!(gateway.status().expect("it runs")["dead_letters"]["discarded"].as_u64(), Some(1));
}

#[test]
fn what_a_slot_is_granted_is_bounded_by_a_policy_that_only_root_can_have_written() {
    let cell = WatCell { imports: LOG_IMPORT, process: &format!("(drop (i32.const 0)) {PASS}"), ..WatCell::default() };
    let check = |keys: &str, policy: Option<(&str, u32)>| {
        let gateway = gateway(1, 1, keys, &cell.build());
        let mut command = porind(&gateway.config());
        command.arg("check");
        if let Some((text, mode)) = policy {
            let path = gateway.path("policy.toml");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            command.arg("--policy").arg(path);
        }
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // Who asks, for what, and which line would grant it.
    let (code, error) = check("", None);
    assert_eq!(code, Some(78), "{error}");
    for words in ["slot `odd`", "cell.wasm", "porin:cell/log@0.1.0", "add grants = [\"log\"] to [slots.odd]"] {
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
    assert_eq!(check("grants = [\"log\"]", None).0, Some(0));
    let (code, error) = check("grants = [\"log\"]", Some(("grants = [\"log\"]", 0o666)));
    assert!(code == Some(78) && error.contains("mode 0666") && error.contains("chmod go-w"), "{error}");
    let (code, error) = check("grants = [\"log\"]", Some(("grants = [\"log\"]", 0o644)));
    if error.contains("must belong to root") {
        return skip("what_a_slot_is_granted_is_bounded_by_a_policy_that_only_root_can_have_written", "not root");
    }
    assert_eq!(code, Some(0), "{error}");
    let (code, error) = check("grants = [\"log\"]", Some(("grants = [\"clock\"]", 0o644)));
    assert!(code == Some(78) && error.contains("slot `odd` grants `log`, which the policy does not allow"), "{error}");
    let limits = "grants = [\"log\"]\nlimits = { fuel_per_batch = 5000000 }";
    let (code, error) = check(limits, Some(("[limits]\nfuel_per_batch = 2000000\n", 0o644)));
    assert!(code == Some(78) && error.contains("fuel_per_batch = 5000000, the policy allows 2000000"), "{error}");
}

#[test]
fn the_same_cell_logs_to_the_journal_a_file_or_a_topic_without_terminal_escapes() {
    let line = "(i64.store (i32.const 64) (i64.const 0x6d31335b1b0a0d07))
        (call $log (i32.const 3) (i32.const 64) (i32.const 8) (i32.const 64) (i32.const 12))";
    let cell = WatCell { imports: LOG_IMPORT, process: &format!("{line} {PASS}"), ..WatCell::default() }.build();
    let (local, cloud) = (Broker::mosquitto_with(KEEPS), Broker::mosquitto());
    let logged = Subscriber::start(cloud.port, "porin/v1/gw/lab/log/odd");
    let grants = "grants = [\"log\"]\n";
    let check = |keys: &str, text: &dyn Fn(&Gateway) -> String| {
        let gateway = gateway(cloud.port, local.port, &format!("{grants}{keys}"), &cell);
        let mut agent = run(&gateway);
        publish_lines(local.port, "n/x", "1\n");
        wait_until("it is logged", || text(&gateway).contains("[31mtext"));
        assert!(!text(&gateway).contains('\u{1b}'), "{:?}", text(&gateway));
        agent.terminate();
        assert!(agent.wait().success());
        text(&gateway)
    };
    let journal = check("", &Gateway::log);
    assert!(journal.contains("WARN") && journal.contains("slot=\"odd\""), "{journal}");
    let file = check("log.file = { path = \"HERE/logs/odd.log\" }", &|gateway| {
        fs::read_to_string(gateway.path("logs/odd.log")).unwrap_or_default()
    });
    let line: Value = serde_json::from_str(file.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&line["slot"], &line["level"]), (&"odd".into(), &"warn".into()));
    let published = check("log.mqtt = {}", &|_| {
        let payloads = logged.publishes().into_iter().map(|received| received.payload);
        payloads.map(|payload| String::from_utf8(payload).expect("text")).collect()
    });
    let line: Value = serde_json::from_str(published.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&line["slot"], &line["level"]), (&"odd".into(), &"warn".into()));
}

#[test]
fn a_cell_that_loops_delays_neither_its_neighbour_nor_the_watchdog() {
    let forever = format!("(loop $l br $l) {PASS}");
    let cell = WatCell { process: &forever, ..WatCell::default() }.build();
    let cloud = Broker::mosquitto();
    let subscriber = Subscriber::start(cloud.port, "porin/v1/gw/lab/data/#");
    // Never into quarantine: each call costs all its fuel, batch after batch. And a rule that most would take: quarantine.
    for (keys, state) in
        [("quarantine = { faults = 0 }\nfault = \"drop\"", "running"), ("fault = \"pass\"", "quarantined")]
    {
        // For each its own: it may give the last packets again to the agent that comes next.
        let local = Broker::mosquitto_with(KEEPS);
        let gateway = gateway(cloud.port, local.port, keys, &cell);
        let before = subscriber.packets().len();
        let manager = ServiceManager::of(&gateway);
        let _agent = gateway.run_with(&[], &[("NOTIFY_SOCKET", &manager.place()), ("WATCHDOG_USEC", "2000000")]);
        wait_until("it listens", || gateway.log().contains("listening to the local broker"));
        publish_lines(local.port, "n/x", &lines(0..500));
        // The route past the bad cell has all of them, and the one with it as many as its policy says.
        let wanted = if state == "running" { 500 } else { 1_000 };
        let (mut fed, start) = (0, Instant::now());
        while subscriber.packets().len() < before + wanted {
            assert!(start.elapsed() < porin_e2e::PATIENCE, "{} packets came", subscriber.packets().len() - before);
            // Within the watchdog's time, five seconds at the most on a machine that is busy with other tests.
            let word = manager.hear(Duration::from_secs(5)).expect("the loop feeds the watchdog while the cell loops");
            fed += usize::from(word.contains("WATCHDOG=1"));
        }
        let slot = slot(&gateway);
        assert_eq!((slot["state"].as_str(), slot["faulted"].as_u64()), (Some(state), Some(500)), "{slot}");
        assert!(fed > 0 || start.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn the_example_that_porin_began_with_runs_on_wasmi_and_on_wasmtime() {
    let component = target_dir().join("cells/cloud-demo.wasm");
    let call = |args: &[&str]| {
        let mut command = std::process::Command::new(program("porin"));
        let output = command.args(["cell", "call"]).arg(&component).args(args).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let here = call(&["handle-request", "hello edge"]);
    let there = call(&["handle-request", "hello edge", "--engine", "wasmtime"]);
    assert_eq!(here, (Some(0), "Processed: HELLO EDGE\n".into(), "Processing input: hello edge\n".into()));
    assert_eq!(there, here);
    let json = call(&["handle-request", "x", "--json"]).1;
    assert_eq!(json, "{\"answer\":\"Processed: X\",\"log\":[\"Processing input: x\"]}\n");
    assert_eq!(call(&["handle", "x"]).0, Some(2));
}
