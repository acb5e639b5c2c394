//! What is not a cell is refused with its own error, before anything is instantiated.

#![allow(clippy::panic)] // helpers of tests, which panic as tests do

use porin_cell::{Cell, Engine, LoadError, Plan, StartError, World};
use porin_core::{limits::CellLimits, setup::Setup};
use porin_test_support::{LOG_IMPORT, WatCell, cell};

fn load(bytes: &[u8]) -> Result<Plan, LoadError> {
    Plan::load(&Engine::new(&CellLimits::default()), bytes, World::Filter, &CellLimits::default())
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

fn check(text: &str, expected: &str) {
    let error = load(&component(text)).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

/// The stock cell's text with a replacement, to be wrong in one point only.
fn spoilt(from: &[u8], to: &[u8]) -> Vec<u8> {
    let bytes = cell("deadband");
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn a_core_module_is_not_a_cell() {
    check("(module)", "a core module, not a component");
}

#[test]
fn a_start_function_is_refused_in_core_and_component() {
    let cell = WatCell { items: "(func $s) (start $s)", ..WatCell::default() };
    assert_eq!(load(&cell.build()).expect_err("refused"), LoadError::StartFunction);
    check("(component (import \"f\" (func $f)) (start $f))", "it has a start function");
}

#[test]
fn an_import_that_no_world_offers_is_named() {
    check("(component (import \"wasi:sockets/tcp@0.2.0\" (instance)))", "it imports `wasi:sockets/tcp@0.2.0`");
    check("(component (import \"f\" (func)))", "it imports `f`");
}

#[test]
fn an_import_of_another_type_is_named() {
    let clock = r#"(component (import "porin:cell/clock@0.1.0" (instance (export "now-us" (func (result f32))))))"#;
    check(clock, "its import `porin:cell/clock@0.1.0` has another type");
    let more = r#"(component (import "porin:cell/clock@0.1.0" (instance (export "set-us" (func (param "to" u64))))))"#;
    check(more, "its import `porin:cell/clock@0.1.0` has another type");
}

#[test]
fn a_missing_export_is_named() {
    check("(component)", "it has no export `init`");
}

#[test]
fn an_export_of_another_type_is_named() {
    let text = r#"(component
        (core module $m (func (export "init") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func (export "init") (result u32) (canon lift (core func $i "init"))))"#;
    check(text, "its export `init` has another type");
}

#[test]
fn parts_of_the_component_model_that_cells_do_not_use_are_named() {
    check("(component (component))", "it uses nested components");
    check("(component (import \"m\" (core module)))", "it uses imported core modules");
    check("(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))", "it uses resources");
    let utf16 = r#"(component
        (core module $m (memory (export "m") 1) (func (export "f") (param i32 i32))
          (func (export "r") (param i32 i32 i32 i32) (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func (param "s" string) (canon lift (core func $i "f") (memory (core memory $i "m")) (realloc (core func $i "r")) string-encoding=utf16)))"#;
    check(utf16, "it uses an encoding other than UTF-8");
}

#[test]
fn a_component_that_breaks_the_rules_is_invalid() {
    let bytes = spoilt(b"process", b"proc\xffss");
    let error = load(&bytes).expect_err("refused");
    assert!(matches!(error, LoadError::Malformed { .. } | LoadError::Invalid { .. }), "{error}");
}

#[test]
fn a_renamed_field_is_another_type() {
    let error = load(&spoilt(b"quality", b"qualify")).expect_err("refused");
    assert!(matches!(error, LoadError::ImportType(..)), "{error}");
}

#[test]
fn a_component_larger_than_a_cell_is_refused_unread() {
    let error = load(&[0; 51_201]).expect_err("refused");
    assert_eq!(error, LoadError::TooLarge { bytes: 51_201, limit: 51_200 });
}

#[test]
fn a_component_cut_at_any_byte_is_refused() {
    let bytes = cell("threshold");
    assert!(load(&bytes).is_ok());
    for cut in 0..bytes.len() {
        let error = load(&bytes[..cut]).expect_err("a part is no cell");
        // Cut between two sections it is a whole component, but no whole cell.
        assert!(
            matches!(error, LoadError::Malformed { .. } | LoadError::Invalid { .. } | LoadError::MissingExport(..)),
            "cut at {cut}: {error}"
        );
    }
}

#[test]
fn a_damaged_component_never_makes_the_loader_panic() {
    let bytes = cell("threshold");
    let mut state = 1_u32;
    for _ in 0..2_000 {
        let mut damaged = bytes.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % damaged.len();
            damaged[at] ^= 1 << (state & 7);
        }
        if let Ok(plan) = load(&damaged) {
            // Still a cell by type: it may run, and then fault, but within its limits.
            let _ = Cell::start(&plan, &[], CellLimits::default(), &Setup::default());
        }
    }
}

#[test]
fn a_capability_must_be_granted() {
    let bytes = with_log();
    let plan = load(&bytes).expect("its type is right");
    assert_eq!(plan.imports().collect::<Vec<_>>(), [("porin:cell/log@0.1.0", "log")]);
    let error = Cell::start(&plan, &[], CellLimits::default(), &Setup::default()).expect_err("refused");
    assert_eq!(error, StartError::NotGranted { import: "porin:cell/log@0.1.0", grant: "log" });
}

/// A component of the right type that imports `log`.
fn with_log() -> Vec<u8> {
    WatCell { imports: LOG_IMPORT, ..WatCell::default() }.build()
}

#[test]
fn a_component_of_another_world_is_refused_by_its_first_difference() {
    let load = |name: &str, world| {
        let outcome = Plan::load(&Engine::new(&CellLimits::default()), &cell(name), world, &CellLimits::default());
        outcome.map(|_| ()).map_err(|error| error.to_string())
    };
    for (name, own) in [("deadband", World::Filter), ("topics", World::MessageFilter), ("lht65", World::Decoder)] {
        for world in World::ALL {
            let outcome = load(name, world);
            assert_eq!(outcome.is_ok(), world == own, "{name} as {world:?}: {outcome:?}");
        }
    }
    let error = load("deadband", World::Decoder).expect_err("another world");
    assert!(error.contains("process") && error.contains("decoder"), "{error}");
}
