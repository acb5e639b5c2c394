//! From a recorded file to a subscriber, with the real agent and real brokers: N in = delivered + dropped.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Output},
};

use porin_core::payload::Encoding;
use porin_e2e::{Broker, Cable, Gateway, Plugged, Received, Subscriber, free_port, porind, program, wait_until};
use porin_test_support::{rows, target_dir, top};
use serde_json::{Value, json};

/// The glucose recording through a deadband and, beside it, through an alarm.
fn routes() -> String {
    let file = top().join("tests/data/glucose.csv.gz");
    format!(
        r#"
[sources.cgm.replay]
file = "{}"
streams = "cgm/{{channel}}"
speed = "max"
[streams."cgm/glucose_mg_dL"]
params = {{ span = 262.0 }}
[streams."cgm/isig_nA"]
params = {{ span = 32.0 }}
[slots.quiet]
cell = "CELLS/deadband.wasm"
params = {{ percent = 1.0 }}
[slots.limits]
cell = "CELLS/threshold.wasm"
params = {{ low = 70.0, high = 180.0 }}
outputs = ["{{stream}}/alarm"]
[routes.values]
streams = ["cgm/#"]
slots = ["quiet"]
batch = {{ packets = 60, wait = "1s" }}
[routes.alarms]
streams = ["cgm/glucose_mg_dL"]
slots = ["limits"]
"#,
        file.display()
    )
}

fn count(status: &Value, path: &str) -> u64 {
    status.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {path} in {status}"))
}

/// Every packet that the agent says it delivered is there, by name, without a gap; the counters add up.
fn balanced(status: &Value, subscriber: &Subscriber) {
    assert_eq!(status["imbalance"], Value::Array(vec![]), "{status}");
    let acknowledged = count(status, "/outbox/acknowledged");
    wait_until("the subscriber has everything", || subscriber.packets().len() as u64 >= acknowledged);
    let seqs: BTreeSet<u64> = subscriber.packets().into_keys().map(|(_, _, seq)| seq).collect();
    assert_eq!(seqs, (0..acknowledged).collect());
}

fn goes_through(broker: &Broker) {
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    let status = Gateway::new("lab", broker.port, &routes()).run_to_the_end();
    balanced(&status, &subscriber);
    let recorded = rows(&top().join("tests/data/glucose.csv.gz")).len() as u64;
    assert_eq!(count(&status, "/sources/0/received"), recorded);
    // N in = delivered + dropped, per route. The alarm's cell makes readings: what comes out of it is delivered.
    for route in 0..2 {
        let (received, forwarded) = (
            count(&status, &format!("/routes/{route}/received")),
            count(&status, &format!("/routes/{route}/forwarded")),
        );
        assert!(forwarded > 0 && forwarded < received, "{received} {forwarded}");
    }
    let delivered = subscriber.packets().len() as u64;
    assert_eq!(count(&status, "/routes/0/forwarded") + count(&status, "/routes/1/forwarded"), delivered);
    assert_eq!(count(&status, "/outbox/waiting"), 0);
}

#[test]
fn a_recording_goes_through_mosquitto() {
    goes_through(&Broker::mosquitto());
}

#[test]
fn a_recording_goes_through_the_embedded_broker() {
    goes_through(&Broker::embedded());
}

#[test]
fn after_commit_writes_every_packet_before_it_leaves() {
    let broker = Broker::mosquitto();
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    let gateway = Gateway::new("lab", broker.port, &routes());
    // Long enough for the broker to be quicker than the disk.
    let text = fs::read_to_string(gateway.config()).expect("it is there").replace("\"50ms\"", "\"2s\"");
    fs::write(gateway.config(), text).expect("written");
    let at_once = gateway.run_to_the_end();
    let text = routes().replace("slots = [", "publish = \"after-commit\"\nslots = [");
    let after_commit = Gateway::new("lab", broker.port, &text).run_to_the_end();
    let written = |status| (count(status, "/outbox/written"), count(status, "/outbox/appended"));
    let (kept, appended) = written(&after_commit);
    assert_eq!(kept, appended, "each was durable first");
    let (kept, appended) = written(&at_once);
    assert!(kept < appended, "what was acknowledged in time never touched the disk: {kept} of {appended}");
    assert_eq!(after_commit["imbalance"], Value::Array(vec![]));
    drop(subscriber);
}

