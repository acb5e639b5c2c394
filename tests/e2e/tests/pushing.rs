//! `porin push` and what goes with it, as an operator uses them: with keys of his own, over Debian's mosquitto.

use std::fs;

use porin_core::{reason::Code, trust::Reported};
use porin_e2e::{Accounts, Broker, Gateway, Operator, Process, Subscriber, wait_until};
use porin_test_support::{EMPTY, WatCell, authority, marking_cell, target_dir};
use serde_json::{Value, json};

/// A running gateway that takes updates of this operator, with his own passing cell in the slot `mark`.
fn gateway(id: &str, port: u16, operator: &Operator, updates: &str) -> (Gateway, Process) {
    let rest = format!(
        "[updates]\nroot = \"HERE/root-1\"\n{updates}[sources.sim.simulator]\nstreams = \"s/{{n}}\"\ncount = 4\nevery = \"5ms\"\n\
         [slots.mark]\ncell = \"HERE/own.wasm\"\n[slots.quiet]\ncell = \"CELLS/deadband.wasm\"\nparams = {{ absolute = 0.5 }}\n\
         [routes.all]\nstreams = [\"s/1\"]\nslots = [\"mark\"]\n[routes.quiet]\nstreams = [\"s/2\"]\nslots = [\"quiet\"]\n"
    );
    let gateway = Gateway::new(id, port, &rest);
    fs::copy(operator.keys().join("root-1"), gateway.path("root-1")).expect("copied");
    fs::write(gateway.path("own.wasm"), marking_cell(0)).expect("written");
    let agent = gateway.run(&["--json"]);
    (gateway, agent)
}

fn from(gateway: &Gateway, slot: &str) -> String {
    let status = gateway.status().expect("it runs");
    let routes = status["routes"].as_array().expect("routes");
    let mut slots = routes.iter().flat_map(|route| route["slots"].as_array().expect("slots"));
    slots.find(|found| found["name"] == slot).expect("it is there")["from"].as_str().expect("a word").into()
}

