//! Cells come over MQTT to a gateway that runs, prove themselves, and take over; bad ones do not, and no packet is lost meanwhile.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use porin_core::{
    payload,
    reason::Code,
    trust::{Health, Release},
};
use porin_e2e::{Accounts, Broker, Gateway, Process, Subscriber, porind, wait_until};
use porin_test_support::{
    EMPTY, LOG_IMPORT, PASS, WatCell,
    authority::{self, PUBLISHER, Published, STRANGER, first_root, order, publish_by, published, release_of},
    marking_cell,
};
use serde_json::Value;

const SIMULATOR: &str = "[sources.sim.simulator]\nstreams = \"s/{n}\"\ncount = 4\nevery = \"2ms\"\n";

/// A gateway with its own passing cell in the slot `mark`, which takes updates.
fn gateway(broker: &Broker, rest: &str) -> Gateway {
    let rest = format!(
        "[updates]\nroot = \"HERE/root-1\"\n{rest}[slots.mark]\ncell = \"HERE/own.wasm\"\n[routes.all]\nstreams = [\"#\"]\n\
         slots = [\"mark\"]\nencoding = \"compact\"\nbatch = {{ packets = 500 }}\n"
    );
    let gateway = Gateway::new("gw1", broker.port, &rest);
    fs::write(gateway.path("root-1"), first_root()).expect("written");
    fs::write(gateway.path("own.wasm"), marking_cell(0)).expect("written");
    gateway
}

/// What is to run: a release in the slot `mark`.
fn set(published: &Published, slot: &str, proof: &str) -> String {
    format!(
        "[probation]\n{proof}\n[slots.mark]\ncell = \"release:{}\"\n{slot}\n[routes.all]\nstreams = [\"#\"]\n\
         slots = [\"mark\"]\nencoding = \"compact\"\nbatch = {{ packets = 500 }}\n",
        published.digest
    )
}

const QUICK: &str = "shadow = \"200ms\"\ncanary = \"200ms\"\npackets = 50";

/// Packets by seq: value and quality.
fn packets(subscriber: &Subscriber) -> BTreeMap<u64, (f64, u32)> {
    let publishes = subscriber.publishes();
    let decoded = publishes.iter().map(|publish| payload::decode(&publish.payload).expect("it is ours"));
    decoded.flat_map(|decoded| decoded.packets).map(|packet| (packet.seq.0, (packet.value, packet.quality))).collect()
}

/// Ends the agent: everything that its sources made is at the broker, once.
fn end_without_loss(agent: Process, subscriber: &Subscriber) -> Value {
    agent.terminate();
    let (status, text) = agent.output();
    assert!(status.success(), "{text}");
    let last: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(last["imbalance"], Value::Array(vec![]), "{last}");
    let outbox = &last["outbox"];
    let received = last["sources"][0]["received"].as_u64().expect("a number");
    assert_eq!((outbox["appended"].as_u64(), outbox["waiting"].as_u64()), (Some(received), Some(0)), "{outbox}");
    wait_until("everything is there", || packets(subscriber).len() as u64 >= received);
    assert!(packets(subscriber).keys().copied().eq(0..received), "each once, under names without a gap");
    last
}

#[test]
fn a_release_takes_over_and_outlives_a_restart() {
    let broker = Broker::mosquitto();
    let (accounts, gateway) = (Accounts::of(&broker), gateway(&broker, SIMULATOR));
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/gw1/data/#");
    let mut agent = gateway.run(&["--json"]);
    let new = published(&marking_cell(4), 1);
    accounts.retain(&new.publishes);
    accounts.retain(&[order("gw1", 1, accounts.nonce("gw1"), &set(&new, "min_seq = 1", QUICK))]);
    assert_eq!(accounts.end_of("gw1", 1), ("confirmed".into(), String::new()));
    let states: Vec<_> = accounts.all("gw1").iter().map(|account| account.state.name()).collect();
    assert!(["local", "shadow", "canary", "confirmed"].iter().all(|state| states.contains(state)), "{states:?}");
    let account = accounts.last("gw1").expect("it reports");
    let release = account.slots[0].release.as_ref().expect("signed");
    assert_eq!((release.cell.as_str(), release.seq, account.floors.len()), ("acme/cell", 1, 1));
    let status = gateway.status().expect("it runs");
    assert_eq!(status["update"]["cells_from"], "desired state 1 for gw/gw1");
    assert_eq!(status["routes"][0]["slots"][0]["from"], "release acme/cell 1.0.0, number 1");
    // Its packets come from the new cell; a restart changes nothing.
    wait_until("the new cell decides", || {
        packets(&subscriber).values().next_back().is_some_and(|(_, quality)| *quality == 4)
    });
    agent.kill();
    let before = accounts.all("gw1").len();
    agent = gateway.run(&["--json"]);
    wait_until("it is back", || accounts.all("gw1").len() > before);
    assert_eq!(accounts.end_of("gw1", 1).0, "confirmed");
    assert_eq!(
        gateway.status().expect("it runs")["routes"][0]["slots"][0]["from"],
        "release acme/cell 1.0.0, number 1"
    );
    drop(agent);
}

