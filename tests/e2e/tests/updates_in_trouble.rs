//! Updates while the agent is killed, the link is cut, the broker loses a node, and beside gateways that must not meddle.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use porin_e2e::{
    Accounts, Broker, Cable, Gateway, Numbers, Operator, Plugged, Random, Subscriber, free_port, nats::Nats,
    wait_until, wire::Wire,
};
use porin_test_support::{
    authority::{Published, first_root, order, published},
    largest_marking_cell, marking_cell, top,
};
use tempfile::TempDir;

const UPDATES: &str = "[updates]\nroot = \"HERE/root-1\"\n";

const ROUTES: &str = "[slots.mark]\ncell = \"HERE/own.wasm\"\n[routes.all]\nstreams = [\"#\"]\nslots = [\"mark\"]\n\
    encoding = \"compact\"\nbatch = { packets = 50 }\n";

fn gateway(id: &str, port: u16, sources: &str) -> Gateway {
    let gateway = Gateway::new(id, port, &format!("{UPDATES}{sources}{ROUTES}"));
    fs::write(gateway.path("root-1"), first_root()).expect("written");
    fs::write(gateway.path("own.wasm"), marking_cell(0)).expect("written");
    gateway
}

fn set(published: &Published, slot: &str, proof: &str) -> String {
    let slot = format!("cell = \"release:{}\"\n{slot}", published.digest);
    format!("[probation]\n{proof}\n{}", ROUTES.replace("cell = \"HERE/own.wasm\"", &slot))
}

const KILLS: u64 = 100;

#[test]
fn a_hundred_kills_during_updates_end_in_the_newest_set_and_lose_nothing() {
    let keeps = "persistence true\nmax_inflight_messages 200\nmax_queued_messages 0";
    let (local, cloud) = (Broker::mosquitto_with(keeps), Broker::mosquitto_with("max_queued_messages 0"));
    let (accounts, subscriber) = (Accounts::of(&cloud), Subscriber::start(cloud.port, "porin/v1/gw/gw1/data/#"));
    let source = format!(
        "[sources.local.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nwindow = 200\n[[sources.local.mqtt.topics]]\nfilter = \"n/{{stream}}\"\n\
         payload = \"number\"\nstream = \"{{stream}}\"\n",
        local.port
    );
    let gateway = gateway("gw1", cloud.port, &source);
    let mut agent = gateway.run(&[]);
    wait_until("the session stands", || gateway.log().contains("listening to the local broker"));
    let publisher = Numbers::publish(local.port, 200, Duration::ZERO);
    let versions = [published(&marking_cell(4), 1_000), published(&largest_marking_cell(8), 1_001)];
    versions.iter().for_each(|version| accounts.retain(&version.publishes));
    let proof = "shadow = \"50ms\"\ncanary = \"50ms\"\npackets = 10";
    let to_run = |seq: u64| {
        set(&versions[usize::from(seq.is_multiple_of(2))], &format!("retry = {seq}\nmin_seq = {}", seq * 9), proof)
    };
    accounts.retain(&[order("gw1", 1, accounts.nonce("gw1"), &to_run(1))]);
    // From then on it knows what is older.
    wait_until("the first is taken up", || accounts.last("gw1").is_some_and(|account| account.nonce.is_none()));
    let mut random = Random::new(6);
    for seq in 2..2 + KILLS {
        accounts.retain(&[order("gw1", seq, None, &to_run(seq))]);
        thread::sleep(Duration::from_millis(random.below(450)));
        agent.kill();
        agent = gateway.run(&[]);
    }
    let last = 1 + KILLS;
    assert_eq!(accounts.end_of("gw1", last), ("confirmed".into(), String::new()));
    let floors: Vec<_> =
        accounts.all("gw1").iter().filter_map(|account| account.floors.first().map(|floor| floor.1)).collect();
    assert!(floors.is_sorted() && floors.last() == Some(&(last * 9)), "{floors:?}");
    let kept = accounts.all("gw1").iter().filter(|account| account.state.name() == "confirmed").count();
    eprintln!("{KILLS} kills, {kept} reports of a set that was kept");
    let made = publisher.stop();
    let numbers = || subscriber.numbers("/data/");
    wait_until("everything is there", || numbers().len() as u64 >= made);
    assert!(numbers().into_iter().eq(0..made));
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    drop(agent);
}

