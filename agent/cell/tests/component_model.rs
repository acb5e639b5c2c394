//! What the loader takes of the component model, and what it refuses: a case for each row of the table in `docs/components.md`.
//!
//! The cases follow the kinds of the component model's own test suite: invalid, out of order, nested, aliased, oversized.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use std::fmt::Write as _;

use porin_cell::{Engine, LoadError, Plan, World};
use porin_core::limits::CellLimits;
use porin_test_support::{CLOCK_IMPORT, LOG_IMPORT, WatCell, cell, top};

fn load(bytes: &[u8]) -> Result<(), LoadError> {
    let limits = CellLimits::default();
    Plan::load(&Engine::new(&limits), bytes, World::Filter, &limits).map(drop)
}

fn text(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A good cell with sections in front of its own, which then have other indices.
fn with_sections_at_the_end(sections: &str) -> Vec<u8> {
    let extra = text(&format!("(component {sections})"));
    // After the magic number and the version.
    [&cell("deadband")[..], &extra[8..]].concat()
}

/// Every case: its row, the component, and for one that is refused the words of the error.
#[allow(clippy::too_many_lines)] // a list
fn cases() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let mut cases = Vec::new();
    let mut case = |row, bytes, expected| cases.push((row, bytes, expected));

    case("a component of the world", cell("deadband"), None);
    case(
        "imports of `log` and `clock`",
        WatCell { imports: &format!("{LOG_IMPORT}{CLOCK_IMPORT}"), ..WatCell::default() }.build(),
        None,
    );
    case("type imports and instances of types only", cell("threshold"), None);
    case("unused types", with_sections_at_the_end("(type (enum \"a\" \"b\")) (type (flags \"c\"))"), None);
    case(
        "a further core module that is not instantiated",
        with_sections_at_the_end("(core module (func (export \"f\")))"),
        None,
    );
    let custom = [&cell("deadband")[..], &[0, 6, 4, b'n', b'a', b'm', b'e', 0]].concat();
    case("custom sections", custom, None);

    case("a core module", text("(module)"), Some("a core module, not a component"));
    case("no bytes", vec![], Some("not a component"));
    case("another magic number", b"\0bsm\x0d\0\x01\0".to_vec(), Some("not a component"));
    case("another version", b"\0asm\x0e\0\x01\0".to_vec(), Some("unknown component version"));
    case("cut off in a section", cell("deadband")[..2_000].to_vec(), Some("not a component"));
    case("bytes after the end", [&cell("deadband")[..], &[0xff; 9]].concat(), Some("not a component"));
    case("a section of no known kind", [&cell("deadband")[..], &[0x3f, 1, 0]].concat(), Some("malformed section id"));
    case("51,201 bytes", vec![0; 51_201], Some("a cell may have 51200"));

    case("no exports", text("(component)"), Some("it has no export `init`"));
    case("a value imported", text("(component (import \"v\" (value u32)))"), Some("values"));
    case("a start function", text("(component (import \"f\" (func $f)) (start $f))"), Some("it has a start function"));
    case(
        "a core start function",
        WatCell { items: "(func $s) (start $s)", ..WatCell::default() }.build(),
        Some("it has a start function"),
    );
    case("a component within", text("(component (component))"), Some("nested components"));
    let deep = format!("{}{}", "(component ".repeat(60), ")".repeat(60));
    case("sixty components within each other", text(&deep), Some("nested components"));
    case(
        "an instance of a component",
        text("(component (import \"c\" (component $c)) (instance (instantiate $c)))"),
        Some("components"),
    );
    case(
        "an instance made of exports",
        text("(component (import \"f\" (func $f)) (instance (export \"f\" (func $f))))"),
        Some("instances of its own"),
    );
    case("an imported component", text("(component (import \"c\" (component)))"), Some("imported components"));
    case("an imported core module", text("(component (import \"m\" (core module)))"), Some("imported core modules"));
    case("an imported function", text("(component (import \"f\" (func)))"), Some("it imports `f`"));
    case(
        "an unknown interface",
        text("(component (import \"wasi:sockets/tcp@0.2.0\" (instance)))"),
        Some("it imports `wasi:sockets/tcp@0.2.0`"),
    );
    case(
        "an interface of a later version",
        text("(component (import \"porin:cell/log@0.2.0\" (instance)))"),
        Some("it imports `porin:cell/log@0.2.0`"),
    );
    case(
        "a capability of another type",
        text("(component (import \"porin:cell/clock@0.1.0\" (instance (export \"now-us\" (func (result f32))))))"),
        Some("has another type"),
    );
    case(
        "a capability with more functions",
        text(
            "(component (import \"porin:cell/clock@0.1.0\" (instance (export \"set-us\" (func (param \"to\" u64))))))",
        ),
        Some("has another type"),
    );
    case(
        "an export of another type",
        text(
            "(component (core module $m (func (export \"init\") (result i32) i32.const 0)) (core instance $i (instantiate $m)) (func (export \"init\") (result u32) (canon lift (core func $i \"init\"))))",
        ),
        Some("its export `init` has another type"),
    );
    case(
        "a resource",
        text("(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))"),
        Some("resources"),
    );
    case(
        "UTF-16",
        text(
            "(component (core module $m (memory (export \"m\") 1) (func (export \"f\") (param i32 i32)) (func (export \"r\") (param i32 i32 i32 i32) (result i32) i32.const 0)) (core instance $i (instantiate $m)) (func (param \"s\" string) (canon lift (core func $i \"f\") (memory (core memory $i \"m\")) (realloc (core func $i \"r\")) string-encoding=utf16)))",
        ),
        Some("an encoding other than UTF-8"),
    );

    case("an index that is not there", text("(component (alias export 99 \"x\" (func)))"), Some("unknown instance"));
    let aliases = "(alias export $t \"x\" (type))".repeat(500);
    case(
        "hundreds of aliases of what is no instance's",
        text(&format!("(component (import \"t\" (instance $t (export \"x\" (type (sub resource))))) {aliases})")),
        Some("it imports `t`"),
    );
    let mut types = String::from("(type $t0 u8)");
    for n in 1..40 {
        // Writing to a string cannot fail.
        let _ = write!(types, "(type $t{n} (tuple $t{m} $t{m}))", m = n - 1);
    }
    case("types that double forty times", text(&format!("(component {types})")), Some("invalid"));

    for (row, items) in [
        ("a 64-bit memory", "(memory $big i64 1)"),
        ("a second memory", "(memory $second 1)"),
        ("threads", "(memory $shared 1 1 shared)"),
        ("exceptions", "(tag $e)"),
        ("garbage collection", "(type (struct (field i32)))"),
    ] {
        case(row, unchecked(items), Some("invalid"));
    }
    // Bodies of functions are the engine's to validate.
    for (row, items, words) in [
        ("SIMD", "(func (drop (v128.const i64x2 0 0)))", "unexpected SIMD opcode"),
        ("tail calls", "(func $f return_call $f)", "tail calls support is not enabled"),
    ] {
        case(row, WatCell { items, ..WatCell::default() }.build(), Some(words));
    }
    case("a function with a type error", with_a_type_error(), Some("type mismatch"));
    let globals = "(global i32 (i32.const 0))".repeat(1_001);
    case("1,001 globals", WatCell { items: &globals, ..WatCell::default() }.build(), Some("globals"));
    let functions = "(func (result i32) (i32.add (i32.const 1) (i32.const 2)))".repeat(1_001);
    case("1,001 functions", WatCell { items: &functions, ..WatCell::default() }.build(), Some("functions"));
    let tiny = "(func)".repeat(500);
    case(
        "functions of less than 40 bytes on average",
        WatCell { items: &tiny, ..WatCell::default() }.build(),
        Some("average bytes per function"),
    );
    let wide = format!("(func (param {}))", "i32 ".repeat(33));
    case("33 parameters", WatCell { items: &wide, ..WatCell::default() }.build(), Some("parameters"));
    let locals = format!("(func (local {}))", "i64 ".repeat(1_001));
    case("1,001 locals", WatCell { items: &locals, ..WatCell::default() }.build(), Some("locals"));
    cases
}

