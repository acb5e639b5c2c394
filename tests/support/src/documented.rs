//! The configurations in the documentation.

use std::fs;

use crate::top;

/// The pages that describe the keys of `porin.toml`.
const PAGES: [&str; 8] = ["config", "brokers", "sources", "sensors", "cells", "routes", "sinks", "updates"];

/// What a block needs to be a whole configuration: those of these tables that it does not have are put in front of it.
const BASE: [(&str, &str); 3] = [
    ("[gateway]", "id = \"lab\"\nsocket = \"/tmp/porin-example/status.sock\""),
    ("[uplink]", "broker = \"mqtt://127.0.0.1:1883\""),
    ("[outbox]", "path = \"/tmp/porin-example/porin.redb\""),
];

/// The text of a page.
///
/// # Panics
/// If there is no such page.
#[must_use]
pub fn page(name: &str) -> String {
    let path = top().join("docs").join(name).with_extension("md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The TOML blocks of a page.
#[must_use]
pub fn blocks(page: &str) -> Vec<&str> {
    page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

/// Each block of the pages about the configuration, as a whole configuration, with the page's name.
#[must_use]
pub fn configurations() -> Vec<(&'static str, String)> {
    let whole = |block: &str| {
        let missing = BASE.iter().filter(|(table, _)| !block.contains(table));
        missing.map(|(table, keys)| format!("{table}\n{keys}\n")).collect::<String>() + block
    };
    PAGES
        .iter()
        .flat_map(|name| blocks(&page(name)).iter().map(|block| (*name, whole(block))).collect::<Vec<_>>())
        .collect()
}

/// Whether a block of these pages has a key, commented out or not.
#[must_use]
pub fn has_key(key: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let has = |block: &str| block.split(|c| !is_word(c)).any(|word| word == key);
    PAGES.iter().any(|name| blocks(&page(name)).iter().any(|block| has(block)))
}