#[test]
fn a_set_on_probation_moves_nothing_here_until_it_takes_over() {
    let broker = Broker::mosquitto();
    let sink = format!("{SIMULATOR}[sinks.here.file]\npath = \"HERE/here.jsonl\"\nmax_bytes = \"1GB\"\n");
    let with_sink =
        |set: &str| set.replace("slots = [\"mark\"]\n", "slots = [\"mark\"]\nsinks = [\"here\", \"uplink\"]\n");
    let gateway = gateway(&broker, &sink);
    let config = fs::read_to_string(gateway.config()).expect("it is there");
    fs::write(gateway.config(), with_sink(&config)).expect("written");
    let accounts = Accounts::of(&broker);
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/gw1/data/#");
    let agent = gateway.run(&["--json"]);
    let new = published(&marking_cell(4), 1);
    accounts.retain(&new.publishes);
    accounts.retain(&[order("gw1", 1, accounts.nonce("gw1"), &with_sink(&set(&new, "min_seq = 1", QUICK)))]);
    assert_eq!(accounts.end_of("gw1", 1), ("confirmed".into(), String::new()));
    wait_until("the new cell decides", || {
        packets(&subscriber).values().next_back().is_some_and(|(_, quality)| *quality == 4)
    });
    end_without_loss(agent, &subscriber);
    // What was written here is what was sent, packet for packet: both sets had each while they ran side by side, and one wrote it.
    let text = fs::read_to_string(gateway.path("here.jsonl")).expect("it is there");
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let written: Vec<_> = rows.map(|row| (row["value"].as_f64(), row["quality"].as_u64().unwrap_or(0))).collect();
    let packets = packets(&subscriber);
    let sent: Vec<_> = packets.values().map(|(value, quality)| (Some(*value), u64::from(*quality))).collect();
    assert!(written == sent, "{} written, {} sent", written.len(), sent.len());
    assert!([0, 4].iter().all(|quality| sent.iter().any(|(_, sent)| sent == quality)));
}

/// How a bad release ends.
struct Bad<'a> {
    what: &'a str,
    component: Vec<u8>,
    change: fn(&mut Release),
    seeds: &'a [u8],
    slot: &'a str,
    ends: (&'a str, &'a str),
}

