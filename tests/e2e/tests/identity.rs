//! TLS, certificates, passwords and permissions, against mosquitto: what is right connects, what is wrong says what it is.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use porin_e2e::{
    Broker, Gateway, Signal, Subscriber,
    certificates::{Authority, Days, Pair, VALID},
    free_port, porind, wait_until,
};
use serde_json::Value;
use tempfile::TempDir;

/// Some packets, and where they go.
const ROUTES: &str = "[sources.sim.simulator]\nstreams = \"sim/{n}\"\ncount = 5\nspeed = \"max\"\nreadings = 500\n\
                      [routes.all]\nstreams = [\"#\"]\n[routes.secret]\nstreams = [\"sim/1\"]\ntopic = \"private/{gw}\"\n";

/// A mosquitto that speaks TLS, and plainly to the test.
struct Secure {
    folder: TempDir,
    tls_port: u16,
    broker: Broker,
}

/// What makes a gateway known: nothing, or a certificate.
enum Client<'a> {
    Unknown,
    Known(&'a Pair),
}

fn secret(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its owner is us");
}

impl Secure {
    /// `clients`: who vouches for gateways; without it none needs a certificate.
    fn start(server: &Pair, clients: Option<&Authority>) -> Self {
        let folder = TempDir::new().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        secret(&place("server.pem"), &server.cert);
        secret(&place("server.key"), &server.key);
        let mut lines = format!(
            "listener {{TLS}} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
            place("server.pem").display(),
            place("server.key").display()
        );
        if let Some(clients) = clients {
            fs::write(place("clients.pem"), &clients.pem).expect("written");
            lines += &format!(
                "cafile {}\nrequire_certificate true\nuse_identity_as_username true\n",
                place("clients.pem").display()
            );
        }
        let tls_port = free_port();
        let broker = Broker::mosquitto_with(&lines.replace("{TLS}", &tls_port.to_string()));
        Self { folder, tls_port, broker }
    }

    /// A gateway that asks for `host`, believes `authority`, and shows what it has.
    fn gateway(&self, host: &str, authority: &Authority, client: &Client<'_>, protocol: &str) -> Gateway {
        let place = |name: &str| self.folder.path().join(name);
        fs::write(place("ca.pem"), &authority.pem).expect("written");
        let mut tls = format!("ca_file = \"{}\"", place("ca.pem").display());
        if let Client::Known(pair) = client {
            secret(&place("client.pem"), &pair.cert);
            secret(&place("client.key"), &pair.key);
            let (cert, key) = (place("client.pem"), place("client.key"));
            tls += &format!(", cert_file = \"{}\", key_file = \"{}\"", cert.display(), key.display());
        }
        let broker = format!(
            "mqtts://{host}:{}\"\nprotocol = \"{protocol}\"\ntls = {{ {tls} }}\nreconnect = \"10ms",
            self.tls_port
        );
        Gateway::new("lab", 1, ROUTES).edit("mqtt://127.0.0.1:1", &broker)
    }
}

/// Runs until the status says why there is no connection.
fn reason(gateway: &Gateway) -> String {
    let mut agent = gateway.run(&[]);
    let mut error = None;
    wait_until("it says what is wrong", || {
        error = gateway.status().and_then(|status| status["uplink"]["last_error"].as_str().map(str::to_owned));
        error.is_some()
    });
    agent.kill();
    error.unwrap_or_default()
}

fn delivers(gateway: &Gateway, port: u16) -> Value {
    let subscriber = Subscriber::start(port, "porin/v1/gw/lab/data/#");
    let status = gateway.run_to_the_end();
    wait_until("everything is there", || subscriber.packets().len() == 500);
    status
}

