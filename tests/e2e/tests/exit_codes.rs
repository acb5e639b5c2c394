//! The table of exit codes in `docs/cli.md`: each code is what a real command returns, and no command here returns another.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use porin_core::config::Protocol;
use porin_e2e::{
    Broker, Gateway, Process, Signal, free_port,
    hostile::{Deed, Hostile},
    porind, program, wait_until,
};
use porin_test_support::documented;

const CONFIG: &str = r##"
[sources.made_up.simulator]
streams = "sim/{n}"
every = "50ms"
[routes.all]
streams = ["#"]
"##;

/// The codes of the table in the documentation.
fn documented_codes() -> Vec<i32> {
    let page = documented::page("cli");
    let table = page.split("## Exit codes").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    table.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect()
}

fn code_of(command: &mut Command) -> i32 {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    output.status.code().expect("it was not killed")
}

/// SIGINT again and again, until it ends.
fn interrupted(mut process: Process) -> i32 {
    wait_until("it ends", || {
        process.signal(Signal::INT);
        process.has_ended()
    });
    process.wait().code().expect("it was not killed")
}

#[test]
fn each_exit_code_of_the_documentation_is_what_commands_return() {
    let broker = Broker::embedded();
    // Nothing is acknowledged: the agent would take its time to end.
    let deaf = Hostile::that_does(Protocol::V5, &[Deed::NeverAcknowledges]);
    let running = Gateway::new("lab", deaf.port, CONFIG);
    let wrong = Gateway::new("lab", free_port(), &CONFIG.replace("streams", "stream"));
    let silent = Gateway::new("silent", free_port(), CONFIG);
    let agent = running.run(&[]);
    wait_until("the agent has something to send", || {
        running.status().is_some_and(|status| status["outbox"]["waiting"].as_u64() > Some(0))
    });

    let at = format!("mqtt://127.0.0.1:{}", broker.port);
    let porin = |arguments: &[&str]| {
        let mut command = Command::new(program("porin"));
        command.args(arguments);
        command
    };
    let on = |gateway: &Gateway, arguments: &[&str]| {
        let mut command = porind(&gateway.config());
        command.args(arguments);
        command
    };
    let there = silent.config().display().to_string();
    let commands: [(i32, Command); 15] = [
        (0, porin(&["--help"])),
        (0, on(&silent, &["check"])),
        (0, on(&running, &["status"])),
        (1, porin(&["decode"])),
        (1, porin(&["cell", "call", "/nowhere/cell.wasm", "handle-request", "x"])),
        (2, porin(&["push", "--to"])),
        (2, on(&silent, &["run", "--fast"])),
        (3, porin(&["load", "check", "--broker", &at, "--idle", "0"])),
        (4, on(&silent, &["status"])),
        (4, porin(&["status", "-c", &there])),
        (4, porin(&["ls", "absent", "--broker", &at])),
        (5, porin(&["init", "--out", &there])),
        (78, on(&wrong, &["check"])),
        (78, on(&wrong, &["run"])),
        (78, porin(&["check", "-c", "/nowhere/porin.toml"])),
    ];
    let mut returned = BTreeSet::new();
    for (expected, mut command) in commands {
        let code = code_of(&mut command);
        assert_eq!(code, expected, "{command:?}");
        returned.insert(code);
    }
    let code = interrupted(agent);
    assert_eq!(code, 130);
    returned.insert(code);

    assert_eq!(returned.into_iter().collect::<Vec<_>>(), documented_codes());
}
