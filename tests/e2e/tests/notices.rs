//! The third-party notices name everything that is linked, with a licence text or a standard licence.

#![allow(clippy::panic)] // this is test code

use std::{collections::BTreeSet, process::Command};

use porin_test_support::top;

/// Licences whose text is in this repository, or short enough to be known by its name.
const STANDARD: [&str; 3] = ["MIT", "Apache-2.0", "BSD-3-Clause"];

fn output(command: &mut Command) -> String {
    let output = command.current_dir(top()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_crate_that_is_linked_is_in_the_notices() {
    for target in ["aarch64-unknown-linux-musl", "armv7-unknown-linux-musleabihf"] {
        let notices = output(Command::new("sh").args(["cross/notices.sh", target]));
        // Every crate of the graph without build scripts and macros, counted another way than the script does: by its names alone.
        let tree = output(Command::new("cargo").args([
            "tree",
            "--locked",
            "-p",
            "porind",
            "-e",
            "normal,no-proc-macro",
            "--target",
            target,
            "--prefix",
            "depth",
        ]));
        let lines = tree.lines().filter(|line| !line.contains("(/") && !line.is_empty());
        let name = |line: &str| {
            let mut words = line.trim_start_matches(|c: char| c.is_ascii_digit()).split(' ');
            (
                words.next().unwrap_or_default().to_owned(),
                words.next().unwrap_or_default().trim_start_matches('v').to_owned(),
            )
        };
        let crates: BTreeSet<_> = lines.map(name).collect();
        assert!(crates.len() > 100, "{}", crates.len());
        let (list, texts) = notices.split_once("== Libraries of the compiler").expect("both parts");
        for (name, version) in &crates {
            let row = list.lines().find(|line| line.starts_with(&format!("{name} {version}: ")));
            let row = row.unwrap_or_else(|| panic!("{name} {version} is not in the notices"));
            let has_text = texts.lines().any(|line| {
                line.strip_prefix("---- ")
                    .is_some_and(|of| of.split(", ").any(|one| one == format!("{name} {version}")))
            });
            assert!(has_text || STANDARD.iter().any(|licence| row.contains(licence)), "no text: {row}");
        }
    }
}