#[test]
#[allow(clippy::too_many_lines)] // a list
fn bad_cells_are_refused_or_rolled_back_by_themselves_and_no_packet_is_lost() {
    let broker = Broker::mosquitto();
    let (accounts, gateway) = (Accounts::of(&broker), gateway(&broker, SIMULATOR));
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/gw1/data/#");
    let agent = gateway.run(&["--json"]);
    let good = published(&marking_cell(4), 10);
    accounts.retain(&good.publishes);
    accounts.retain(&[order("gw1", 1, accounts.nonce("gw1"), &set(&good, "min_seq = 10", QUICK))]);
    assert_eq!(accounts.end_of("gw1", 1).0, "confirmed");

    let same = |_: &mut Release| ();
    let plain = WatCell::default();
    let rolled_back = |what, component, ends| Bad {
        what,
        component,
        change: same,
        seeds: &[PUBLISHER],
        slot: "",
        ends: ("rolled-back", ends),
    };
    let loops = format!("(loop $for_ever br $for_ever) {PASS}");
    let tenth = format!(
        "(global.set $seen (i32.add (global.get $seen) (local.get $arg1)))
         (if (i32.ge_u (global.get $seen) (i32.const 10)) (then unreachable)) {PASS}"
    );
    let seen = "(global $seen (mut i32) (i32.const 0))";
    let leak = format!("(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) {PASS}");
    let log = "(call $log (i32.const 3) (i32.const 64) (i32.const 4) (i32.const 64) (i32.const 12))";
    let flood = format!("{} {PASS}", log.repeat(100));
    let logs = WatCell { imports: LOG_IMPORT, process: &flood, ..plain }.build();
    let half = |release: &mut Release| release.health = Health { min_per_mille: 100, max_per_mille: 500 };
    let imports_log = |release: &mut Release| release.imports = vec!["porin:cell/log@0.1.0".into()];
    let grants = "grants = [\"log\"]";
    let bad = [
        rolled_back("loops", WatCell { process: &loops, ..plain }.build(), "fault"),
        rolled_back("traps on the tenth packet", WatCell { items: seen, process: &tenth, ..plain }.build(), "fault"),
        Bad { change: half, ..rolled_back("forwards everything", WatCell::default().build(), "output-ratio") },
        Bad {
            change: half,
            ..rolled_back("forwards nothing", WatCell { process: EMPTY, ..plain }.build(), "output-ratio")
        },
        rolled_back(
            "forwards nothing, and nothing is said of that",
            WatCell { process: EMPTY, ..plain }.build(),
            "output-ratio",
        ),
        rolled_back("leaks memory", WatCell { process: &leak, ..plain }.build(), "fault"),
        Bad { change: imports_log, slot: grants, ..rolled_back("floods the log", logs.clone(), "log-flood") },
        Bad {
            change: imports_log,
            ends: ("rejected", "not-granted"),
            ..rolled_back("imports what it was not granted", logs.clone(), "")
        },
        Bad {
            slot: grants,
            ends: ("rejected", "undeclared-import"),
            ..rolled_back("imports what its release does not say", logs, "")
        },
        Bad { ends: ("rejected", "malformed"), ..rolled_back("is 51,201 bytes", vec![7; 51_201], "") },
        Bad { ends: ("rejected", "unfit"), ..rolled_back("is no component", vec![7; 1_000], "") },
        Bad {
            seeds: &[STRANGER],
            ends: ("refused", "too-few-signatures"),
            ..rolled_back("is signed by the wrong key", marking_cell(8), "")
        },
        Bad {
            seeds: &[PUBLISHER, PUBLISHER],
            change: |release| release.seq = 9,
            ends: ("rejected", "below-floor"),
            ..rolled_back("is below the floor, signed twice", marking_cell(8), "")
        },
        Bad {
            change: |release| release.cell = "other/cell".into(),
            ends: ("rejected", "outside-prefix"),
            ..rolled_back("is outside its publisher's prefix", marking_cell(8), "")
        },
        Bad {
            change: |release| release.world = "oracle".into(),
            ends: ("rejected", "unknown-world"),
            ..rolled_back("is of a world that nobody knows", marking_cell(8), "")
        },
        Bad {
            slot: "grants = [\"sockets\"]",
            ends: ("rejected", "bad-set"),
            ..rolled_back("wants what there is not", marking_cell(8), "")
        },
    ];
    for (seq, Bad { what, component, change, seeds, slot, ends }) in (2..).zip(bad) {
        let mut release = release_of(&component, 10 + seq);
        change(&mut release);
        let published = publish_by(seeds, &release, &component);
        accounts.retain(&published.publishes);
        accounts.retain(&[order("gw1", seq, None, &set(&published, slot, QUICK))]);
        let account = if ends.0 == "refused" {
            // Somebody may have taken the signatures off on the way: it waits for a whole one.
            accounts.wait("gw1", what, |account| {
                account.refused.as_ref().is_some_and(|reason| reason.code.word() == ends.1)
            })
        } else {
            let (state, code) = accounts.end_of("gw1", seq);
            assert_eq!((state.as_str(), code.as_str()), ends, "{what}");
            accounts.last("gw1").expect("it reports")
        };
        let runs = account.slots[0].release.as_ref().map(|release| release.seq);
        assert_eq!((runs, account.floors.as_slice()), (Some(10), &[("acme/cell".into(), 10)][..]), "{what}");
    }
    let last = end_without_loss(agent, &subscriber);
    assert_eq!(last["routes"][0]["slots"][0]["from"], "release acme/cell 1.0.0, number 10");
    // The good one has decided all the while, but for what a bad one passed on as a canary before it was found out.
    let strangers = packets(&subscriber).values().filter(|(_, quality)| *quality == 8).count();
    assert_eq!(strangers, 0);
}

