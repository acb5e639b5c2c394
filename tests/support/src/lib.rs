//! What porin's tests share: where the built cells and the recorded data are, and how a test is skipped.

#![allow(clippy::panic)] // this is test code, in a crate of its own

use std::{
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

pub mod authority;
pub mod documented;
mod generated;
pub mod traces;
mod wat_cell;
mod zoo;

pub use generated::generated_cell;
pub use wat_cell::{
    CLOCK_IMPORT, EMPTY, LOG_IMPORT, OK, PASS, WatCell, component, counting_cell, counting_cell_with,
    largest_marking_cell, marking_cell,
};
pub use zoo::{Ends, Hostile, zoo};

/// The top of the checkout.
#[must_use]
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Cargo's target folder, where `make` puts the built cells and programs.
#[must_use]
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| top().join("target"), PathBuf::from)
}

/// The cells that porin brings along for slots: every package under `cells/` but the SDK and the example.
///
/// # Panics
/// If the folder cannot be read.
#[must_use]
pub fn stock_cells() -> Vec<String> {
    let folders = fs::read_dir(top().join("cells")).expect("the folder of the cells").map_while(Result::ok);
    let cells = folders.filter(|folder| folder.path().join("Cargo.toml").exists());
    let mut names: Vec<_> = cells.map(|cell| cell.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !["sdk", "cloud-demo"].contains(&name.as_str()));
    names.sort();
    assert!(!names.is_empty());
    names
}

/// A stock cell's component, as `make cells` built it.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn cell(name: &str) -> Vec<u8> {
    let path = target_dir().join("cells").join(name).with_extension("wasm");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `make cells`", path.display()))
}

/// One row of a recorded stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Microseconds since the Unix epoch, by the recording's own clock.
    pub time_us: u64,
    /// Which series of the file.
    pub channel: String,
    /// As recorded.
    pub value: f64,
}

/// The rows of a `.csv.gz` with the columns timestamp, channel, value, in the file's order.
///
/// # Panics
/// If the file is missing or not of that form: recorded data does not change.
#[must_use]
pub fn rows(path: &Path) -> Vec<Row> {
    let mut text = String::new();
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("recorded data is gzip");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let row = |record: csv::StringRecord| {
        let seconds: f64 = record[0].parse().expect("a timestamp in seconds");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let time_us = (seconds * 1e6).round() as u64;
        Row { time_us, channel: record[1].to_owned(), value: record[2].parse().expect("a number") }
    };
    reader.records().map(|record| row(record.expect("a row"))).collect()
}

/// Every recorded set: those that the repository carries, and where it is there, the folder of the others
/// (`../shared/data`, or `PORIN_DATA`). `None` for the latter means: skip, and say so.
#[must_use]
pub fn all_data() -> Option<Vec<PathBuf>> {
    let folder = env::var_os("PORIN_DATA").map_or_else(|| top().join("../shared/data"), PathBuf::from);
    let mut files: Vec<_> = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.to_string_lossy().ends_with(".csv.gz"));
    files.sort();
    (!files.is_empty()).then_some(files)
}

/// Says that a test was skipped and why. `make test` lists these lines last; under `PORIN_REQUIRE=all` it fails.
///
/// # Panics
/// Under `PORIN_REQUIRE=all`.
pub fn skip(test: &str, reason: &str) {
    assert!(env::var_os("PORIN_REQUIRE").is_none_or(|value| value != "all"), "{test} would be skipped: {reason}");
    let path = target_dir().join("skipped-tests.txt");
    let line = format!("{test}: {reason}\n");
    let written = fs::OpenOptions::new().create(true).append(true).open(&path);
    written.and_then(|mut file| file.write_all(line.as_bytes())).expect("the target folder can be written to");
}