#[test]
fn a_packet_that_comes_again_is_known_by_its_name() {
    let broker = Broker::mosquitto();
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    let status = Gateway::new("lab", broker.port, &routes()).run_to_the_end();
    balanced(&status, &subscriber);
    let (topic, payload) = subscriber.received().swap_remove(0);
    // As a broker that restarts would: the same publish once more, by mosquitto's own client.
    let publish = Command::new("mosquitto_pub")
        .args(["-V", "5", "-q", "1", "-p", &broker.port.to_string(), "-t", &topic, "-m", &payload.to_string()])
        .status();
    assert!(publish.is_ok_and(|status| status.success()));
    wait_until("it came", || subscriber.received().iter().filter(|(_, other)| *other == payload).count() == 2);
    balanced(&status, &subscriber);
}

#[test]
fn a_gateway_that_starts_without_its_broker_delivers_everything() {
    let broker = Broker::mosquitto();
    let cable = Cable::to(broker.port, Plugged::Out);
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    let gateway = Gateway::new("lab", cable.port, &routes());
    let agent = gateway.run(&["--until-drained", "--json"]);
    wait_until("the recording is decided about", || {
        gateway.status().is_some_and(|status| status["sources"][0]["ended"] == true)
    });
    assert!(subscriber.packets().is_empty());
    cable.plug_in();
    let (status, stdout) = agent.output();
    assert!(status.success(), "{}", gateway.log());
    balanced(&serde_json::from_str(&stdout).expect("JSON"), &subscriber);
}

#[test]
fn a_link_that_is_cut_again_and_again_loses_nothing() {
    let broker = Broker::mosquitto();
    let cable = Cable::to(broker.port, Plugged::In);
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    // Slow enough to be in the middle of it: each reading is a publish of its own.
    let text = routes().replace("batch = { packets = 60, wait = \"1s\" }", "batch = { packets = 1 }");
    let gateway = Gateway::new("lab", cable.port, &text);
    let agent = gateway.run(&["--until-drained", "--json"]);
    for cut in 1..=3 {
        wait_until("some more have come", || subscriber.received().len() > cut * 500);
        cable.pull();
        cable.plug_in();
    }
    let (status, stdout) = agent.output();
    assert!(status.success(), "{}", gateway.log());
    let status = serde_json::from_str(&stdout).expect("JSON");
    balanced(&status, &subscriber);
    assert_eq!(count(&status, "/uplink/connections"), 4);
}

#[test]
fn after_a_kill_the_agent_goes_on_and_packets_keep_their_names() {
    let broker = Broker::mosquitto();
    let cable = Cable::to(broker.port, Plugged::In);
    let gateway = Gateway::new("lab", cable.port, &routes());
    let first = gateway.run_to_the_end();
    // Without a link everything waits; then the power goes.
    cable.pull();
    let mut agent = gateway.run(&[]);
    wait_until("the second replay is durable", || {
        gateway.status().is_some_and(|status| status["sources"][0]["ended"] == true)
    });
    let waiting = count(&gateway.status().expect("it runs"), "/outbox/waiting");
    agent.kill();
    cable.plug_in();
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    fs::write(gateway.config(), without_sources(&gateway)).expect("written");
    let last = gateway.run_to_the_end();
    assert_eq!(count(&last, "/outbox/found"), waiting);
    assert_eq!(last["imbalance"], Value::Array(vec![]));
    wait_until("all came", || subscriber.packets().len() as u64 == waiting);
    let epochs = [&first, &last].map(|status| status["epoch"].as_str().expect("an epoch").to_owned());
    assert_eq!(epochs[0].split('-').next(), epochs[1].split('-').next(), "the same store");
    assert!(epochs[0].ends_with("-1") && epochs[1].ends_with("-3"), "{epochs:?}");
    let names = subscriber.packets();
    // Numbered by the second start, and sent by the third: a packet keeps its name.
    let second = epochs[0].replace("-1", "-2");
    assert!(names.keys().all(|(_, epoch, _)| *epoch == second), "{names:?}");
}

