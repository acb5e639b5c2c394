//! The same bits everywhere: what cells make of recorded streams has the digest that it had on x86-64.
//!
//! `make test-arm` runs this for aarch64 and armv7. The digests are in `digests.txt`; `PORIN_BLESS=1` writes that file anew.

use std::{fmt::Write as _, fs, path::Path};

use porin_test_support::{
    all_data, cell, generated_cell, rows, skip, top,
    traces::{Case, cases, channels, on_wasmi, readings, setup},
};

/// Rows of each set: the emulator takes its time.
const ROWS: usize = 3_000;

/// Generated cells.
const SEEDS: u64 = 24;

#[test]
fn what_cells_make_of_recorded_streams_has_the_digest_that_it_had_on_x86_64() {
    let carried =
        ["buoy", "glucose", "vehicle_gps"].map(|set| top().join("tests/data").join(set).with_extension("csv.gz"));
    let files = all_data().unwrap_or_else(|| {
        skip(
            "what_cells_make_of_recorded_streams_has_the_digest_that_it_had_on_x86_64",
            "only the carried sets are there",
        );
        carried.to_vec()
    });
    let mut made = String::new();
    for path in &files {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let set = name.strip_suffix(".csv.gz").expect("only those were asked for");
        let mut rows = rows(path);
        rows.truncate(ROWS);
        let channels = channels(&rows);
        let readings = readings(&rows, &channels);
        let mut line = |name: &str, digest: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(made, "{set} {name} {digest}");
        };
        for Case { cell: name, params, outputs } in cases() {
            line(name, &on_wasmi(&cell(name), &setup(&params, outputs, &channels), &readings).digest());
        }
        if set == "vehicle_gps" {
            let setup = setup(&[], &[], &channels);
            for seed in 0..SEEDS {
                let trace = on_wasmi(&generated_cell(seed), &setup, &readings);
                line(&format!("generated-{seed}"), &trace.digest());
            }
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/digests.txt");
    if std::env::var_os("PORIN_BLESS").is_some() {
        return fs::write(&path, made).expect("written");
    }
    let wanted = fs::read_to_string(&path).expect("it is there");
    for line in made.lines() {
        assert!(wanted.lines().any(|wanted| wanted == line), "no such line in digests.txt: {line}");
    }
}
