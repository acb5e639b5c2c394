//! What an owner sees on the command line: bad configurations, refused cells, help, exit codes. Nothing is started.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use porin_e2e::{Broker, Gateway, free_port, porind, program, wait_until};
use porin_test_support::{LOG_IMPORT, WatCell, authority::first_root, cell, documented, target_dir, top};

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

const SLOT: &str = r#"
[slots.quiet]
cell = "CELLS/deadband.wasm"
params = { absolute = 0.5 }
[routes.all]
streams = ["boiler/#"]
slots = ["quiet"]
"#;

/// Both `check` and `run` refuse the configuration with these words, and leave nothing behind.
fn refused(text: &str, words: &[&str]) {
    let gateway = Gateway::new("lab", free_port(), text);
    for command in ["check", "run"] {
        let (code, stdout, stderr) = output(porind(&gateway.config()).arg(command));
        assert_eq!(code, Some(78), "{command}: {stderr}");
        assert_eq!(stdout, "");
        for word in words {
            assert!(stderr.contains(word), "{command}: {stderr:?} does not say {word:?}");
        }
    }
    assert!(!gateway.path("porin.redb").exists(), "something was started");
}

#[test]
fn a_good_configuration_is_checked_with_its_cells() {
    let gateway = Gateway::new("lab", free_port(), SLOT);
    let (code, stdout, stderr) = output(porind(&gateway.config()).arg("check"));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("1 routes, 1 slots") && stdout.contains("all: quiet sha256:"), "{stdout}");
    let (_, stdout, _) = output(porind(&gateway.config()).args(["check", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&json["ok"], &json["routes"]), (&true.into(), &1.into()));
    assert!(!gateway.path("porin.redb").exists());
}

#[test]
fn a_bad_configuration_names_file_line_value_and_nearest_name() {
    refused(
        &SLOT.replace("slots = [", "slot = ["),
        &["porin.toml: line 15: unknown field `slot`", "did you mean `slots`?", "hint: "],
    );
    refused(&SLOT.replace("[\"quiet\"]", "[\"quit\"]"), &["line 15: there is no slot `quit`; did you mean `quiet`?"]);
}

#[test]
fn a_cell_that_cannot_run_is_refused_before_anything_starts() {
    refused(&SLOT.replace("deadband.wasm", "deadbond.wasm"), &["slot `quiet`: cell ", "deadbond.wasm", "No such file"]);
    refused(
        &SLOT.replace("absolute", "absolut"),
        &["unknown parameter `absolut`; known: absolute, percent, max_silence_s"],
    );
    refused(
        &SLOT.replace("absolute = 0.5", "percent = 1").replace("[routes", "[streams.\"boiler/temp\"]\n[routes"),
        &["`span` of stream `boiler/temp`: missing"],
    );
}

#[test]
fn a_root_that_is_none_or_that_others_can_write_to_is_refused_before_anything_starts() {
    let check = |bytes: Option<&[u8]>, mode: u32, words: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("root-1");
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        }
        refused(&format!("[updates]\nroot = \"{}\"\n{SLOT}", path.display()), words);
    };
    check(None, 0o644, &["[updates]: cannot read the root", "No such file"]);
    check(Some(b"a root"), 0o644, &["[updates]: the root", "version 97 of a document"]);
    check(Some(&first_root()), 0o666, &["[updates]: the root", "mode 0666; others must not be able to write to it"]);
}

#[test]
fn a_file_that_is_no_cell_is_refused() {
    let check = |bytes: &[u8], words: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cell.wasm");
        fs::write(&path, bytes).expect("written");
        refused(&SLOT.replace("CELLS/deadband.wasm", &path.display().to_string()), &[words]);
    };
    check(b"hello", "not a component");
    check(&[0; 60_000], "the file has 60000 bytes, a cell may have 51200");
    check(&cell("deadband")[..1_000], "not a component");
    let logs = WatCell {
        imports: LOG_IMPORT,
        process: "(call $log (i32.const 0) (i32.const 64) (i32.const 0) (i32.const 64) (i32.const 0)) i32.const 16",
        ..WatCell::default()
    };
    check(
        &logs.build(),
        "it imports `porin:cell/log@0.1.0`, which the slot does not grant; to allow it, add grants = [\"log\"] to [slots.quiet]",
    );
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let run = |args: &[&str]| output(Command::new(program("porind")).args(args));
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("Usage: porind COMMAND"));
    for bad in [&["fly"][..], &[], &["run", "--fast"], &["status", "--until-drained"], &["check", "a", "b"]] {
        let (code, stdout, stderr) = run(bad);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{bad:?}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
    let gateway = Gateway::new("lab", free_port(), SLOT);
    for program in
        [porind(&gateway.config()).arg("run"), Command::new(program("porin")).arg("up").arg("-c").arg(gateway.config())]
    {
        let (code, _, stderr) = output(program.env("PORIN_LOG", "debg"));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("PORIN_LOG = debg: must be error, warn, info, debug or trace"), "{stderr}");
    }
    let (code, _, stderr) = run(&["check", "--config", "/nowhere/porin.toml"]);
    assert_eq!(code, Some(78));
    assert!(stderr.contains("cannot read /nowhere/porin.toml"), "{stderr}");
}

