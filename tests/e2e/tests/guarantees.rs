//! The tests that the documents name exist, and a test runner would run them.

use std::{collections::BTreeSet, env, fs, process::Command};

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
    for document in ["docs/guarantees.md", "docs/threats.md", "docs/updates.md", "ARCHITECTURE.md"] {
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