#[test]
fn an_operator_pushes_watches_changes_a_parameter_and_goes_back() {
    let broker = Broker::mosquitto();
    let operator = Operator::new(broker.port);
    let (gateway, agent) = gateway("gw1", broker.port, &operator, "");
    let events = Subscriber::start(broker.port, "porin/v1/gw/gw1/event");
    let cell = operator.path("mark.wasm");
    fs::write(&cell, marking_cell(4)).expect("written");

    // With two slots it has to be said which.
    let (code, _, stderr) = operator.push(&cell, "gw1", &[]);
    assert!(code == Some(2) && stderr.contains("which slot? mark, quiet"), "{stderr}");
    let (code, _, stderr) = operator.push(&cell, "gw1", &["--slot", "loud"]);
    assert!(code == Some(2) && stderr.contains("there is no slot `loud`"), "{stderr}");
    let (code, said, stderr) = operator.push(&cell, "gw1", &["--slot", "mark", "--seq", "1"]);
    assert_eq!((code, &said["gateways"]["gw1"]["state"]), (Some(0), &json!("confirmed")), "{stderr}");
    assert!(said["decisions"].as_array().is_some_and(|packets| packets.len() == 3), "{said}");
    assert!(["shadow", "canary", "confirmed"].iter().all(|word| stderr.contains(word)), "{stderr}");
    // What came out of both, before it is kept.
    let lines: Vec<_> = stderr.lines().filter(|line| line.contains("canary (compared: mark: old: ")).collect();
    assert!(!lines.is_empty(), "{stderr}");
    for line in lines {
        let inputs: Vec<_> = line.split(" of ").skip(1).map(|rest| rest.split([',', ')']).next()).collect();
        assert!(inputs.len() == 2 && inputs[0] == inputs[1], "both on the same packets: {line}");
    }
    assert_eq!(from(&gateway, "mark"), "release acme/mark 0.1.0, number 1");
    assert!(from(&gateway, "quiet").ends_with("deadband.wasm"), "the other slot keeps the owner's own");
    let told: Vec<_> = events.received().into_iter().map(|(_, event)| event["event"].clone()).collect();
    assert_eq!(told, ["accepted", "shadow", "canary", "confirmed"].map(Value::from));

    // A parameter changes without a new cell.
    let stock = target_dir().join("cells/deadband.wasm");
    let (code, _, stderr) =
        operator.push(&stock, "gw1", &["--slot", "quiet", "--config", "absolute=0.25", "--seq", "1"]);
    assert_eq!(code, Some(0), "{stderr}");
    let shown = operator.json(&["desired", "show", "gw1"]);
    let text = shown["set"].as_str().expect("text");
    assert!(text.contains("absolute = 0.25"), "{shown}");
    assert_eq!(operator.json(&["desired", "diff", "gw1"])["same"], true);
    let status = gateway.status().expect("it runs");
    let from_state = format!("desired state {} for gw/gw1", shown["seq"]);
    assert_eq!(status["update"]["cells_from"], from_state);

    // A cell that forwards nothing is rolled back by itself, and what differs is shown.
    let bad = operator.path("bad.wasm");
    fs::write(&bad, WatCell { process: EMPTY, ..WatCell::default() }.build()).expect("written");
    let (code, said, stderr) = operator.push(&bad, "gw1", &["--slot", "mark", "--passes", "50..100", "--seq", "2"]);
    assert_eq!((code, &said["gateways"]["gw1"]["reason"]), (Some(5), &json!("output-ratio")), "{stderr}");
    assert!(stderr.contains("rolled-back") && stderr.contains("what ran before runs on"), "{stderr}");
    assert_eq!(from(&gateway, "mark"), "release acme/mark 0.1.0, number 1");
    let (code, stdout, _) = operator.run(&["desired", "diff", "gw1"]);
    assert!(code == Some(3) && stdout.contains("rolled-back") && stdout.contains("+ cell"), "{stdout}");

    // Who has other keys is not believed, whatever the broker lets him publish.
    let stranger = Operator::new(broker.port);
    let (code, said, stderr) = stranger.push(&cell, "gw1", &["--slot", "mark"]);
    assert_eq!((code, &said["gateways"]["gw1"]["reason"]), (Some(5), &json!("too-few-signatures")), "{stderr}");
    let (code, _, stderr) = operator.run(&["desired", "show", "gw1"]);
    assert!(code == Some(1) && stderr.contains("not signed by an operator who counts"), "{stderr}");

    // The last word is the operator's again: what runs, from a file, with one parameter otherwise.
    let file = operator.path("set.toml");
    fs::write(&file, text.replace("absolute = 0.25", "absolute = 0.3")).expect("written");
    let applied = operator.json(&["desired", "apply", &file.display().to_string(), "--to", "gw1"]);
    assert_eq!(applied["gateways"]["gw1"]["state"], "confirmed");
    fs::write(&file, "[slots.mark]\ncell = \"/etc/passwd\"\n").expect("written");
    let (code, _, stderr) = operator.run(&["desired", "apply", &file.display().to_string(), "--to", "gw1"]);
    assert!(code == Some(2) && stderr.contains("line 2") && stderr.contains("a desired state names"), "{stderr}");

    // What nobody names any more goes; what runs stays.
    let gone = operator.json(&["prune", "--dry-run", "--younger", "0s"]);
    assert_eq!((gone["gone"].as_array().map(Vec::len), &gone["kept_releases"]), (Some(3), &json!(2)), "{gone}");
    assert_eq!(operator.json(&["prune", "--dry-run"])["gone"], json!([]), "younger than an hour");
    operator.json(&["prune", "--younger", "0s"]);
    assert_eq!(operator.json(&["prune", "--dry-run", "--younger", "0s"])["gone"], json!([]));
    let listed = operator.json(&["ls", "gw1"]);
    assert_eq!((&listed["online"], &listed["state"]), (&json!("online"), &json!("confirmed")));

    // Back: to the parameter before, then to what the owner has in one slot.
    let quick = ["--shadow", "200ms", "--canary", "200ms", "--packets", "20"];
    operator.json(&[&["rollback", "gw1", "quiet"][..], &quick].concat());
    let text = operator.json(&["desired", "show", "gw1"])["set"].to_string();
    assert!(text.contains("absolute = 0.25"), "{text}");
    assert_eq!(from(&gateway, "mark"), "release acme/mark 0.1.0, number 1");
    operator.json(&[&["rollback", "gw1", "mark"][..], &quick].concat());
    assert!(from(&gateway, "mark").ends_with("own.wasm") && !from(&gateway, "quiet").ends_with("deadband.wasm"));
    drop(agent);
}