#[test]
fn a_link_that_is_cut_at_each_piece_brings_each_piece_once_and_the_largest_cell_costs_60_kb() {
    let broker = Broker::mosquitto();
    let accounts = Accounts::of(&broker);
    let cell = largest_marking_cell(4);
    let new = published(&cell, 1);
    accounts.retain(&new.publishes);
    let proof = "shadow = \"0s\"\ncanary = \"0s\"";
    let push = |id: &str, cut_at: &[u8]| {
        let wire = Wire::to(broker.port, cut_at);
        let gateway = gateway(id, 1, "")
            .edit("mqtt://127.0.0.1:1\"", &format!("mqtt://127.0.0.1:{}\"\nreconnect = \"10ms\"", wire.port));
        let agent = gateway.run(&[]);
        let nonce = accounts.nonce(id);
        let (before, start) = (wire.bytes(), Instant::now());
        accounts.retain(&[order(id, 1, nonce, &set(&new, "", proof))]);
        assert_eq!(accounts.end_of(id, 1), ("confirmed".into(), String::new()));
        let (bytes, took) = (wire.bytes() - before, start.elapsed());
        let pieces = wire.pieces();
        drop(agent);
        assert!(pieces.keys().copied().eq(0..7) && pieces.values().all(|times| *times == 1), "{pieces:?}");
        (bytes, took, wire.cuts())
    };
    let (bytes, took, _) = push("gw1", &[]);
    eprintln!("{} bytes of a component in {bytes} bytes both ways and {} ms", cell.len(), took.as_millis());
    assert!(bytes <= 60_000, "{bytes}");
    let (bytes, took, cuts) = push("gw2", &[0, 1, 2, 3, 4, 5, 6]);
    eprintln!("with {cuts} cuts {bytes} bytes and {} ms", took.as_millis());
    assert_eq!(cuts, 7);
}

/// MQTT 3.1.1 at a broker of three nodes, of which the gateway's own is killed as soon as it knows what it is to run.
#[test]
fn a_push_while_a_node_of_the_broker_dies_converges() {
    let mut nats = Nats::start();
    let ports = nats.ports();
    let cable = Cable::to_any(&ports[..2], Plugged::In);
    let uplink = format!(
        "mqtt://127.0.0.1:{}\"\nprotocol = \"3.1.1\"\nkeep_alive = \"5s\"\nreconnect = \"200ms\"\nclient_id = \"porin-gw1",
        cable.port
    );
    let gateway = gateway("gw1", 1, "").edit("mqtt://127.0.0.1:1", &uplink);
    let operator = Operator::new(ports[2]);
    fs::copy(operator.keys().join("root-1"), gateway.path("root-1")).expect("copied");
    let agent = gateway.run(&[]);
    let cell = operator.path("mark.wasm");
    fs::write(&cell, marking_cell(4)).expect("written");
    wait_until("it is connected", || gateway.log().contains("connected to the broker"));
    thread::scope(|scope| {
        let push = scope.spawn(|| {
            let cell = cell.display().to_string();
            let quick = ["--shadow", "0s", "--canary", "0s", "--wait", "60s", "--mqtt", "3.1.1", "--json"];
            operator.run(&[&["push", &cell, "--to", "gw1"][..], &quick].concat())
        });
        wait_until("the gateway knows of it, or the push has failed", || {
            push.is_finished() || gateway.log().contains("what=\"accepted\"")
        });
        nats.kill(0);
        let (code, stdout, stderr) = push.join().expect("no panic");
        // The cluster may take minutes to be one again: the push stops watching, the gateway goes on.
        assert!(code == Some(0) || code == Some(4), "{code:?} {stdout} {stderr} {}", gateway.log());
    });
    wait_until("it converges", || gateway.status().is_some_and(|status| status["update"]["state"] == "confirmed"));
    let status = gateway.status().expect("it runs");
    let from = &status["routes"][0]["slots"][0]["from"];
    assert!(from.as_str().is_some_and(|from| from.starts_with("release acme/mark ")), "{from}");
    drop(agent);
}