/// The gateway's configuration with nothing to replay.
fn without_sources(gateway: &Gateway) -> String {
    let text = fs::read_to_string(gateway.config()).expect("it is there");
    let start = text.find("[sources.cgm.replay]").expect("a source");
    let end = text.find("[streams.").expect("streams");
    format!("{}{}", &text[..start], &text[end..])
}

#[test]
fn birth_and_last_will_say_whether_the_gateway_is_there() {
    let broker = Broker::mosquitto();
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/state");
    let gateway = Gateway::new("lab", broker.port, "");
    let states = || {
        subscriber
            .received()
            .iter()
            .map(|(_, payload)| payload["state"].as_str().expect("a state").to_owned())
            .collect::<Vec<_>>()
    };
    let mut agent = gateway.run(&[]);
    wait_until("birth", || states() == ["online"]);
    agent.kill();
    wait_until("last will", || states() == ["online", "offline"]);
    let mut agent = gateway.run(&[]);
    wait_until("birth", || states().len() == 3);
    agent.terminate();
    assert!(agent.wait().success());
    wait_until("farewell", || states() == ["online", "offline", "online", "offline"]);
    let late = Subscriber::start(broker.port, "porin/v1/gw/lab/state");
    wait_until("it is retained", || late.received().len() == 1);
}

#[test]
fn bad_rows_are_counted_and_shown_and_a_missing_file_is_tried_again() {
    let broker = Broker::mosquitto();
    let text = r#"
[routes.all]
streams = ["f/a"]
"#;
    let gateway = Gateway::new("lab", broker.port, &rows_csv(text));
    let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
    let agent = gateway.run(&["--until-drained", "--json"]);
    wait_until("it says that the file is missing", || {
        gateway.status().is_some_and(|status| count(&status, "/sources/0/restarts") > 0)
    });
    assert!(gateway.log().contains("rows.csv"), "{}", gateway.log());
    let mut rows =
        String::from("timestamp,channel,value\n1,a,1\nx,a,2\n1,a,2\n0,a,3\n5,a\n5,+,1\n6,unwanted,1\n7,a,4e0\n");
    writeln!(rows, "{}", "x".repeat(100_000)).expect("a string");
    // Renamed into place: half a file would be replayed as half a file.
    fs::write(gateway.path("part"), rows).expect("written");
    fs::rename(gateway.path("part"), gateway.path("rows.csv")).expect("renamed");
    let (status, stdout) = agent.output();
    assert!(status.success(), "{}", gateway.log());
    let status: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(count(&status, "/sources/0/bad_rows"), 4);
    assert_eq!((count(&status, "/sources/0/received"), count(&status, "/sources/0/unrouted")), (5, 1));
    let last = status["sources"][0]["last_bad_row"].as_str().expect("a place");
    assert!(last.contains("rows.csv line 10: it has more than 4096 bytes"), "{last}");
    balanced(&status, &subscriber);
    let values: Vec<_> = subscriber.packets().into_values().map(|(_, time, value)| (time, value)).collect();
    assert_eq!(values, [(1_000_000, 1.0), (1_000_000, 2.0), (0, 3.0), (7_000_000, 4.0)], "clocks as they come");
}

/// A configuration that replays `rows.csv` beside it as fast as possible, and goes on with `rest`.
fn rows_csv(rest: &str) -> String {
    format!("[sources.file.replay]\nfile = \"HERE/rows.csv\"\nstreams = \"f/{{channel}}\"\nspeed = \"max\"\n{rest}")
}