#[test]
fn a_gateway_and_a_broker_that_know_each_other_connect() {
    let (ours, theirs) = (Authority::new("gateways"), Authority::new("brokers"));
    let secure = Secure::start(&theirs.server(&["localhost"], VALID), Some(&ours));
    let client = ours.client("lab", (-1, 20));
    for protocol in ["5", "3.1.1"] {
        let gateway = secure.gateway("localhost", &theirs, &Client::Known(&client), protocol);
        let status = delivers(&gateway, secure.broker.port);
        assert_eq!(status["imbalance"], Value::Array(vec![]));
        let certificates = status["uplink"]["certificates"].as_array().expect("a list");
        let names: Vec<_> = certificates.iter().map(|file| file["file"].as_str().unwrap_or_default()).collect();
        assert!(names[0].ends_with("ca.pem") && names[1].ends_with("client.pem"), "{status}");
        assert!(certificates[1]["not_after_s"].as_u64() < certificates[0]["not_after_s"].as_u64());
        let _agent = gateway.run(&[]);
        wait_until("it warns", || gateway.log().contains("a certificate expires soon"));
        assert!(gateway.log().contains("days=19"), "{}", gateway.log());
    }
}

#[test]
fn whatever_is_wrong_with_a_certificate_is_said_in_words_that_help() {
    let (ours, theirs, others) = (Authority::new("gateways"), Authority::new("brokers"), Authority::new("others"));
    let check = |server: &Pair, believes: &Authority, client: &Client<'_>, expected: &str| {
        let secure = Secure::start(server, Some(&ours));
        for protocol in ["5", "3.1.1"] {
            let said = reason(&secure.gateway("localhost", believes, client, protocol));
            assert!(said.contains(expected), "{protocol}: {said:?} does not say {expected:?}");
        }
    };
    let server = |names: &[&str], days: Days| theirs.server(names, days);
    let good = server(&["localhost"], VALID);
    let known = ours.client("lab", VALID);
    let known = Client::Known(&known);
    check(&good, &others, &known, "not by anybody in `ca_file`");
    let elsewhere = server(&["broker.example", "mqtt.example"], VALID);
    let words = "the broker's certificate is for `broker.example`, `mqtt.example`, you asked for `localhost`";
    check(&elsewhere, &theirs, &known, words);
    check(&server(&["localhost"], (-30, -2)), &theirs, &known, "the broker's certificate has expired on 20");
    // One that has not begun: see `once_the_clock_is_set_a_connection_is_made_again_and_the_beginning_is_judged_too`.
    check(&good, &theirs, &Client::Unknown, "set tls.cert_file and tls.key_file");
    check(&good, &theirs, &Client::Known(&others.client("lab", VALID)), "does not know the CA of our certificate");
    check(&good, &theirs, &Client::Known(&ours.client("lab", (-30, -2))), "our certificate has expired");
    check(&good, &theirs, &Client::Known(&ours.client("lab", (2, 30))), "is it valid yet");
}

#[test]
fn a_port_that_speaks_the_other_language_is_named() {
    let theirs = Authority::new("brokers");
    let secure = Secure::start(&theirs.server(&["localhost"], VALID), None);
    let plain = secure.gateway("localhost", &theirs, &Client::Unknown, "5");
    let plain = plain.edit(&format!("localhost:{}", secure.tls_port), &format!("localhost:{}", secure.broker.port));
    let said = reason(&plain);
    assert!(said.contains("TLS") || said.contains("reset"), "{said}");
}

#[test]
fn files_that_cannot_be_used_start_nothing_and_say_why() {
    let (ours, theirs) = (Authority::new("gateways"), Authority::new("brokers"));
    let secure = Secure::start(&theirs.server(&["localhost"], VALID), Some(&ours));
    let client = ours.client("lab", VALID);
    let check = |spoil: &dyn Fn(&Path), expected: &str| {
        let gateway = secure.gateway("localhost", &theirs, &Client::Known(&client), "5");
        spoil(secure.folder.path());
        let output = porind(&gateway.config()).arg("run").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    };
    let open = |folder: &Path| {
        fs::set_permissions(folder.join("client.key"), fs::Permissions::from_mode(0o644)).expect("ours");
    };
    check(&open, "client.key has mode 0644, user");
    check(&|folder| fs::remove_file(folder.join("ca.pem")).expect("it is there"), "cannot read");
    check(&|folder| fs::write(folder.join("ca.pem"), "").expect("written"), "ca.pem: no certificate in it");
    check(&|folder| secret(&folder.join("client.key"), &client.cert), "client.key: no private key in PEM");
    let other = ours.client("lab", VALID);
    check(&|folder| secret(&folder.join("client.key"), &other.key), "is not the key of");
}

