//! The embedded broker, seen from clients of another make.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::{Command, Output},
    time::Duration,
};

use porin_e2e::{Broker, Process, publish_retained, wait_until};

fn client(program: &str, broker: &Broker, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["-p", &broker.port.to_string()]).args(args);
    command
}

/// What it says.
fn run(program: &str, broker: &Broker, args: &[&str]) -> String {
    let Output { stdout, stderr, .. } = client(program, broker, args).output().expect("it runs");
    String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr)
}

/// The first publish that a filter chooses: retained or not, topic, payload.
fn first(broker: &Broker, filter: &str) -> String {
    run("mosquitto_sub", broker, &["-V", "5", "-q", "1", "-t", filter, "-C", "1", "-W", "120", "-F", "%r %t %p"])
}

#[test]
fn what_is_retained_and_the_will_of_a_killed_client_are_there_later() {
    let broker = Broker::embedded();
    publish_retained(broker.port, "ofen/temperatur/°C", b"81.5");
    assert_eq!(first(&broker, "ofen/+/#"), "1 ofen/temperatur/°C 81.5\n");
    let mut args = vec!["-V", "5", "-t", "ready", "-C", "1", "-i", "doomed"];
    args.extend(["--will-topic", "state/doomed", "--will-payload", "gone", "--will-retain", "--will-qos", "1"]);
    wait_until("it is killed when it is connected, and its will is there", || {
        let mut doomed = Process::spawn(&mut client("mosquitto_sub", &broker, &args));
        std::thread::sleep(Duration::from_millis(100));
        doomed.kill();
        let words = ["-V", "5", "-t", "state/doomed", "-C", "1", "-W", "1", "-F", "%r %p"];
        run("mosquitto_sub", &broker, &words) == "1 gone\n"
    });
    // An empty one is forgotten.
    publish_retained(broker.port, "state/doomed", b"");
    assert!(
        run("mosquitto_sub", &broker, &["-V", "5", "-t", "state/doomed", "-C", "1", "-W", "1"]).contains("Timed out")
    );
}

#[test]
fn what_it_does_not_have_is_refused_in_the_clients_words() {
    let broker = Broker::embedded();
    for (program, args, words) in [
        ("mosquitto_sub", &["-V", "311", "-t", "a", "-W", "120"][..], "unacceptable protocol version"),
        ("mosquitto_sub", &["-V", "5", "-t", "$share/g/a", "-W", "120"], "All subscription requests were denied"),
        ("mosquitto_pub", &["-V", "5", "-t", "a", "-n", "-q", "2"], "QoS not supported"),
    ] {
        let said = run(program, &broker, args);
        assert!(said.contains(words), "{program} {args:?}: {said}");
    }
}

#[test]
fn a_packet_that_is_too_large_ends_its_connection_and_no_other() {
    let broker = Broker::embedded();
    // The first byte of a publish, and a length of 262,145 bytes.
    let mut rude = TcpStream::connect((Ipv4Addr::LOCALHOST, broker.port)).expect("it accepts");
    let connect = b"\x10\x11\0\x04MQTT\x05\x02\0\0\0\0\x04rude";
    rude.write_all(connect).expect("sent");
    rude.write_all(b"\x30\x81\x80\x10").expect("sent");
    let mut answer = Vec::new();
    rude.read_to_end(&mut answer).expect("the broker closes the connection");
    // CONNACK, and DISCONNECT for reason 0x95.
    assert_eq!((answer[0], answer[3], &answer[answer.len() - 3..]), (0x20, 0, &[0xe0, 1, 0x95][..]), "{answer:x?}");
    publish_retained(broker.port, "a", b"others go on");
    assert_eq!(first(&broker, "a"), "1 a others go on\n");
}
