//! The example that porin began with: logs what it is asked, and answers with it in capitals.
//!
//! Not a cell for a slot: its world is `wit/cloud-demo`, and it runs with `porin cell call`, at the edge's interpreter and at the
//! cloud's compiler alike:
//!
//! ```text
//! $ porin cell call target/cells/cloud-demo.wasm handle-request "hello edge"
//! Processing input: hello edge
//! Processed: HELLO EDGE
//! ```
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::{format, string::String};

use porin_sdk::{ProcessingUnit, logger};

/// The unit of that document.
#[derive(Debug)]
pub struct CloudDemo;

impl ProcessingUnit for CloudDemo {
    fn handle_request(input: &str) -> String {
        logger::log(&format!("Processing input: {input}"));
        format!("Processed: {}", input.to_uppercase())
    }
}

porin_sdk::export!(CloudDemo as processing_unit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_in_capitals() {
        assert_eq!(CloudDemo::handle_request("hello, straße 7"), "Processed: HELLO, STRASSE 7");
    }
}