#[test]
fn the_selftest_writes_one_file_about_the_machine_and_nothing_of_its_owner() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("board.json");
    let mut command = Command::new(program("porind"));
    command.args(["selftest"]).arg(&file).env("PORIN_CELL", target_dir().join("cells/deadband.wasm"));
    let (code, stdout, stderr) = output(command.env("PORIN_BOARDS", top().join("board-configs")));
    assert!(code == Some(0) && stdout.starts_with("wrote "), "{stdout}{stderr}");
    let text = fs::read_to_string(&file).expect("it was written");
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&found["v"], &found["architecture"]), (&1.into(), &std::env::consts::ARCH.into()));
    for number in ["/memory_kb", "/cell/fuel_per_reading", "/cell/ns_per_reading", "/disk/median_us"] {
        assert!(found.pointer(number).and_then(serde_json::Value::as_u64) > Some(0), "{number}: {text}");
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("it has a name");
    assert!(!text.contains(host.trim()), "{text}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing but the file");
}

#[test]
fn bash_completes_commands_of_both_programs_with_the_files_of_the_package() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = Command::new(program("porin")).arg("package-files").arg(folder.path()).status();
    assert!(written.expect("it runs").success());
    for (name, typed, expected) in
        [("porin", "pu", "push"), ("porin", "desired sh", "show"), ("porind", "do", "doctor")]
    {
        let words: Vec<_> = [name].into_iter().chain(typed.split(' ')).collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let script = format!(
            "source {}/bash-completion/completions/{name}; COMP_WORDS=({}); COMP_CWORD={}; _{name} {name} {last} {before}; echo \"${{COMPREPLY[@]}}\"",
            folder.path().display(),
            words.join(" "),
            words.len() - 1
        );
        let (code, stdout, stderr) = output(Command::new("bash").args(["-c", &script]));
        assert!(code == Some(0) && stdout.trim() == expected, "{name} {typed}: {stdout}{stderr}");
    }
    for file in ["zsh/vendor-completions/_porind", "fish/vendor_completions.d/porin.fish", "man/man1/porin.1"] {
        assert!(fs::metadata(folder.path().join(file)).is_ok_and(|file| file.len() > 500), "{file}");
    }
}

