//! The files that are generated from `wit/` and checked in are up to date.
//!
//! Two things are derived from each world: the reference component that hosts compare cells with, and the SDK's
//! bindings. Both are checked in so that neither a gateway nor a cell's build needs the tools that made them.

#[path = "../../../agent/porin/src/cmd/cell_build/strip.rs"]
mod strip;

use std::{env, fs};

use anyhow::Context;
use porin_test_support::top;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::WithOption;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve, WorldId};

use self::strip::strip;

/// Each world: the folder of its package, its name, and the files made of it.
const WORLDS: [(&str, &str, &str, &str); 4] = [
    ("wit", "filter", "wit/filter.ref.wasm", "cells/sdk/src/bindings.rs"),
    ("wit", "message-filter", "wit/message-filter.ref.wasm", "cells/sdk/src/bindings_message_filter.rs"),
    ("wit", "decoder", "wit/decoder.ref.wasm", "cells/sdk/src/bindings_decoder.rs"),
    (
        "wit/cloud-demo",
        "processing-unit",
        "wit/cloud-demo/processing-unit.ref.wasm",
        "cells/sdk/src/bindings_processing_unit.rs",
    ),
];

/// Where the bindings of the further worlds find what those of an earlier one have made.
const SHARED: [(&str, &str); 4] = [
    ("porin:cell/types@0.1.0", "crate::bindings::porin::cell::types"),
    ("porin:cell/log@0.1.0", "crate::bindings::porin::cell::log"),
    ("porin:cell/clock@0.1.0", "crate::bindings::porin::cell::clock"),
    ("porin:cell/messages@0.1.0", "crate::bindings_message_filter::porin::cell::messages"),
];

/// `make wit` runs this with `PORIN_WRITE=1`, which writes the files instead of comparing them.
#[test]
fn the_files_that_are_derived_from_wit_are_up_to_date() {
    let write = env::var_os("PORIN_WRITE").is_some();
    let mut outdated = Vec::new();
    for (folder, name, reference_path, bindings_path) in WORLDS {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(top().join(folder)).expect("a WIT package");
        let world = resolve.select_world(&[package], Some(name)).expect("its world");
        let reference = reference(&resolve, world).expect("a component");
        let bindings = bindings(&mut resolve, world, name).expect("bindings");
        for (path, bytes) in [(reference_path, reference), (bindings_path, bindings)] {
            if write {
                fs::write(top().join(path), bytes).expect("the checkout can be written");
            } else if fs::read(top().join(path)).expect("a file") != bytes {
                outdated.push(path);
            }
        }
    }
    assert!(outdated.is_empty(), "not what `wit/` gives: {outdated:?}; run `make wit`");
}

/// The smallest component of the world's type: a core module without code, made a component.
fn reference(resolve: &Resolve, world: WorldId) -> anyhow::Result<Vec<u8>> {
    let mut module = wit_component::dummy_module(resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8, false)?;
    strip(&ComponentEncoder::default().module(&module)?.validate(true).encode()?)
}

fn bindings(resolve: &mut Resolve, world: WorldId, name: &str) -> anyhow::Result<Vec<u8>> {
    let shared = match name {
        "message-filter" => &SHARED[..3],
        "decoder" => &SHARED[..],
        _ => &[],
    };
    let with = shared.iter().map(|(interface, path)| ((*interface).into(), WithOption::Path((*path).into())));
    let options = wit_bindgen_rust::Opts {
        format: true,
        pub_export_macro: true,
        runtime_path: Some("crate::rt".into()),
        with: with.collect(),
        disable_custom_section_link_helpers: true,
        additional_derive_attributes: vec!["PartialEq".into()],
        ..Default::default()
    };
    let mut files = Files::default();
    options.build().generate(resolve, world, &mut files)?;
    let (_, bytes) = files.iter().next().context("no bindings were made")?;
    Ok(without_imports_of_the_crate(std::str::from_utf8(bytes)?)?.as_bytes().to_vec())
}

/// The bindings end with a section that says what the world imports, linked into every program that has the SDK in it: then each
/// cell would import what any world does. What a cell itself is said to import stands in its `export!`.
fn without_imports_of_the_crate(bindings: &str) -> anyhow::Result<&str> {
    let section = bindings.find(":encoded world\"").context("the bindings end in another way than they did")?;
    let item =
        bindings[..section].rfind("#[rustfmt::skip]").context("the section begins in another way than it did")?;
    Ok(&bindings[..item])
}