#[test]
fn what_a_gateway_has_recorded_is_fetched_by_its_operator_and_by_nobody_else() {
    let broker = Broker::mosquitto();
    let operator = Operator::new(broker.port);
    let rest = "[updates]\nroot = \"HERE/root-1\"\n[sources.sim.simulator]\nstreams = \"s/{n}\"\ncount = 4\nevery = \"1ms\"\nreadings = 2000\n\
        [slots.quiet]\ncell = \"CELLS/deadband.wasm\"\nparams = { absolute = 1000.0 }\n[routes.all]\nstreams = [\"s/#\"]\nslots = [\"quiet\"]\n\
        record = { time = \"10min\" }\n[routes.other]\nstreams = [\"s/1\"]\n";
    let gateway = Gateway::new("gw1", broker.port, rest);
    fs::copy(operator.keys().join("root-1"), gateway.path("root-1")).expect("copied");
    let _agent = gateway.run(&[]);
    Accounts::of(&broker).wait("gw1", "it is there", |_| true);
    wait_until("everything was made", || {
        gateway.status().is_some_and(|status| status["sources"][0]["received"] == 2_000)
    });
    let file = operator.path("recorded.csv");
    let path = file.display().to_string();
    let (code, _, stderr) = operator.run(&["record", "gw1", "--route", "all", "--out", &path]);
    assert_eq!(code, Some(0), "{stderr}");
    let text = fs::read_to_string(&file).expect("it is there");
    assert_eq!(
        (text.lines().next(), text.lines().count()),
        (Some("timestamp,channel,value"), 2_001),
        "what entered, not what came out"
    );
    // A replay reads it.
    let again = "[sources.again.replay]\nfile = \"FILE\"\nstreams = \"{channel}\"\nspeed = \"max\"\n[routes.all]\nstreams = [\"#\"]\n";
    let status = Gateway::new("gw2", broker.port, &again.replace("FILE", &path)).run_to_the_end();
    assert_eq!((&status["sources"][0]["received"], &status["sources"][0]["bad_rows"]), (&json!(2_000), &json!(0)));
    let (code, _, stderr) = operator.run(&["record", "gw1", "--route", "other"]);
    assert!(code == Some(1) && stderr.contains("recorded nothing"), "{stderr}");
    // Others are not answered.
    let stranger = Operator::new(broker.port);
    let (code, stdout, stderr) = stranger.run(&["record", "gw1", "--route", "all"]);
    assert!(code == Some(4) && stdout.is_empty() && stderr.contains("no answer"), "{stderr}");
}