/// Members of gzip one behind the other, as `cat` makes them; and a file that was cut while it was copied.
#[test]
fn every_member_of_a_gzip_file_and_every_row_before_a_cut_is_read() {
    let packed = |rows: std::ops::Range<u32>, header: &str| {
        let text = rows.map(|row| format!("{row},a,{row}\n")).collect::<String>();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(format!("{header}{text}").as_bytes()).and_then(|()| packed.finish()).expect("packed")
    };
    let broker = Broker::mosquitto();
    let config = rows_csv("[routes.all]\nstreams = [\"#\"]\n").replace("rows.csv", "rows.csv.gz");
    let gateway = Gateway::new("lab", broker.port, &config);
    let members = [packed(0..100, "timestamp,channel,value\n"), packed(100..101, ""), packed(101..300, "")];
    fs::write(gateway.path("rows.csv.gz"), members.concat()).expect("written");
    assert_eq!(count(&gateway.run_to_the_end(), "/sources/0/received"), 300);

    let cut = Gateway::new("lab", broker.port, &config);
    let whole = packed(0..20_000, "timestamp,channel,value\n");
    fs::write(cut.path("rows.csv.gz"), &whole[..whole.len() / 2]).expect("written");
    let agent = cut.run(&[]);
    let source = || cut.status().map_or(Value::Null, |status| status["sources"][0].clone());
    wait_until("it fails and is tried again", || source()["restarts"].as_u64() >= Some(2));
    let source = source();
    let error = source["last_error"].as_str().unwrap_or_default();
    let line: u64 = error.split(" line ").nth(1).and_then(|rest| rest.split(':').next()?.parse().ok()).expect("a line");
    // The header is a line, and the one that was cut is no row.
    assert_eq!(source["received"].as_u64(), Some(line - 2), "{source}");
    assert!(line > 1_000, "{source}");
    drop(agent);
}

/// Rows of two channels, the second one unknown to the configuration.
fn two_channels(gateway: &Gateway) {
    fs::write(gateway.path("rows.csv"), "timestamp,channel,value\n1,a,1\n1,b,1\n2,a,9\n2,b,9\n").expect("written");
}

#[test]
fn packets_of_a_stream_that_a_cell_does_not_take_get_the_fault_policy_then_and_after_a_restart() {
    let broker = Broker::mosquitto();
    let text = r#"
[streams."f/a"]
params = { span = 10.0 }
[slots.quiet]
cell = "CELLS/deadband.wasm"
params = { percent = 1 }
[slots.after]
cell = "CELLS/throttle.wasm"
params = { every = 1 }
[routes.all]
streams = ["f/#"]
slots = ["quiet", "after"]
"#;
    for (policy, fate) in [("", "dead_lettered"), ("fault = \"pass\"\n", "passed"), ("fault = \"drop\"\n", "dropped")] {
        let text = text.replace("params = { percent", &format!("{policy}params = {{ percent"));
        let gateway = Gateway::new("lab", broker.port, &rows_csv(&text));
        two_channels(&gateway);
        for start in 1..=2 {
            let status = gateway.run_to_the_end();
            let slot = &status["routes"][0]["slots"][0];
            assert_eq!(count(&status, "/sources/0/unrouted"), 0, "{policy} start {start}");
            assert_eq!(
                (&slot["refused"], &slot[fate]),
                (&json!(2), &json!(2)),
                "{policy} start {start}: b has no span"
            );
            assert_eq!((&slot["faults"], &slot["streams_refused"]), (&json!(0), &json!(1)));
            assert_eq!(slot["refused_streams"][0]["stream"], "f/b");
            let reason = slot["refused_streams"][0]["reason"].as_str().expect("a text");
            assert!(reason.contains("`span` of stream `f/b`: missing"), "{reason}");
            let passed = if fate == "passed" { 2 } else { 0 };
            assert_eq!(status["routes"][0]["slots"][1]["input"], slot["output"], "the next slot takes them");
            assert!(slot["output"].as_u64().is_some_and(|output| output >= passed));
            assert_eq!(status["imbalance"], Value::Array(vec![]));
        }
    }
}