#[test]
fn a_password_lets_in_and_a_wrong_one_does_not() {
    let folder = TempDir::new().expect("a folder");
    let passwords = folder.path().join("passwords");
    fs::write(&passwords, "").expect("written");
    let made = Command::new("mosquitto_passwd").args(["-b"]).arg(&passwords).args(["lab", "pass word"]).status();
    assert!(made.is_ok_and(|status| status.success()), "mosquitto_passwd");
    let guarded = free_port();
    let lines = format!("listener {guarded} 127.0.0.1\nallow_anonymous false\npassword_file {}\n", passwords.display());
    let broker = Broker::mosquitto_with_each(&lines);
    let login = |protocol: &str, password: &str| {
        let file = folder.path().join("password");
        secret(&file, &format!("{password}\n"));
        let text = format!(
            "mqtt://127.0.0.1:{guarded}\"\nprotocol = \"{protocol}\"\nreconnect = \"10ms\"\nlogin = {{ username = \"lab\", password_file = \"{}\" }}\n\
             client_id = \"porin-lab",
            file.display()
        );
        Gateway::new("lab", 1, ROUTES).edit("mqtt://127.0.0.1:1", &text)
    };
    for protocol in ["5", "3.1.1"] {
        delivers(&login(protocol, "pass word"), broker.port);
        let said = reason(&login(protocol, "password"));
        assert!(said.contains("refuses the connection: NotAuthorized"), "{said}");
    }
}

/// MQTT 5 says that a publish is not allowed: a dead letter, never an acknowledgement. MQTT 3.1.1 cannot say it.
#[test]
fn what_a_broker_does_not_allow_is_a_dead_letter_by_reason() {
    let folder = TempDir::new().expect("a folder");
    let acl = folder.path().join("acl");
    fs::write(&acl, "topic readwrite porin/#\n").expect("written");
    let broker = Broker::mosquitto_with(&format!("acl_file {}", acl.display()));
    let subscriber = Subscriber::start(broker.port, "#");
    let status = Gateway::new("lab", broker.port, ROUTES).run_to_the_end();
    let outbox = &status["outbox"];
    assert_eq!((outbox["acknowledged"].as_u64(), outbox["dead_lettered"].as_u64()), (Some(500), Some(100)), "{outbox}");
    assert_eq!(outbox["dead_letters"], serde_json::json!({ "NotAuthorized": 100 }));
    assert_eq!(status["imbalance"], Value::Array(vec![]));
    assert!(subscriber.publishes().iter().all(|publish| publish.topic.starts_with("porin/")));
    let old = Gateway::new("lab", broker.port, ROUTES).edit("[outbox]", "protocol = \"3.1.1\"\n[outbox]");
    let outbox = &old.run_to_the_end()["outbox"];
    assert_eq!((outbox["acknowledged"].as_u64(), outbox["dead_lettered"].as_u64()), (Some(600), Some(0)), "{outbox}");
}

fn a_minute_after_1970() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    60 - i64::try_from(now).expect("it fits")
}