#[test]
fn a_parameter_is_removed_and_another_cell_gets_none_of_the_one_before() {
    let broker = Broker::mosquitto();
    let operator = Operator::new(broker.port);
    let (_gateway, agent) = gateway("gw1", broker.port, &operator, "");
    let stock = target_dir().join("cells/deadband.wasm");
    let (code, _, stderr) =
        operator.push(&stock, "gw1", &["--slot", "quiet", "--config", "absolute=0.25", "--seq", "1"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, _, stderr) = operator.push(&stock, "gw1", &["--slot", "quiet", "--unset", "loudness", "--seq", "2"]);
    assert!(code == Some(2) && stderr.contains("--unset loudness: the slot has no such parameter"), "{stderr}");
    // What the cell refuses ends at once, in its words.
    let refused = ["--slot", "quiet", "--unset", "absolute", "--config", "percent=1", "--seq", "2"];
    let (code, said, stderr) = operator.push(&stock, "gw1", &refused);
    assert_eq!((code, &said["gateways"]["gw1"]["reason"]), (Some(5), &json!("unfit")), "{stderr}");
    assert!(stderr.contains("parameter `span` of stream `s/2`: missing") && !stderr.contains("shadow"), "{stderr}");
    let more = ["--slot", "quiet", "--config", "max_silence_s=60", "--seq", "3"];
    let (code, _, stderr) = operator.push(&stock, "gw1", &more);
    assert_eq!(code, Some(0), "{stderr}");
    let set = || operator.json(&["desired", "show", "gw1"])["set"].as_str().expect("text").to_owned();
    assert!(set().contains("max_silence_s = 60") && set().contains("absolute = 0.25"), "{}", set());
    assert_eq!(operator.push(&stock, "gw1", &["--slot", "quiet", "--unset", "max_silence_s", "--seq", "4"]).0, Some(0));
    assert!(!set().contains("max_silence_s") && set().contains("absolute = 0.25"), "{}", set());
    // Another cell does not get the parameters of the one before.
    let scale = target_dir().join("cells/scale.wasm");
    // It passes everything, where the one before may just have passed nothing.
    let other = ["--slot", "quiet", "--config", "gain=1.0", "--passes", "50..100", "--seq", "1"];
    let (code, _, stderr) = operator.push(&scale, "gw1", &other);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("absolute of acme/deadband do not go over to acme/scale"), "{stderr}");
    assert!(!set().contains("absolute"), "{}", set());
    drop(agent);
}