#[test]
fn the_help_of_every_command_fits_and_has_no_homely_word() {
    let words = fs::read_to_string(top().join("tests/homely-words.txt")).expect("the list");
    let words: Vec<_> = words.lines().filter(|word| !word.is_empty()).collect();
    let help = |args: &[&str]| output(Command::new(program("porin")).args(args).arg("--help")).1;
    let commands = |help: &str| -> Vec<String> {
        let indented = help
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .filter(|line| !line.starts_with([' ', '-', '[', '<']));
        indented.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    let top_level = help(&[]);
    let mut texts = vec![("porin".to_owned(), top_level.clone())];
    texts.push(("porind".into(), output(Command::new(program("porind")).arg("--help")).1));
    for command in commands(&top_level) {
        let text = help(&[&command]);
        if text.contains("\nCommands:") {
            let nested = text.split("Commands:").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
            for inner in commands(nested).iter().filter(|inner| *inner != "help") {
                texts.push((format!("porin {command} {inner}"), help(&[&command, inner])));
            }
        }
        texts.push((format!("porin {command}"), text));
    }
    assert!(texts.len() > 30, "{}", texts.len());
    for (command, text) in texts {
        assert!(text.contains("Usage: "), "{command}: {text}");
        let lower = text.to_lowercase();
        for word in &words {
            let found = lower.match_indices(word).any(|(at, _)| {
                let around = [lower[..at].chars().next_back(), lower[at + word.len()..].chars().next()];
                !around.iter().flatten().any(|c| c.is_alphanumeric())
            });
            assert!(!found, "{command} --help has the homely word `{word}`: {text}");
        }
    }
}

/// The exit code of a command whose standard output was closed before it wrote anything, and its standard error.
fn closed(command: &mut Command) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let child = command.stdout(writer).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let Output { status, stderr, .. } = child.wait_with_output().expect("it ends");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    let broker = Broker::mosquitto();
    let gateway = Gateway::new("lab", broker.port, SLOT);
    let _agent = gateway.run(&[]);
    wait_until("it runs", || gateway.status().is_some());
    let (config, url) = (gateway.config().display().to_string(), format!("mqtt://127.0.0.1:{}", broker.port));
    let keys = gateway.path("keys").display().to_string();
    let porin = || Command::new(program("porin"));
    assert!(porin().args(["keys", "init", "--keys", &keys]).output().expect("it runs").status.success());
    for args in [
        &["--help"][..],
        &["--version"],
        &["push", "--help"],
        &["status", "-c", &config],
        &["check", "-c", &config],
        &["doctor", "-c", &config],
        &["dead", "-c", &config],
        &["keys", "show", "--keys", &keys],
        &["ls", "--broker", &url],
        &["prune", "--dry-run", "--broker", &url, "--keys", &keys],
        &[
            "release",
            &target_dir().join("cells/deadband.wasm").display().to_string(),
            "--keys",
            &keys,
            "--out",
            &format!("{keys}/r"),
        ],
        &["flash", "--list"],
    ] {
        let (code, stderr) = closed(porin().args(args));
        assert!(code == Some(0) && !stderr.contains("error"), "porin {args:?}: {code:?} {stderr}");
    }
    for args in
        [&["--help"][..], &["--version"], &["check"], &["status"], &["status", "--json"], &["doctor"], &["dead"]]
    {
        let (code, stderr) = closed(porind(&gateway.config()).args(args));
        assert!(code == Some(0) && stderr.is_empty(), "porind {args:?}: {code:?} {stderr}");
    }
}

#[test]
fn status_without_an_agent_exits_with_4() {
    let gateway = Gateway::new("lab", free_port(), SLOT);
    let (code, stdout, stderr) = output(porind(&gateway.config()).arg("status"));
    assert_eq!((code, stdout.as_str()), (Some(4), ""));
    assert!(stderr.contains("no agent answers"), "{stderr}");
}

#[test]
fn each_configuration_in_the_documentation_and_each_that_is_installed_passes_the_check() {
    let examples = fs::read_dir(top().join("docs/examples")).expect("a folder");
    let mut files: Vec<_> = examples.map(|entry| entry.expect("an entry").path()).collect();
    assert!(files.len() >= 5, "{files:?}");
    files.extend(["cross/deb/porin.toml", "cross/image/config/porin.toml"].map(|file| top().join(file)));
    let files = files.iter().map(|file| (file.display().to_string(), fs::read_to_string(file).expect("a file")));
    let documented = documented::configurations().into_iter().map(|(page, text)| (page.to_owned(), text));
    // sensors.md says that its first block replaces what the package's file has below its broker.
    let packaged = fs::read_to_string(top().join("cross/deb/porin.toml")).expect("it is there");
    let (kept, _) = packaged.split_once("# Made-up readings").expect("it has some");
    let wired = kept.to_owned() + documented::blocks(&documented::page("sensors"))[0];
    for (name, text) in files.chain(documented).chain([("the package's with a sensor".to_owned(), wired)]) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("porin.toml");
        let cells = target_dir().join("cells").display().to_string();
        let text = text.replace("/usr/lib/porin/cells", &cells).replace("\"target/cells", &format!("\"{cells}"));
        fs::write(&path, &text).expect("written");
        let (code, _, stderr) = output(porind(&path).arg("check"));
        assert_eq!(code, Some(0), "{name}: {stderr}\n{text}");
    }
}

/// Keys that only a desired state has, which `porin` writes.
const OF_A_DESIRED_STATE: [&str; 5] = ["probation", "shadow", "canary", "min_seq", "retry"];

#[test]
fn each_key_of_the_configuration_is_documented() {
    let mut keys = Vec::new();
    for file in ["raw.rs", "raw/source.rs"] {
        let source = fs::read_to_string(top().join("agent/core/src/config").join(file)).expect("a source file");
        let fields =
            source.lines().filter_map(|line| line.trim().strip_prefix("pub(").and_then(|rest| rest.split_once(") ")));
        let names = fields.filter_map(|(_, field)| field.split_once(": ").map(|(name, _)| name.to_owned()));
        keys.extend(names.map(|name| if name == "kind" { "type".to_owned() } else { name }));
    }
    assert!(keys.len() > 100, "{keys:?}");
    for key in keys.iter().filter(|key| !OF_A_DESIRED_STATE.contains(&key.as_str())) {
        assert!(documented::has_key(key), "`{key}` is in no block of the pages about the configuration");
    }
}