#[test]
fn documents_that_do_not_count_change_nothing_and_the_reason_is_reported() {
    let broker = Broker::mosquitto();
    let (accounts, gateway) = (Accounts::of(&broker), gateway(&broker, SIMULATOR));
    let agent = gateway.run(&["--json"]);
    let (good, other) = (published(&marking_cell(4), 1), published(&marking_cell(8), 2));
    accounts.retain(&good.publishes);
    accounts.retain(&other.publishes);
    // Not even a good one, as long as nobody knows whether it is new.
    accounts.retain(&[order("gw1", 1, None, &set(&good, "", QUICK))]);
    accounts.wait("gw1", "the gateway wants its word back", |account| {
        account.refused.as_ref().is_some_and(|reason| reason.code == Code::OtherNonce)
    });
    let first = order("gw1", 1, accounts.nonce("gw1"), &set(&other, "", QUICK));
    accounts.retain(std::slice::from_ref(&first));
    assert_eq!(accounts.end_of("gw1", 1).0, "confirmed");
    let second = order("gw1", 2, None, &set(&good, "", QUICK));
    accounts.retain(&[second]);
    assert_eq!(accounts.end_of("gw1", 2).0, "confirmed");
    let desired = authority::desired_for("gw1", 3, None, &set(&other, "", QUICK));
    let sign = |desired, seeds: &[u8]| authority::signed(&desired, seeds);
    let expired =
        porin_core::trust::Desired { expires: porin_core::time::Unix(1_700_000_100_000_000), ..desired.clone() };
    let cases = [
        ("too-few-signatures", sign(desired.clone(), &[STRANGER])),
        ("too-few-signatures", sign(desired.clone(), &[PUBLISHER])),
        ("too-few-signatures", sign(desired.clone(), &[])),
        // The very bytes that this gateway once accepted, byte for byte, by the operator's own key.
        ("older", first.1),
        ("same-number", sign(authority::desired_for("gw1", 2, None, &set(&other, "", QUICK)), &[authority::OPERATOR])),
        (
            "other-gateway",
            sign(authority::desired_for("gw2", 3, None, &set(&other, "", QUICK)), &[authority::OPERATOR]),
        ),
        ("expired", sign(expired, &[authority::OPERATOR])),
        ("wrong-type", authority::signed(&release_of(b"x", 1), &[authority::OPERATOR])),
        ("unknown-version", b"no document".to_vec()),
    ];
    for (code, document) in cases {
        let before = accounts.last("gw1").expect("it reports").refusals;
        accounts.retain(&[("porin/v1/gw/gw1/desired".into(), document)]);
        let account = accounts.wait("gw1", code, |account| account.refusals > before);
        assert_eq!(account.refused.expect("a reason").code.word(), code);
        assert_eq!(
            (account.state.name(), account.slots[0].release.as_ref().map(|release| release.seq)),
            ("confirmed", Some(1))
        );
    }
    // What is larger than any document is not even looked at.
    accounts.retain(&[("porin/v1/gw/gw1/desired".into(), vec![1; 20_000])]);
    wait_until("it says so", || gateway.log().contains("larger than any document"));
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    drop(agent);
}

