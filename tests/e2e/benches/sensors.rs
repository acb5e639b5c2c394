//! What asking costs: 1,000 registers of Modbus devices once a second by the real agent, and 20 chips on a bus of usual speed by the drivers
//! alone, since nothing stands in for `/dev/i2c-1` of a machine that has none. PORIN_SECONDS=3600 measures for an hour; a name as argument
//! (`registers`, `chips`, `reaction`) runs that alone.

#![allow(clippy::print_stdout, clippy::cast_precision_loss)] // a benchmark prints, and rounds

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use embedded_hal::i2c::{ErrorType, I2c, NoAcknowledgeSource, Operation};
use linux_embedded_hal::Delay;
use porin_core::{poll::Schedule, time::Monotonic};
use porin_drivers::{Options, open_i2c};
use porin_e2e::{Broker, Gateway, free_port, wait_until};
use serde_json::Value;

/// How long each measurement takes.
fn duration() -> Duration {
    let seconds = env::var("PORIN_SECONDS").map_or(60, |seconds| seconds.parse().expect("PORIN_SECONDS: a number"));
    Duration::from_secs(seconds)
}

/// Clock ticks of a second, as Linux counts the time of processes: `USER_HZ`.
const TICKS: f64 = 100.0;

const DEVICES: usize = 10;

const REGISTERS: usize = 100;

/// Milliseconds of processor time that a process has used.
fn used_ms(process: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux tells");
    // After the name in brackets: the 12th and the 13th.
    let fields: Vec<_> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11..=12].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
    ticks / TICKS * 1_000.0
}

fn resident_kb(process: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("Linux tells");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}

/// A device that answers each request for holding registers.
fn device() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 12];
            while stream.read_exact(&mut request).is_ok() {
                let bytes = 2 * u16::from_be_bytes([request[10], request[11]]);
                let mut answer = request[..4].to_vec();
                answer.extend((bytes + 3).to_be_bytes());
                answer.extend([request[6], request[7], u8::try_from(bytes).expect("at most 250")]);
                answer.resize(answer.len() + usize::from(bytes), 0x11);
                if stream.write_all(&answer).is_err() {
                    break;
                }
            }
        }
    });
    port
}

fn registers() {
    let mut rest = String::new();
    for number in 0..DEVICES {
        let port = device();
        let _ = write!(
            rest,
            "[sources.device{number}.modbus]\ntcp = \"127.0.0.1:{port}\"\n[[sources.device{number}.modbus.slaves]]\nregisters = ["
        );
        for address in 0..REGISTERS {
            let _ = write!(rest, "{{ stream = \"device{number}/{address}\", address = {address} }}, ");
        }
        rest += "]\n";
    }
    let broker = Broker::mosquitto();
    // What is asked does not change: a deadband sends it once.
    rest += "[slots.quiet]\ncell = \"CELLS/deadband.wasm\"\nparams = { absolute = 1 }\n[routes.all]\nstreams = [\"#\"]\nslots = [\"quiet\"]\n";
    let gateway = Gateway::new("lab", broker.port, &rest);
    let agent = gateway.run(&[]);
    let status = || gateway.status().unwrap_or(Value::Null);
    let sum = |status: &Value, key: &str| -> u64 {
        let parts = status["sources"].as_array().into_iter().flatten();
        parts.filter_map(|source| source["parts"][0][key].as_u64()).sum()
    };
    let count = DEVICES as u64;
    wait_until("all are asked", || sum(&status(), "polls") >= 2 * count);
    let process = agent.id().to_string();
    let (first, used, start) = (status(), used_ms(&process), Instant::now());
    thread::sleep(duration());
    let (used, elapsed, last) = (used_ms(&process) - used, start.elapsed().as_secs_f64(), status());
    let (polls, missed) = (sum(&last, "polls") - sum(&first, "polls"), sum(&last, "missed") - sum(&first, "missed"));
    println!(
        "porind: {} registers at 1 Hz: {:.2} ms of processor time a second, {} KB resident; asked {polls} times in {elapsed:.1} s (due {:.0}), {missed} missed",
        DEVICES * REGISTERS,
        used / elapsed,
        resident_kb(&process),
        elapsed * count as f64
    );
    assert_eq!(sum(&last, "failures"), 0, "{last}");
}

/// A bus at 100 kHz, nine bits a byte, with TMP105 everywhere.
#[derive(Clone)]
struct Bus;