#[test]
fn each_chip_is_documented_with_an_example() {
    let page = documented::page("sensors");
    let blocks = documented::blocks(&page);
    for chip in porin_drivers::CHIPS {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", chip.name)));
        let row = row.unwrap_or_else(|| panic!("no row for {}", chip.name));
        let channels = chip.channels.iter().filter(|channel| !channel.name.starts_with("ch"));
        for word in channels.map(|channel| channel.name).chain(chip.options.iter().map(|setting| setting.name)) {
            assert!(row.contains(&format!("`{word}`")), "{}: {word}", chip.name);
        }
        assert!(
            blocks.iter().any(|block| block.contains(&format!("\"{}\"", chip.name))),
            "no example of {}",
            chip.name
        );
    }
}

#[test]
fn a_chip_that_cannot_be_is_refused_before_anything_starts() {
    let check = |chip: &str, bus: &str, expected: &str| {
        let rest = format!("[sources.box.sensor]\nbus = \"{bus}\"\nchips = [{{ {chip} }}]\n");
        let gateway = Gateway::new("lab", free_port(), &rest);
        for command in ["check", "run"] {
            let (code, _, stderr) = output(porind(&gateway.config()).arg(command));
            assert!(code != Some(0) && stderr.contains("source `box`") && stderr.contains(expected), "{stderr}");
        }
    };
    let i2c = "/dev/i2c-1";
    check("chip = \"bme28\", streams = \"a/{channel}\"", i2c, "there is no chip `bme28`; did you mean `bme280`?");
    check(
        "chip = \"bme280\", streams = \"a\"",
        i2c,
        "bme280 measures temperature, pressure, humidity: {channel} is missing",
    );
    check("chip = \"mcp3008\", streams = \"a/{channel}\"", i2c, "mcp3008 is on SPI, not on /dev/i2c-1");
    check("chip = \"lm75\", streams = \"a\"", "/dev/spidev0.0", "lm75 is on I²C, not on /dev/spidev0.0");
    let address = "chip = \"scd4x\", address = 0x61, streams = \"a/{channel}\"";
    check(address, i2c, "scd4x is never at address 0x61; it can be at 0x62");
    let option = "chip = \"ina219\", streams = \"a/{channel}\", options = { shunts = 1 }";
    check(option, i2c, "ina219 has no option `shunts` (known: shunt, current)");
}

#[test]
fn every_board_is_read_and_says_what_is_missing_here() {
    let gateway = Gateway::new("lab", free_port(), SLOT);
    let boards =
        fs::read_dir(top().join("board-configs")).expect("it is there").map(|entry| entry.expect("one").path());
    let boards = boards.collect::<Vec<_>>();
    assert_eq!(boards.len(), 9, "{boards:?}");
    for path in boards {
        let (code, stdout, stderr) = output(porind(&gateway.config()).args(["check", "--json", "--board"]).arg(&path));
        assert_eq!(code, Some(0), "{stderr}");
        let said: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        let found = said["board"].as_array().expect("a list");
        // The file has the board's name, and the image is built by it.
        let text = fs::read_to_string(&path).expect("text");
        let name = path.file_stem().expect("a name").display().to_string();
        assert!(text.contains(&format!("\nname = \"{name}\"\n")), "{name}");
        let enable =
            if name.starts_with("rpi") { "add `dtparam=i2c_arm=on` to config.txt" } else { "to /boot/uEnv.txt" };
        if name.starts_with("rpi") || name.starts_with("beagle") {
            let hints =
                |finding: &serde_json::Value| finding["hint"].as_str().is_some_and(|hint| hint.contains(enable));
            assert!(found.iter().any(hints), "{stdout}");
        }
    }
    // A bus that the board does not have, and which board this is: this machine has no device tree.
    let odd = Gateway::new(
        "lab",
        free_port(),
        "[sources.s.sensor]\nbus = \"/dev/i2c-7\"\nchips = [{ chip = \"lm75\", streams = \"a\" }]\n\
         [sources.pins.gpio]\ninputs = [{ line = \"GPIO27\", stream = \"b\" }]\n\
         [sinks.siren.gpio]\nline = \"GPIO177\"\nsafe = \"low\"\n",
    );
    let folder = top().join("board-configs");
    let with_boards = |args: &[&str]| output(porind(&odd.config()).env("PORIN_BOARDS", &folder).args(args));
    let (code, stdout, stderr) = with_boards(&["check", "--board", "rpi-5"]);
    assert!(code == Some(0) && stdout.contains("rpi-5 has no /dev/i2c-7 that is known"), "{stdout}{stderr}");
    // A line that the board does not have, and one that this machine does not.
    assert!(
        stdout.contains("sink `siren`: rpi-5 has no pin `GPIO177`") && stdout.contains("did you mean `GPIO17`?"),
        "{stdout}"
    );
    assert!(stdout.contains("source `pins`: no chip that can be opened has a line `GPIO27`"), "{stdout}");
    let (code, stdout, _) = with_boards(&["boards", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, listed.as_array().map(Vec::len)), (Some(0), Some(9)));
    let (code, stdout, stderr) = with_boards(&["boards", "detect"]);
    assert!(code == Some(1) && stdout.is_empty() && stderr.contains("no device tree"), "{stdout}{stderr}");
    let (code, _, stderr) = output(porind(&gateway.config()).args(["check", "--board", "rpi-9"]));
    assert!(code == Some(78) && stderr.contains("there is no board `rpi-9`"), "{stderr}");
    let (code, _, stderr) = output(porind(&gateway.config()).args(["status", "--board", "rpi-3b"]));
    assert!(code == Some(2) && stderr.contains("--board goes with check"), "{stderr}");
}