#[test]
fn a_canary_that_faults_costs_no_packet_and_the_old_cell_decides_about_that_very_batch() {
    let broker = Broker::mosquitto();
    let (accounts, gateway) = (Accounts::of(&broker), gateway(&broker, SIMULATOR));
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/gw1/data/#");
    let agent = gateway.run(&["--json"]);
    let nonce = accounts.nonce("gw1");
    let process = format!(
        "(global.set $seen (i32.add (global.get $seen) (local.get $arg1)))
         (if (i32.ge_u (global.get $seen) (i32.const 2000)) (then unreachable)) {PASS}"
    );
    let late = WatCell { items: "(global $seen (mut i32) (i32.const 0))", process: &process, ..WatCell::default() };
    let late = published(&late.build(), 1);
    accounts.retain(&late.publishes);
    // Long enough that only the fault ends it.
    let proof = "shadow = \"0s\"\ncanary = \"1h\"";
    accounts.retain(&[order("gw1", 1, nonce, &set(&late, "", proof))]);
    accounts.wait("gw1", "it is sent", |account| account.state.name() == "canary");
    assert_eq!(accounts.end_of("gw1", 1), ("rolled-back".into(), "fault".into()));
    assert!(gateway.log().contains("the old cells' output of the batch is sent"), "{}", gateway.log());
    let before = packets(&subscriber).len();
    wait_until("the old one goes on", || packets(&subscriber).len() > before + 200);
    let last = end_without_loss(agent, &subscriber);
    assert!(last["routes"][0]["slots"][0]["from"].as_str().is_some_and(|from| from.ends_with("own.wasm")));
    assert_eq!(last["routes"][0]["slots"][0]["faults"], 0);
}

#[test]
fn a_cell_that_turns_bad_after_it_was_kept_goes_into_quarantine_and_that_is_told() {
    let broker = Broker::mosquitto();
    let (accounts, gateway) = (Accounts::of(&broker), gateway(&broker, SIMULATOR));
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/gw1/data/#");
    let events = Subscriber::start(broker.port, "porin/v1/gw/gw1/event");
    let agent = gateway.run(&["--json"]);
    let nonce = accounts.nonce("gw1");
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + Duration::from_secs(4);
    let process = format!(
        "(if (i64.gt_u (i64.load (local.get $arg0)) (i64.const {})) (then unreachable)) {PASS}",
        soon.as_micros()
    );
    let turns = published(&WatCell { process: &process, ..WatCell::default() }.build(), 1);
    accounts.retain(&turns.publishes);
    accounts.retain(&[order("gw1", 1, nonce, &set(&turns, "fault = \"pass\"", QUICK))]);
    assert_eq!(accounts.end_of("gw1", 1).0, "confirmed");
    accounts.wait("gw1", "the cell is in quarantine", |account| account.slots[0].state == "quarantined");
    wait_until("that is told", || events.received().iter().any(|(_, event)| event["event"] == "quarantined"));
    let doctor = porind(&gateway.config()).arg("doctor").output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.status.success() && said.contains("is in quarantine: "), "{said}");
    // Its packets go on as they came.
    let before = packets(&subscriber).len();
    wait_until("packets go on", || packets(&subscriber).len() > before + 100);
    end_without_loss(agent, &subscriber);
}

#[test]
fn a_cell_in_which_the_agent_ends_three_times_is_rolled_back_for_that() {
    let broker = Broker::mosquitto();
    let (accounts, gateway) = (Accounts::of(&broker), gateway(&broker, SIMULATOR));
    let mut agent = gateway.run(&["--json"]);
    let nonce = accounts.nonce("gw1");
    // Slow enough that the agent is in it nearly all the time.
    let process = format!(
        "(loop $l (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i) (i32.const 9000000)))) {PASS}"
    );
    let slow = published(&WatCell { process: &process, ..WatCell::default() }.build(), 1);
    accounts.retain(&slow.publishes);
    let proof = "shadow = \"1h\"";
    accounts.retain(&[order("gw1", 1, nonce, &set(&slow, "limits = { fuel_per_batch = 100000000 }", proof))]);
    for _ in 0..3 {
        let epoch = accounts.last("gw1").expect("it reports").epoch;
        accounts.wait("gw1", "it is on probation", |account| account.state.name() == "shadow");
        std::thread::sleep(Duration::from_millis(300));
        agent.kill();
        agent = gateway.run(&["--json"]);
        accounts.wait("gw1", "it is back", |account| account.epoch != epoch);
    }
    assert_eq!(accounts.end_of("gw1", 1), ("rolled-back".into(), "agent-crash".into()));
    drop(agent);
}