/// The file that `docs/cloud` recommends, with a gateway that has the name of a part of the topics.
#[test]
fn with_our_acl_each_gateway_has_its_own_topics_and_no_other() {
    let folder = TempDir::new().expect("a folder");
    let guarded = free_port();
    let acl = folder.path().join("acl");
    fs::copy(top().join("docs/cloud/mosquitto.acl"), &acl).expect("it is there");
    // mosquitto reads it as the user that it becomes.
    let lines = format!("listener {guarded} 127.0.0.1\nallow_anonymous true\nacl_file {}", acl.display());
    let broker = Broker::mosquitto_with_each(&lines);
    let operator = Operator::new(broker.port);
    let start = |id: &str| {
        let login =
            format!("mqtt://127.0.0.1:{guarded}\"\nlogin = {{ username = \"{id}\" }}\nclient_id = \"porin-{id}");
        let sources = "[sources.sim.simulator]\nstreams = \"s/{n}\"\ncount = 4\nevery = \"5ms\"\n";
        let gateway = Gateway::new(id, 1, &format!("{UPDATES}{sources}{ROUTES}")).edit("mqtt://127.0.0.1:1", &login);
        fs::copy(operator.keys().join("root-1"), gateway.path("root-1")).expect("copied");
        fs::write(gateway.path("own.wasm"), marking_cell(0)).expect("written");
        let agent = gateway.run(&[]);
        (gateway, agent)
    };
    let gateways = ["gw1", "root"].map(start);
    let accounts = Accounts::of(&broker);
    let cell = operator.path("mark.wasm");
    fs::write(&cell, marking_cell(4)).expect("written");
    let url = format!("mqtt://127.0.0.1:{guarded}");
    for id in ["gw1", "root"] {
        accounts.wait(id, "it is there", |_| true);
        // The operator is held to the file as well.
        let (code, said, stderr) =
            operator.push(&cell, id, &["--broker", &url, "--username", "_operator", "--seq", "1"]);
        assert_eq!(code, Some(0), "{said} {stderr}");
    }
    let client = |program: &str, user: &str, topic: &str, more: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-V", "5", "-q", "1", "-p", &guarded.to_string(), "-u", user, "-t", topic]).args(more);
        let output = command.output().expect("it is installed");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let reads = |user: &str, topic: &str| {
        let (_, came, _) = client("mosquitto_sub", user, topic, &["-C", "1", "-W", "2", "-F", "%t"]);
        came.trim() == topic
    };
    assert!(reads("root", "porin/v1/gw/root/desired") && reads("_operator", "porin/v1/gw/gw1/reported"));
    assert!(reads("_cloud", "porin/v1/gw/gw1/state"));
    for other in ["porin/v1/gw/gw1/desired", "porin/v1/gw/gw1/reported"] {
        assert!(!reads("root", other) && !reads("_cloud", other), "{other}");
    }
    assert!(!reads("root", "porin/v1/gw/gw1/state"));
    // The broker answers each publish with a reason: 135 is "not authorized".
    let writes = |user: &str, topic: &str| {
        let (_, stdout, stderr) = client("mosquitto_pub", user, topic, &["-d", "-m", "x"]);
        let after =
            stdout.split("received PUBACK").nth(1).and_then(|rest| rest.split("RC:").nth(1)).unwrap_or_default();
        let reason: String = after.chars().take_while(char::is_ascii_digit).collect();
        match reason.as_str() {
            // 16: there is no subscriber.
            "0" | "16" => true,
            "135" => false,
            _ => panic!("{user} on {topic}: {stdout}{stderr}"),
        }
    };
    assert!(writes("root", "porin/v1/gw/root/data/x"));
    for other in
        ["porin/v1/gw/gw1/data/x", "porin/v1/gw/root/desired", "porin/v1/fleet/root/2", "porin/v1/group/x/desired"]
    {
        assert!(!writes("root", other), "{other}");
    }
    assert!(
        gateways.iter().all(|(gateway, _)| !gateway.log().contains("refuses a subscription")),
        "{}",
        gateways[1].0.log()
    );
}