/// A component with a core module that wit-component would not take.
fn unchecked(items: &str) -> Vec<u8> {
    text(&format!("(component (core module (memory 1) {items}))"))
}

/// A good cell but for one function, which answers an `i64` where its type says `i32`.
fn with_a_type_error() -> Vec<u8> {
    let mut bytes = WatCell { items: "(func (result i32) (i32.const 1234567))", ..WatCell::default() }.build();
    let constant = [0x41, 0x87, 0xad, 0xcb, 0];
    let at = bytes.windows(constant.len()).position(|window| window == constant).expect("it is there");
    bytes[at] = 0x42;
    bytes
}

#[test]
fn every_row_of_the_table_is_as_it_says() {
    let table = std::fs::read_to_string(top().join("docs/components.md")).expect("it is there");
    let cases = cases();
    for (row, bytes, expected) in &cases {
        let outcome = load(bytes);
        let verdict = match (expected, &outcome) {
            (None, Ok(())) => "accepted".to_owned(),
            (Some(words), Err(error)) if error.to_string().contains(words) => format!("refused: {words}"),
            _ => panic!("{row}: {outcome:?}, expected {expected:?}"),
        };
        let line = format!("| {row} | {verdict} |");
        assert!(table.contains(&line), "docs/components.md has no line {line:?}");
    }
    let rows = table.lines().filter(|line| line.ends_with("| accepted |") || line.contains(" | refused: ")).count();
    assert_eq!(rows, cases.len(), "docs/components.md has a row without a case");
}

#[test]
fn the_stock_cells_keep_to_the_strictest_limits_there_are() {
    // `EnforcedLimits::strict()`: 40 bytes for each function on average, among others. The engine has it on.
    for name in porin_test_support::stock_cells() {
        let bytes = cell(&name);
        let loaded = World::ALL.into_iter().any(|world| {
            let limits = CellLimits::default();
            Plan::load(&Engine::new(&limits), &bytes, world, &limits).is_ok()
        });
        assert!(loaded, "{name}");
    }
}