#[derive(Debug)]
struct Never;

impl embedded_hal::i2c::Error for Never {
    fn kind(&self) -> embedded_hal::i2c::ErrorKind {
        embedded_hal::i2c::ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown)
    }
}

impl ErrorType for Bus {
    type Error = Never;
}

impl I2c for Bus {
    fn transaction(&mut self, _: u8, operations: &mut [Operation<'_>]) -> Result<(), Never> {
        let mut bytes = 0;
        let mut register = 0;
        for operation in operations {
            bytes += 1;
            match operation {
                Operation::Write(written) => {
                    bytes += written.len();
                    register = written[0];
                }
                Operation::Read(read) => {
                    bytes += read.len();
                    // Twelve bits; 25 degrees.
                    read.iter_mut().for_each(|byte| *byte = 0);
                    read[0] = if register == 1 { 0x60 } else { 0x19 };
                }
            }
        }
        thread::sleep(Duration::from_micros(bytes as u64 * 90));
        Ok(())
    }
}

fn chips() {
    const CHIPS: usize = 20;
    let open = |_| open_i2c("tmp105", || Bus, 0x48, Delay, &Options::default()).expect("there is such a chip");
    let mut chips: Vec<_> = (0..CHIPS).map(open).collect();
    chips.iter_mut().for_each(|chip| chip.begin().expect("it answers"));
    let mut schedules: Vec<_> = (0..CHIPS).map(|_| Schedule::new(Monotonic(0), 1_000_000)).collect();
    let (start, used) = (Instant::now(), used_ms("self"));
    let mut polls = 0;
    let duration = duration();
    while start.elapsed() < duration {
        let (index, due) = schedules.iter().map(Schedule::due).enumerate().min_by_key(|(_, due)| *due).expect("some");
        thread::sleep((start + Duration::from_micros(due.0)).saturating_duration_since(Instant::now()));
        let measured = chips[index].measure().expect("it answers").expect("it has data");
        assert_eq!(measured, [25.0]);
        polls += 1;
        schedules[index].asked(Monotonic(u64::try_from(start.elapsed().as_micros()).expect("short")), true);
    }
    let (used, elapsed) = (used_ms("self") - used, start.elapsed().as_secs_f64());
    let missed: u64 = schedules.iter().map(Schedule::missed).sum();
    println!(
        "drivers: {CHIPS} chips at 1 Hz on a bus of 100 kHz: {:.2} ms of processor time a second; asked {polls} times in {elapsed:.1} s, {missed} missed",
        used / elapsed
    );
}

/// From a datagram through a cell to a local sink. There is no line to be moved here: a file stands for it.
fn reaction() {
    const TIMES: usize = 2_000;
    let port = free_port();
    let rest = format!(
        "[sources.net.udp]\nlisten = \"127.0.0.1:{port}\"\nlines = {{ pattern = '^(?<x>[0-9.]+)', streams = \"n/x\" }}\n\
         [slots.limit]\ncell = \"CELLS/threshold.wasm\"\nparams = {{ high = 10.0 }}\noutputs = [\"{{stream}}/alarm\"]\n\
         [sinks.here.file]\npath = \"HERE/alarms\"\n[routes.alarm]\nstreams = [\"#\"]\nslots = [\"limit\"]\nsinks = [\"here\"]\n"
    );
    let gateway = Gateway::new("lab", free_port(), &rest);
    let _agent = gateway.run(&[]);
    let path = gateway.path("alarms");
    let length = || fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let send = |text: &[u8]| assert!(socket.send_to(text, ("127.0.0.1", port)).is_ok());
    wait_until("it works", || {
        send(b"5");
        length() > 0
    });
    let mut took = Vec::with_capacity(TIMES);
    for time in 0..TIMES {
        let before = length();
        let start = Instant::now();
        // Each crosses the limit.
        send(if time % 2 == 0 { b"15" } else { b"5" });
        while length() == before {
            std::hint::spin_loop();
        }
        took.push(start.elapsed().as_micros());
        thread::sleep(Duration::from_millis(2));
    }
    took.sort_unstable();
    println!(
        "porind: from a datagram through `threshold` to a local sink: {} µs at the median, {} at the 99th percentile",
        took[TIMES / 2],
        took[TIMES * 99 / 100]
    );
}

fn main() {
    let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    for (name, run) in [("registers", registers as fn()), ("chips", chips), ("reaction", reaction)] {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            run();
        }
    }
}