#[test]
fn check_tries_parameters_with_a_stream_whose_name_is_known_only_at_run_time() {
    let text = r#"
[slots.quiet]
cell = "CELLS/deadband.wasm"
params = { percent = 1 }
[routes.all]
streams = ["f/#"]
slots = ["quiet"]
"#;
    let check = |text: &str| {
        let gateway = Gateway::new("lab", free_port(), &rows_csv(text));
        two_channels(&gateway);
        let Output { status, stdout, stderr } = porind(&gateway.config()).arg("check").output().expect("it runs");
        (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    };
    // Nothing that comes could enter.
    let (good, said) = check(text);
    assert!(!good && said.contains("takes no stream such as `f/made-up`: parameter `span`"), "{said}");
    // One may.
    let (good, said) = check(&format!("[streams.\"f/a\"]\nparams = {{ span = 10.0 }}\n{text}"));
    assert!(good && said.contains("warning slot") && said.contains("`f/made-up`: parameter `span`"), "{said}");
    let (good, said) = check(&text.replace("percent = 1", "absolute = 1"));
    assert!(good && !said.contains("made-up"), "{said}");
}

#[test]
fn outputs_added_between_two_starts_keep_their_ids() {
    let broker = Broker::mosquitto();
    let plain = r#"
[routes.all]
streams = ["f/a"]
"#;
    let alarms = "slots = [\"limits\"]\n[slots.limits]\ncell = \"CELLS/threshold.wasm\"\nparams = { high = 5.0 }\noutputs = [\"{stream}/alarm\"]\n";
    let gateway = Gateway::new("lab", broker.port, &rows_csv(plain));
    two_channels(&gateway);
    gateway.run_to_the_end();
    let cells = target_dir().join("cells").display().to_string();
    let text = fs::read_to_string(gateway.config()).expect("it is there") + &alarms.replace("CELLS", &cells);
    fs::write(gateway.config(), text).expect("written");
    let ids = |status: &Value| {
        status["streams"].as_array().expect("streams").iter().map(|stream| stream["name"].clone()).collect::<Vec<_>>()
    };
    let second = gateway.run_to_the_end();
    fs::write(gateway.path("rows.csv"), "timestamp,channel,value\n3,c,1\n3,a,1\n").expect("written");
    gateway.run_to_the_end();
    let fourth = gateway.run_to_the_end();
    assert_eq!(ids(&second), ids(&fourth)[..ids(&second).len()]);
    assert!(ids(&fourth).contains(&"f/a/alarm".into()), "{fourth}");
}

#[test]
fn a_broker_that_refuses_connections_is_told_and_status_says_so() {
    let gateway = Gateway::new("lab", free_port(), "");
    let _agent = gateway.run(&[]);
    wait_until("the status has the reason", || {
        gateway
            .status()
            .is_some_and(|status| status["uplink"]["last_error"].as_str().is_some_and(|text| text.contains("refused")))
    });
    let status = gateway.status().expect("it runs");
    assert_eq!(status["uplink"]["connected"], false);
}

#[test]
fn two_agents_cannot_have_one_store() {
    let gateway = Gateway::new("lab", free_port(), "");
    let _first = gateway.run(&[]);
    wait_until("it runs", || gateway.status().is_some());
    let (status, _) = gateway.run(&[]).output();
    assert_eq!(status.code(), Some(1));
    assert!(gateway.log().contains("another agent has it open"), "{}", gateway.log());
    assert!(gateway.status().is_some(), "the first one still answers");
}

#[test]
fn the_demo_adds_up() {
    let output = Command::new(program("porin"))
        .current_dir(top())
        .arg("demo")
        .arg("--porind")
        .arg(program("porind"))
        .arg("--cells")
        .arg(target_dir().join("cells"))
        .output()
        .expect("porin runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("everything adds up: nothing was lost"), "{stdout}");
}

/// Every encoding carries the same packets, says what it is, and keeps to the bytes that a publish may have.
#[test]
fn a_route_says_how_its_packets_are_written() {
    let broker = Broker::mosquitto();
    let mut before = None;
    for (name, encoding) in Encoding::ALL {
        let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
        let batch = format!("encoding = \"{name}\"\nbatch = {{ bytes = 2000, wait = \"1s\" }}");
        let routes = routes().replace("batch = { packets = 60, wait = \"1s\" }", &batch);
        let status = Gateway::new("lab", broker.port, &routes).run_to_the_end();
        balanced(&status, &subscriber);
        let data = |publish: &Received| publish.topic == "porin/v1/gw/lab/data/values";
        let values: Vec<_> = subscriber.publishes().into_iter().filter(data).collect();
        assert!(values.iter().all(|publish| publish.content_type == encoding.content_type()), "{name}");
        assert!(values.iter().all(|publish| publish.payload.len() <= 2_000), "{name}");
        let mean = values.iter().map(|publish| publish.payload.len()).sum::<usize>() / values.len();
        assert!(mean > 1_500, "{name}: {mean} bytes in a publish, of 2,000");
        let values = subscriber.packets().into_values().filter(|(stream, ..)| !stream.ends_with("alarm"));
        let readings: Vec<_> = values.collect();
        assert!(before.replace(readings.clone()).is_none_or(|before| before == readings), "{name}");
    }
}

/// Windows are closed by the next reading or by time that passes, by the recording's clock in a replay: either way each
/// reading is in one of them.
#[test]
fn windows_close_by_readings_or_by_time_with_the_same_result() {
    let broker = Broker::mosquitto();
    let run = |tick: &str| {
        let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
        let file = top().join("tests/data/glucose.csv.gz");
        let rest = format!(
            "[sources.cgm.replay]\nfile = \"{}\"\nstreams = \"cgm/{{channel}}\"\nspeed = \"max\"\n[slots.hourly]\ncell = \"CELLS/summary.wasm\"\n\
             params = {{ window_s = 3600 }}\noutputs = [\"{{stream}}/mean\", \"{{stream}}/count\"]\n{tick}[routes.values]\nstreams = [\"cgm/#\"]\n\
             slots = [\"hourly\"]\n",
            file.display()
        );
        let status = Gateway::new("lab", broker.port, &rest).run_to_the_end();
        balanced(&status, &subscriber);
        let mut told: Vec<_> = subscriber.packets().into_values().collect();
        told.sort_by(|a, b| (&a.0, a.1).partial_cmp(&(&b.0, b.1)).expect("names and times"));
        told
    };
    let (by_readings, by_time) = (run(""), run("tick = \"1min\"\n"));
    assert!(by_readings == by_time);
    let counted: f64 = by_time.iter().filter(|(stream, ..)| stream.ends_with("/count")).map(|(.., value)| value).sum();
    assert_eq!(counted, rows(&top().join("tests/data/glucose.csv.gz")).len() as f64);
}

/// Many streams, all troubles, as fast as possible: the same packets in two runs, and none without a fate.
#[test]
fn a_simulator_with_a_seed_gives_the_same_packets_again() {
    let broker = Broker::mosquitto();
    let rest = "[sources.sim.simulator]\nstreams = \"sim/{n}\"\ncount = 500\nspeed = \"max\"\nreadings = 40_000\nspikes = 0.01\n\
                drop_outs = 0.001\nstuck = 0.001\nclock_jumps = 0.001\n[slots.quiet]\ncell = \"CELLS/deadband.wasm\"\n\
                params = { absolute = 0.05 }\n[routes.all]\nstreams = [\"sim/#\"]\nslots = [\"quiet\"]\nencoding = \"compact\"\n";
    let run = || {
        let subscriber = Subscriber::start(broker.port, "porin/v1/gw/lab/data/#");
        let status = Gateway::new("lab", broker.port, rest).run_to_the_end();
        balanced(&status, &subscriber);
        assert_eq!(count(&status, "/sources/0/received"), 40_000);
        subscriber.packets().into_iter().map(|((.., seq), packet)| (seq, packet)).collect::<Vec<_>>()
    };
    let (first, second) = (run(), run());
    assert!(first.len() > 5_000, "{}", first.len());
    assert!(first == second);
}
