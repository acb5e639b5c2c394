//! The tests that the documents name are there.

use std::{fs, path::Path};

use porin_test_support::top;

/// All the project's Rust.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder").map_while(Result::ok) {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).expect("text"));
        }
    }
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut code = String::new();
    ["agent", "cells", "tests"].iter().for_each(|folder| sources(&top().join(folder), &mut code));
    let mut named = 0;
    for document in ["docs/guarantees.md", "docs/threats.md", "docs/updates.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(top().join(document)).expect("it is there");
        // Between backticks; a test's name is a sentence.
        for name in text.split('`').skip(1).step_by(2) {
            let name = name.rsplit("::").next().unwrap_or(name);
            let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_name && name.matches('_').count() >= 3 {
                assert!(code.contains(&format!("fn {name}(")), "{document} names `{name}`");
                named += 1;
            }
        }
    }
    assert!(named > 80, "{named} names were found");
}