#[test]
fn a_store_that_was_lost_takes_nothing_until_the_operator_gives_the_new_ones_word_back() {
    let broker = Broker::mosquitto();
    let (accounts, gateway) = (Accounts::of(&broker), gateway(&broker, SIMULATOR));
    let mut agent = gateway.run(&["--json"]);
    let (old, new) = (published(&marking_cell(4), 1), published(&marking_cell(8), 2));
    [&old, &new].iter().for_each(|version| accounts.retain(&version.publishes));
    accounts.retain(&[order("gw1", 1, accounts.nonce("gw1"), &set(&old, "min_seq = 1", QUICK))]);
    assert_eq!(accounts.end_of("gw1", 1).0, "confirmed");
    accounts.wait("gw1", "its floor", |account| !account.floors.is_empty());
    agent.kill();
    let before = accounts.last("gw1").expect("it reported");
    fs::remove_file(gateway.path("porin.redb")).expect("removed");
    agent = gateway.run(&["--json"]);
    let account = accounts
        .wait("gw1", "it refuses what is retained", |account| account.key != before.key && account.refused.is_some());
    assert_eq!((account.state.name(), account.refused.expect("a reason").code), ("local", Code::OtherNonce));
    assert!(account.slots[0].release.is_none() && account.nonce.is_some() && account.floors.is_empty());
    let reason = account.reason.expect("why it waits");
    assert_eq!(reason.code, Code::LostStore);
    assert!(reason.text.contains("floors that are gone: acme/cell 1"), "{reason}");
    accounts.retain(&[order("gw1", 2, account.nonce, &set(&new, "", QUICK))]);
    assert_eq!(accounts.end_of("gw1", 2).0, "confirmed");
    drop(agent);
}

#[test]
fn a_new_cell_that_does_not_take_what_the_old_one_has_learnt_begins_afresh_and_that_is_reported() {
    let broker = Broker::mosquitto();
    let (accounts, gateway) = (Accounts::of(&broker), gateway(&broker, SIMULATOR));
    let agent = gateway.run(&["--json"]);
    let nonce = accounts.nonce("gw1");
    let restore = "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 64))
        (i32.store (i32.const 24) (i32.const 12)) i32.const 16";
    let forgets = published(&WatCell { restore, ..WatCell::default() }.build(), 1);
    accounts.retain(&forgets.publishes);
    accounts.retain(&[order("gw1", 1, nonce, &set(&forgets, "", QUICK))]);
    assert_eq!(accounts.end_of("gw1", 1).0, "confirmed");
    assert_eq!(accounts.last("gw1").expect("it reports").slots[0].fresh.as_deref(), Some("cell: a text"));
    drop(agent);
}

#[test]
fn a_new_cell_is_tried_on_what_the_gateway_has_recorded_before_it_sees_anything_live() {
    let broker = Broker::mosquitto();
    let accounts = Accounts::of(&broker);
    // It makes 1,000 readings and then nothing more: whatever judges a cell after that is the recording.
    let source = "[sources.sim.simulator]\nstreams = \"s/{n}\"\ncount = 4\nevery = \"1ms\"\nreadings = 1000\n";
    let gateway =
        gateway(&broker, source).edit("[routes.all]", "[routes.all]\nrecord = { time = \"10min\", bytes = \"100kB\" }");
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/gw1/data/#");
    let agent = gateway.run(&["--json"]);
    let nonce = accounts.nonce("gw1");
    wait_until("the source has ended", || packets(&subscriber).len() == 1_000);
    let proof = "shadow = \"1h\"\npackets = 900";
    let recorded = |published: &Published| {
        set(published, "", proof)
            .replace("[routes.all]", "[routes.all]\nrecord = { time = \"10min\", bytes = \"100kB\" }")
    };
    let tenth = "(global.set $seen (i32.add (global.get $seen) (local.get $arg1)))
         (if (i32.ge_u (global.get $seen) (i32.const 900)) (then unreachable))";
    let (process, items) = (format!("{tenth} {PASS}"), "(global $seen (mut i32) (i32.const 0))");
    let late = published(&WatCell { items, process: &process, ..WatCell::default() }.build(), 1);
    accounts.retain(&late.publishes);
    accounts.retain(&[order("gw1", 1, nonce, &recorded(&late))]);
    assert_eq!(accounts.end_of("gw1", 1), ("rolled-back".into(), "fault".into()));
    let mut release = release_of(&marking_cell(4), 2);
    release.health = Health { min_per_mille: 0, max_per_mille: 500 };
    let all = publish_by(&[PUBLISHER], &release, &marking_cell(4));
    accounts.retain(&all.publishes);
    accounts.retain(&[order("gw1", 2, None, &recorded(&all))]);
    assert_eq!(accounts.end_of("gw1", 2), ("rolled-back".into(), "output-ratio".into()));
    // A good one goes on to what is live.
    let good = published(&marking_cell(8), 3);
    accounts.retain(&good.publishes);
    accounts.retain(&[order("gw1", 3, None, &recorded(&good))]);
    accounts.wait("gw1", "it is on probation", |account| account.state.name() == "shadow");
    let said: Vec<_> = accounts.all("gw1").iter().map(|account| account.state.name()).collect();
    assert_eq!(said.iter().filter(|state| **state == "shadow").count(), 1, "{said:?}");
    assert_eq!(packets(&subscriber).len(), 1_000, "what was tried is not sent");
    drop(agent);
}