#[test]
fn a_group_is_pushed_to_at_once_and_a_gateway_that_wants_its_word_back_is_enrolled_by_itself() {
    let broker = Broker::mosquitto();
    let operator = Operator::new(broker.port);
    let groups = "groups = [\"north\"]\nboard = \"rpi-4b\"\n";
    // One is called as a part of the topics is.
    let gateways = ["gw1", "root"].map(|id| gateway(id, broker.port, &operator, groups));
    let (outside, _agent) = gateway("group", broker.port, &operator, "groups = [\"south\"]\n");
    let accounts = Accounts::of(&broker);
    for id in ["gw1", "root", "group"] {
        accounts.wait(id, "it is there", |_| true);
    }
    let cell = operator.path("mark.wasm");
    fs::write(&cell, marking_cell(4)).expect("written");
    let (code, said, stderr) =
        operator.push(&cell, "group:north", &["--slot", "mark", "--board", "rpi-4b", "--seq", "1"]);
    assert_eq!(code, Some(0), "{stderr}");
    let ended = said["gateways"].as_object().expect("gateways");
    assert!(ended.keys().eq(["gw1", "root"]) && ended.values().all(|end| end["state"] == "confirmed"), "{said}");
    gateways.iter().for_each(|(gateway, _)| assert_eq!(from(gateway, "mark"), "release acme/mark 0.1.0, number 1"));
    assert!(from(&outside, "mark").ends_with("own.wasm"));
    // A gateway's own desired state wins over its group's, also when the group's changes.
    fs::write(&cell, marking_cell(8)).expect("written");
    let (code, _, stderr) = operator.push(&cell, "gw1", &["--slot", "mark", "--seq", "2"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (gw1, root) = (&gateways[0].0, &gateways[1].0);
    assert_eq!(
        (from(gw1, "mark"), from(root, "mark")),
        ("release acme/mark 0.1.0, number 2".into(), "release acme/mark 0.1.0, number 1".into())
    );
    // One that comes later takes up what is there for its group, and says that it cannot tell how old it is. The next push proves it.
    let (late, _later) = gateway("late", broker.port, &operator, groups);
    accounts.wait("late", "it runs what its group does", |account| {
        account.state.name() == "confirmed"
            && account.reason.as_ref().is_some_and(|reason| reason.code == Code::Unproven)
    });
    assert_eq!(from(&late, "mark"), "release acme/mark 0.1.0, number 1");
    let (code, said, stderr) = operator.push(&cell, "group:north", &["--slot", "mark", "--seq", "3"]);
    assert_eq!((code, &said["gateways"]["late"]["state"]), (Some(0), &json!("confirmed")), "{stderr}");
    assert_eq!(from(&late, "mark"), "release acme/mark 0.1.0, number 3");
    accounts.wait("late", "it is proven", |account| account.nonce.is_none() && account.reason.is_none());
    // Nobody is there who could.
    let (code, _, stderr) = operator.push(&cell, "gw9", &["--slot", "mark"]);
    assert!(code == Some(4) && stderr.contains("no gateway `gw9`"), "{stderr}");
    wait_until("all are listed", || {
        let (_, stdout, _) = operator.run(&["ls", "--json"]);
        stdout.lines().count() == 4
    });
}

#[test]
fn nothing_is_signed_of_what_somebody_else_says_that_a_gateway_runs() {
    let broker = Broker::mosquitto();
    let operator = Operator::new(broker.port);
    let (gateway, _agent) = gateway("gw1", broker.port, &operator, "");
    let accounts = Accounts::of(&broker);
    let cell = operator.path("mark.wasm");
    fs::write(&cell, marking_cell(4)).expect("written");
    assert_eq!(operator.push(&cell, "gw1", &["--slot", "mark", "--seq", "1"]).0, Some(0));
    // Whoever may publish there says that it runs something else, and knows the highest number there is.
    let account = accounts.last("gw1").expect("it reports");
    let known = account.known.iter().map(|(target, _)| (target.clone(), u64::MAX)).collect();
    let set = account.set.replace("\"s/1\"", "\"#\"");
    let forged = Reported { key: authority::key(authority::STRANGER), known, set, ..account };
    let topic = "porin/v1/gw/gw1/reported".to_owned();
    accounts.retain(&[(topic.clone(), authority::signed(&forged, &[authority::STRANGER]))]);
    let push = |more: &[&str]| operator.push(&cell, "gw1", &[&["--slot", "mark", "--seq", "2"], more].concat());
    let (code, _, stderr) = push(&[]);
    assert!(code == Some(5) && stderr.contains("another key than before"), "{stderr}");
    assert_eq!(from(&gateway, "mark"), "release acme/mark 0.1.0, number 1");
    // Also where its key is taken: no number of another day, and what it says that it runs is not what is signed.
    let (code, _, stderr) = push(&["--new-key"]);
    assert!(code == Some(5) && stderr.contains("- routes.all.streams = [\"#\"]"), "{stderr}");
    let path = cell.display().to_string();
    let (_, _, stderr) =
        operator.run(&["push", &path, "--to", "gw1", "--slot", "mark", "--seq", "3", "--yes", "--wait", "2s"]);
    assert!(stderr.contains("left out of account"), "{stderr}");
    assert!(operator.json(&["desired", "show", "gw1"])["set"].to_string().contains("s/1"));
    let text = fs::read_dir(operator.keys().join("desired/gw-gw1")).expect("it is there").count();
    assert_eq!(text, 3, "number 0 and two that were signed");
}

#[test]
fn a_report_that_the_broker_gives_back_makes_no_operator_sign_what_ran_then() {
    let broker = Broker::mosquitto();
    let operator = Operator::new(broker.port);
    let (gateway, mut agent) = gateway("gw1", broker.port, &operator, "");
    let (accounts, topic) = (Accounts::of(&broker), "porin/v1/gw/gw1/reported");
    let reports = Subscriber::start(broker.port, topic);
    let cell = operator.path("mark.wasm");
    let mark = |marks: u32, seq: &str| {
        fs::write(&cell, marking_cell(marks)).expect("written");
        operator.push(&cell, "gw1", &["--slot", "mark", "--seq", seq])
    };
    let stock = target_dir().join("cells/deadband.wasm");
    let quiet = |absolute: &str, seq: &str, more: &[&str]| {
        let config = format!("absolute={absolute}");
        operator.push(&stock, "gw1", &[&["--slot", "quiet", "--config", &config, "--seq", seq], more].concat())
    };
    assert_eq!(mark(4, "1").0, Some(0));
    accounts.wait("gw1", "the first is kept", |account| account.state.name() == "confirmed");
    let old = reports.publishes().pop().expect("it reports").payload;
    let (code, _, stderr) = mark(8, "2");
    assert_eq!(code, Some(0), "{stderr}");

    // It is signed by the gateway itself. Who pushed meanwhile knows better.
    accounts.retain(&[(topic.into(), old)]);
    let (code, _, stderr) = quiet("0.25", "1", &[]);
    assert!(code == Some(5) && stderr.contains("what gw1 reports is older than what was seen of it"), "{stderr}");
    assert_eq!(from(&gateway, "mark"), "release acme/mark 0.1.0, number 2");

    // A new store is another key, and the gateway runs what its owner has: nothing of that becomes the new set without a word.
    agent.kill();
    fs::remove_file(gateway.path("porin.redb")).expect("removed");
    agent = gateway.run(&["--json"]);
    accounts.wait("gw1", "it begins anew", |account| account.nonce.is_some());
    let (code, _, stderr) = quiet("0.25", "2", &[]);
    assert!(code == Some(5) && stderr.contains("another key than before"), "{stderr}");
    let (code, _, stderr) = quiet("0.25", "3", &["--new-key"]);
    assert!(code == Some(5) && stderr.contains("+ slots.mark.cell = \"release:"), "{stderr}");
    assert!(stderr.contains("more than slot `quiet`; nothing was signed"), "{stderr}");
    let (code, _, stderr) = quiet("0.25", "4", &["--yes"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(from(&gateway, "mark"), "release acme/mark 0.1.0, number 2", "as it was signed last");
    drop(agent);
}

#[test]
fn exchanged_keys_are_believed_and_the_old_ones_are_not_any_more() {
    let broker = Broker::mosquitto();
    let operator = Operator::new(broker.port);
    let (gateway, _agent) = gateway("gw1", broker.port, &operator, "");
    let cell = operator.path("mark.wasm");
    fs::write(&cell, marking_cell(4)).expect("written");
    let push = |seq: &str| operator.push(&cell, "gw1", &["--slot", "mark", "--seq", seq]);
    assert_eq!(push("1").0, Some(0));
    // The thief has a copy of the operator's key, from before it is exchanged.
    let thief = Operator::new(broker.port);
    for file in ["operator.pem", "publisher.pem", "root-1"] {
        fs::copy(operator.keys().join(file), thief.keys().join(file)).expect("copied");
    }
    operator.json(&["keys", "rotate", "operator"]);
    let (code, _, stderr) = push("2");
    assert_eq!(code, Some(0), "{stderr}");
    let listed = operator.json(&["ls", "gw1"]);
    assert_eq!((&listed["root"], from(&gateway, "mark").as_str()), (&json!(2), "release acme/mark 0.1.0, number 2"));
    let (code, said, stderr) = thief.push(&cell, "gw1", &["--slot", "mark", "--seq", "3"]);
    assert_eq!((code, &said["gateways"]["gw1"]["reason"]), (Some(5), &json!("too-few-signatures")), "{stderr}");
    assert_eq!(from(&gateway, "mark"), "release acme/mark 0.1.0, number 2");
}
