//! `porin wit`: what is derived from `wit/` and checked in, made again or compared.
//!
//! Two things are derived from each world: the reference component that hosts compare cells with, and the SDK's
//! bindings. Both are checked in so that neither a gateway nor a cell's build needs the tools that made them.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use wit_bindgen_core::{Files, WorldGenerator};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve, WorldId};

use super::cell_build::strip;

/// Each world with the files made of it.
const WORLDS: [(&str, &str, &str); 1] = [("filter", "wit/filter.ref.wasm", "cells/sdk/src/bindings.rs")];

/// Writes the derived files, or with `check` says which are out of date.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir("wit").context("reading `wit/` (run this at the top of porin's checkout)")?;
    let mut stale = Vec::new();
    for (name, reference_path, bindings_path) in WORLDS {
        let world = resolve.select_world(&[package], Some(name))?;
        let made = [(reference_path, reference(&resolve, world)?), (bindings_path, bindings(&mut resolve, world)?)];
        for (path, bytes) in made {
            match fs::read(path) {
                Ok(there) if there == bytes => {}
                _ if check => stale.push(path),
                _ => write(Path::new(path), &bytes)?,
            }
        }
    }
    if !stale.is_empty() {
        bail!("out of date with `wit/`: {} (run `make wit`)", stale.join(", "));
    }
    Ok(())
}

/// The smallest component of the world's type: a core module without code, made a component.
fn reference(resolve: &Resolve, world: WorldId) -> anyhow::Result<Vec<u8>> {
    let mut module = wit_component::dummy_module(resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8, false)?;
    strip(&ComponentEncoder::default().module(&module)?.validate(true).encode()?)
}

fn bindings(resolve: &mut Resolve, world: WorldId) -> anyhow::Result<Vec<u8>> {
    let options = wit_bindgen_rust::Opts {
        format: true,
        pub_export_macro: true,
        runtime_path: Some("crate::rt".into()),
        additional_derive_attributes: vec!["PartialEq".into()],
        ..Default::default()
    };
    let mut files = Files::default();
    options.build().generate(resolve, world, &mut files)?;
    let (_, bytes) = files.iter().next().context("no bindings were made")?;
    Ok(bytes.to_vec())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("made {}", path.display());
    Ok(())
}