#[test]
fn a_cell_that_is_too_large_is_refused_with_its_largest_functions() {
    let folder = tempfile::tempdir().expect("a folder");
    let sdk = top().join("cells/sdk").canonicalize().expect("it is there");
    let manifest = format!(
        "[package]\nname = \"large\"\nedition = \"2024\"\n[dependencies]\nporin-sdk = {{ path = \"{}\" }}\n[workspace]\n",
        sdk.display()
    );
    let source = r#"
        #![cfg_attr(target_arch = "wasm32", no_std)]
        extern crate alloc;
        use alloc::{string::String, vec::Vec};
        use porin_sdk::*;
        /// 60,000 bytes that look like a table.
        static TABLE: [u64; 7500] = { let mut t = [1; 7500]; let mut i = 0; while i < 7500 { t[i] = (i as u64).wrapping_mul(0x9e3779b97f4a7c15); i += 1; } t };
        struct Large;
        impl Cell for Large {
            const PARAMS: &'static [&'static str] = &[];
            fn new(_: &Stream) -> Result<Self, String> { Ok(Self) }
            fn process(&mut self, r: Reading, out: &mut Vec<Reading>) { if TABLE[r.time_us as usize % 7500] > 7 { out.push(r) } }
            fn save(&self, _: &mut StateWriter) {}
            fn restore(&mut self, _: &mut StateReader) -> Result<(), Malformed> { Ok(()) }
        }
        porin_sdk::export!(Large);
    "#;
    // A package outside the workspace: as an author has it.
    fs::create_dir(folder.path().join("src")).expect("made");
    fs::write(folder.path().join("Cargo.toml"), manifest).expect("written");
    fs::write(folder.path().join("src/lib.rs"), source).expect("written");
    let build = |out: &str| {
        // Where rustup cannot add the target, its library is built from source; the script knows how.
        let mut command = Command::new("sh");
        command.arg(top().join("cross/with.sh")).arg("wasm32-unknown-unknown").arg(program("porin"));
        command.args(["cell", "build"]).arg(folder.path()).arg("--out").arg(folder.path().join(out));
        output(command.env("CARGO_TARGET_DIR", folder.path().join("target")))
    };
    let (code, stdout, stderr) = build("cells");
    assert_eq!((code, stdout.as_str()), (Some(5), ""), "{stderr}");
    assert!(
        stderr.contains("bytes, a cell may have 51200")
            && stderr.contains("the largest functions are")
            && stderr.contains("process"),
        "{stderr}"
    );
    assert!(!folder.path().join("cells/large.wasm").exists());
    fs::write(folder.path().join("src/lib.rs"), source.replace("7500", "75")).expect("written");
    let (code, _, stderr) = build("cells");
    assert_eq!(code, Some(0), "{stderr}");
    let bytes = fs::read(folder.path().join("cells/large.wasm")).expect("it was built");
    assert!(bytes.len() < 16_384, "{}", bytes.len());
}