/// A board without a clock chip and without a time server: a certificate that is younger than its clock does not lock it out.
#[test]
fn while_nothing_has_set_the_clock_only_the_end_of_a_certificate_is_judged() {
    let theirs = Authority::new("brokers");
    let secure = Secure::start(&theirs.server(&["localhost"], VALID), None);
    let gateway = secure.gateway("localhost", &theirs, &Client::Unknown, "5").with_clock();
    gateway.set_clock(a_minute_after_1970());
    let status = delivers(&gateway, secure.broker.port);
    // The time at which the certificate begins is not taken for the time.
    assert_eq!((&status["clock_trusted"], &status["certificate_time"]), (&false.into(), &"floor".into()), "{status}");
    assert!(gateway.log().contains("of the broker's certificate only the end is judged"), "{}", gateway.log());
    let agent = gateway.run(&[]);
    wait_until("it is connected", || gateway.status().is_some_and(|status| status["uplink"]["connected"] == true));
    let doctor = porind(&gateway.config()).arg("doctor").output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("of a broker's certificate only the end is judged"), "{said}");
    drop(agent);

    // The time at which the clock was last believed judges the end.
    gateway.set_clock(0);
    let status = gateway.run_to_the_end();
    assert_eq!((&status["clock_trusted"], &status["certificate_time"]), (&true.into(), &"clock".into()), "{status}");
    gateway.set_clock(a_minute_after_1970());
    let expired = Secure::start(&theirs.server(&["localhost"], (-30, -2)), None);
    let gateway = gateway.edit(&format!("localhost:{}", secure.tls_port), &format!("localhost:{}", expired.tls_port));
    let said = reason(&gateway);
    assert!(said.contains("has expired on 20") && said.contains("when the clock was last trusted"), "{said}");
}

#[test]
fn once_the_clock_is_set_a_connection_is_made_again_and_the_beginning_is_judged_too() {
    let theirs = Authority::new("brokers");
    for (days, connects) in [(VALID, true), ((2, 365), false)] {
        let secure = Secure::start(&theirs.server(&["localhost"], days), None);
        let gateway = secure.gateway("localhost", &theirs, &Client::Unknown, "5").with_clock();
        gateway.set_clock(a_minute_after_1970());
        let _agent = gateway.run(&[]);
        let uplink = || gateway.status().map(|status| status["uplink"].clone()).unwrap_or_default();
        wait_until("it is connected", || uplink()["connected"] == true);
        gateway.set_clock(0);
        wait_until("the first connection ends", || gateway.log().contains("the clock has been set: the broker's"));
        if connects {
            wait_until("it is connected again", || uplink()["connections"] == 2 && uplink()["connected"] == true);
        } else {
            let error = || uplink()["last_error"].as_str().unwrap_or_default().to_owned();
            wait_until("it is refused", || error().contains("not yet valid: it begins on 20"));
            assert_eq!(uplink()["connected"], false);
        }
    }
}

#[test]
fn a_renewed_certificate_is_taken_up_on_request_and_what_waits_stays() {
    let (ours, theirs) = (Authority::new("gateways"), Authority::new("brokers"));
    let secure = Secure::start(&theirs.server(&["localhost"], VALID), Some(&ours));
    let gateway = secure.gateway("localhost", &theirs, &Client::Known(&ours.client("lab", (-1, 20))), "5");
    let agent = gateway.run(&[]);
    let uplink = || gateway.status().map(|status| status["uplink"].clone()).unwrap_or_default();
    let ends = || uplink()["certificates"][1]["not_after_s"].as_u64();
    wait_until("it is connected", || uplink()["connected"] == true);
    let before = ends();
    let renewed = ours.client("lab", (-1, 300));
    secret(&secure.folder.path().join("client.pem"), &renewed.cert);
    secret(&secure.folder.path().join("client.key"), &renewed.key);
    agent.signal(Signal::HUP);
    wait_until("it connects again", || uplink()["connections"] == 2 && uplink()["connected"] == true);
    assert!(ends() > before, "{before:?} {:?}", ends());
    let subscriber = Subscriber::start(secure.broker.port, "porin/v1/gw/lab/state");
    wait_until("the broker has it", || subscriber.received().iter().any(|(_, state)| state["state"] == "online"));
    assert_eq!(gateway.status().expect("it runs")["imbalance"], Value::Array(vec![]));
}