/// A value that is a whole number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn number(value: f64) -> u64 {
    value as u64
}

/// Two minutes of a stream of 10,000 rows a second, as a replay reads them: each has its number as its value.
fn recording() -> String {
    (0..1_200_000).fold(String::from("timestamp,channel,value\n"), |mut text, row| {
        let _ = writeln!(text, "{}.{:04},s,{row}", row / 10_000, row % 10_000);
        text
    })
}

/// Swaps; `PORIN_SWAPS` asks for more or fewer.
fn swaps() -> u64 {
    std::env::var("PORIN_SWAPS").ok().and_then(|swaps| swaps.parse().ok()).unwrap_or(100)
}

#[test]
fn a_hundred_swaps_at_ten_thousand_packets_a_second_lose_nothing_and_are_monotone() {
    let broker = Broker::mosquitto_with("max_queued_messages 0");
    let accounts = Accounts::of(&broker);
    let replay = "[sources.again.replay]\nfile = \"HERE/recorded.csv\"\nstreams = \"{channel}\"\nspeed = 1\n";
    let gateway = gateway(&broker, replay);
    fs::write(gateway.path("recorded.csv"), recording()).expect("written");
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/gw1/data/#");
    let agent = gateway.run(&["--json"]);
    let versions = [published(&marking_cell(4), 1), published(&marking_cell(8), 2)];
    versions.iter().for_each(|version| accounts.retain(&version.publishes));
    let start = Instant::now();
    let mut waiting = Vec::new();
    for seq in 1..=swaps() {
        let version = &versions[usize::from(seq.is_multiple_of(2))];
        let nonce = (seq == 1).then(|| accounts.nonce("gw1")).flatten();
        let proof = "shadow = \"0s\"\ncanary = \"50ms\"\npackets = 10";
        accounts.retain(&[order("gw1", seq, nonce, &set(version, &format!("retry = {seq}"), proof))]);
        assert_eq!(accounts.end_of("gw1", seq), ("confirmed".into(), String::new()), "swap {seq}");
        waiting.push(gateway.status().expect("it runs")["outbox"]["waiting"].as_u64().unwrap_or(0));
    }
    let seconds = start.elapsed().as_secs_f64();
    let last = end_without_loss(agent, &subscriber);
    let received = last["sources"][0]["received"].as_u64().expect("a number");
    waiting.sort_unstable();
    #[allow(clippy::cast_precision_loss)] // for the eyes
    let rate = received as f64 / seconds;
    eprintln!(
        "{} swaps in {seconds:.0} s at {rate:.0} packets a second; waiting after a swap: median {}, most {}",
        swaps(),
        waiting[waiting.len() / 2],
        waiting.last().expect("some")
    );
    // Each row has its number as its value: all of them in order, and none twice.
    let values = packets(&subscriber).into_values().map(|(value, _)| value);
    assert!(values.map(number).eq(0..received), "each input once, in order");
    let marks: Vec<_> = packets(&subscriber).into_values().map(|(_, quality)| quality).collect();
    let switches = marks.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
    assert_eq!((switches, marks[0]), (swaps(), 0), "from the owner's own to the first, and then to and fro");
}
