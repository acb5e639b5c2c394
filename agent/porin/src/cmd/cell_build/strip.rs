//! Removes custom sections: names, producers, debug information.
//!
//! The test that compares what is derived from `wit/` includes this file, too.

#![allow(clippy::wildcard_enum_match_arm)] // wasmparser's enums: most of what they list is copied as it is

use std::{borrow::Cow, ops::Range};

use anyhow::{Context, bail};
use wasm_encoder::{Component, ComponentSectionId, Module, RawSection, SectionId};
use wasmparser_tools::{Chunk, Encoding, Parser, Payload};

/// Returns the same component or module without custom sections, at every depth.
///
/// # Errors
/// If the wasm is cut off or malformed.
pub(super) fn strip(wasm: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut module = Module::new();
    let mut component = None;
    let mut parser = Parser::new(0);
    let mut at = 0;
    loop {
        let Chunk::Parsed { consumed, payload } = parser.parse(&wasm[at..], true)? else {
            bail!("the wasm ends within a section");
        };
        at += consumed;
        let (id, data) = match &payload {
            Payload::End(_) => return Ok(component.map_or_else(|| module.finish(), Component::finish)),
            Payload::Version { encoding: Encoding::Component, .. } => {
                component = Some(Component::new());
                continue;
            }
            Payload::ModuleSection { unchecked_range: range, .. }
            | Payload::ComponentSection { unchecked_range: range, .. } => {
                // The parser would go on inside; the nested one is a whole of its own, so step over it.
                at = usize::try_from(range.end)?;
                let id = match payload {
                    Payload::ModuleSection { .. } => ComponentSectionId::CoreModule as u8,
                    _ => ComponentSectionId::Component as u8,
                };
                (id, Cow::Owned(strip(slice(wasm, range)?)?))
            }
            Payload::CustomSection(_) => continue,
            Payload::CodeSectionStart { unchecked_range: range, .. } => {
                // The parser would go on body by body; the section is copied as a whole.
                parser.skip_section();
                at = usize::try_from(range.end)?;
                (SectionId::Code as u8, Cow::Borrowed(slice(wasm, range)?))
            }
            other => match other.as_section() {
                Some((id, range)) => (id, Cow::Borrowed(slice(wasm, &range)?)),
                None => continue,
            },
        };
        let section = RawSection { id, data: &data };
        match &mut component {
            Some(component) => drop(component.section(&section)),
            None => drop(module.section(&section)),
        }
    }
}

fn slice<'a>(wasm: &'a [u8], range: &Range<u64>) -> anyhow::Result<&'a [u8]> {
    let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
    wasm.get(range).context("a section reaches past the end of the wasm")
}
