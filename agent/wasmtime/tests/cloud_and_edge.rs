//! The example that porin began with: the same component, the same answer and the same log on both engines.

use porin_cell::ProcessingUnit;
use porin_core::limits::CellLimits;
use porin_test_support::cell;
use porin_wasmtime::{Outcome, handle_request};

#[test]
fn the_same_component_answers_and_logs_the_same_at_the_edge_and_in_the_cloud() {
    let component = cell("cloud-demo");
    assert!(component.len() <= 51_200);
    for input in ["hello edge", "", "straße, ΑΣ, ﬁ, \u{1f600}", &"long ".repeat(200)] {
        let mut unit = ProcessingUnit::start(&component, &["log".into()], CellLimits::default()).expect("it starts");
        let answer = unit.handle_request(input);
        // A line may have 1,024 bytes at the edge; what a cell logs beyond is a fault there.
        if input.len() > 1_000 {
            assert!(answer.is_err());
            continue;
        }
        let (log, _) = unit.take_log();
        let edge =
            Outcome { answer: answer.expect("no fault"), log: log.into_iter().map(|line| line.message).collect() };
        assert_eq!(edge.answer, format!("Processed: {}", input.to_uppercase()));
        assert_eq!(edge.log, [format!("Processing input: {input}")]);
        assert_eq!(handle_request(&component, input).expect("it runs"), edge, "{input}");
    }
}

#[test]
fn without_the_grant_it_does_not_start_at_the_edge() {
    let error = ProcessingUnit::start(&cell("cloud-demo"), &[], CellLimits::default()).expect_err("not granted");
    assert!(error.to_string().contains("techsheet:cloud-demo/logger"), "{error}");
}
