//! What documents say of the sources is so: tests that they name exist and run, and `unsafe` is where SECURITY.md says.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::Command,
};

use porin_test_support::top;

/// Names of all tests, ignored ones included, as the test programs themselves list them: a function in a comment or without
/// `#[test]` is not among them.
fn listed() -> BTreeSet<String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["test", "--locked", "--offline", "--workspace", "--lib", "--bins", "--tests", "--", "--list"];
    let mut command = Command::new(cargo);
    // The variables that cargo sets for this program belong to its package; inherited, they would look like a change.
    for (name, _) in env::vars_os() {
        let of_package = name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR";
        if of_package || name == "CARGO_MANIFEST_PATH" || name == "CARGO_CRATE_NAME" || name == "LD_LIBRARY_PATH" {
            command.env_remove(name);
        }
    }
    let output = command.current_dir(top()).args(arguments).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(|name| name.rsplit("::").next().unwrap_or(name).to_owned()).collect()
}

#[test]
fn every_test_that_a_document_names_exists() {
    let tests = listed();
    assert!(tests.contains("every_test_that_a_document_names_exists"), "{tests:?}");
    assert!(!tests.contains("listed"), "a function that is no test");
    let mut named = 0;
    for document in ["docs/guarantees.md", "docs/threats.md", "docs/updates.md", "ARCHITECTURE.md", "SECURITY.md"] {
        let text = fs::read_to_string(top().join(document)).expect("it is there");
        // Between backticks; a test's name is a sentence.
        for name in text.split('`').skip(1).step_by(2) {
            let name = name.rsplit("::").next().unwrap_or(name);
            let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_name && name.matches('_').count() >= 3 {
                assert!(tests.contains(name), "{document} names `{name}`, which no test program lists");
                named += 1;
            }
        }
    }
    assert!(named > 80, "{named} names were found");
}

/// Lines with `unsafe`, for each file of the programs and of the SDK, but for generated bindings and for tests.
fn lines_with_unsafe(folder: &Path, found: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "benches", "target"].contains(&name.as_str()) {
            lines_with_unsafe(&path, found);
        } else if name.ends_with(".rs") && !name.starts_with("bindings") {
            let text = fs::read_to_string(&path).expect("a source file");
            let is_unsafe = |line: &&str| {
                let code = line.split("//").next().unwrap_or_default();
                code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
            };
            let count = text.lines().filter(is_unsafe).count();
            if count > 0 {
                let place = path.strip_prefix(top()).expect("it is below").display().to_string();
                found.insert(place, count);
            }
        }
    }
}

#[test]
fn every_line_with_unsafe_is_listed() {
    let mut found = BTreeMap::new();
    for folder in ["agent", "cells"] {
        lines_with_unsafe(&top().join(folder), &mut found);
    }
    let text = fs::read_to_string(top().join("SECURITY.md")).expect("it is there");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let listed = rows.filter_map(|(file, rest)| Some((file.to_owned(), rest.split(' ').next()?.parse().ok()?)));
    assert_eq!(listed.collect::<BTreeMap<_, usize>>(), found);
    assert!(found.len() > 3, "{found:?}");
}
