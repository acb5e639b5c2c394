//! Whether a component is of its world: every import and export compared with a reference component.
//!
//! The reference is made from `wit/` by `make wit` and embedded. Subtyping is wasmparser's, on the validated types,
//! so that a record with one field more, or the fields swapped, is another type.

#![allow(clippy::wildcard_enum_match_arm)] // the enums here are wasmparser's: most of what they list is refused or of no concern

use std::sync::OnceLock;

use wasmparser::{
    BinaryReaderError, ComponentImport, Parser, Payload, ValidPayload, Validator, component_types::ComponentEntityType,
    types::Types,
};

use porin_core::setup::World;

use crate::{
    caps::{self, Capability},
    engine,
    error::LoadError,
};

/// What a component must be, and what it may ask for.
pub(crate) struct Contract {
    /// Its name in `wit/`.
    pub(crate) world: &'static str,
    /// The smallest component of the world, and what the validator knows of it once somebody has asked.
    reference: &'static [u8],
    known: OnceLock<Types>,
    exports: &'static [&'static str],
    /// Everything that it may import.
    pub(crate) capabilities: &'static [Capability],
    /// Only types come from here; they are no capabilities.
    types: &'static [&'static str],
}

/// The exports of every world of cells, in the order of `wit/filter.wit`.
const EXPORTS: &[&str] = &["init", "streams-added", "process", "tick", "flush", "save", "restore"];

const TYPES: &[&str] = &["porin:cell/types@0.1.0", "porin:cell/messages@0.1.0"];

static FILTER: Contract = Contract {
    world: "filter",
    reference: include_bytes!("../../../wit/filter.ref.wasm"),
    known: OnceLock::new(),
    exports: EXPORTS,
    capabilities: &caps::ALL,
    types: TYPES,
};

static MESSAGE_FILTER: Contract = Contract {
    world: "message-filter",
    reference: include_bytes!("../../../wit/message-filter.ref.wasm"),
    known: OnceLock::new(),
    exports: EXPORTS,
    capabilities: &caps::ALL,
    types: TYPES,
};

static DECODER: Contract = Contract {
    world: "decoder",
    reference: include_bytes!("../../../wit/decoder.ref.wasm"),
    known: OnceLock::new(),
    exports: EXPORTS,
    capabilities: &caps::ALL,
    types: TYPES,
};

/// The world of the document that porin began with.
pub(crate) static PROCESSING_UNIT: Contract = Contract {
    world: "processing-unit",
    reference: include_bytes!("../../../wit/cloud-demo/processing-unit.ref.wasm"),
    known: OnceLock::new(),
    exports: &["handle-request"],
    capabilities: &caps::LOGGER,
    types: &[],
};

impl Contract {
    pub(crate) fn of(world: World) -> &'static Self {
        match world {
            World::Filter => &FILTER,
            World::MessageFilter => &MESSAGE_FILTER,
            World::Decoder => &DECODER,
        }
    }
}

/// Validates the component and compares it with the world. Gives back the capabilities that it imports.
pub(crate) fn check(bytes: &[u8], contract: &'static Contract) -> Result<Vec<&'static Capability>, LoadError> {
    let world = contract.world;
    let ours = contract.known.get_or_init(|| {
        validate(contract.reference).expect("the reference is made by our own tools, and every test loads it")
    });
    let theirs = validate(bytes)?;
    let mut capabilities = Vec::new();
    for import in imports(bytes)? {
        let name = import.name.0;
        let offered = ours.as_ref().component_entity_type_of_import(name);
        let asked = theirs.as_ref().component_entity_type_of_import(name);
        let (Some(offered), Some(asked)) = (offered, asked) else {
            return Err(LoadError::UnknownImport(name.to_owned()));
        };
        if !is_subtype(&offered, ours, &asked, &theirs) {
            return Err(LoadError::ImportType(name.to_owned(), world));
        }
        match contract.capabilities.iter().find(|capability| capability.interface == name) {
            Some(capability) => capabilities.push(capability),
            None if contract.types.contains(&name) || matches!(asked, ComponentEntityType::Type { .. }) => {}
            None => return Err(LoadError::UnknownImport(name.to_owned())),
        }
    }
    for name in contract.exports {
        let wanted = ours.as_ref().component_entity_type_of_export(name);
        let wanted = wanted.expect("the reference has every export of its world");
        let Some(given) = theirs.as_ref().component_entity_type_of_export(name) else {
            return Err(LoadError::MissingExport(name, world));
        };
        if !is_subtype(&given, &theirs, &wanted, ours) {
            return Err(LoadError::ExportType(name, world));
        }
    }
    Ok(capabilities)
}

/// Whether `a` can stand wherever `b` is asked for.
fn is_subtype(a: &ComponentEntityType, a_types: &Types, b: &ComponentEntityType, b_types: &Types) -> bool {
    ComponentEntityType::is_subtype_of(a, a_types.as_ref(), b, b_types.as_ref())
}

/// Validates everything but the bodies of functions: the engine validates those when it compiles them, and once is enough.
fn validate(bytes: &[u8]) -> Result<Types, LoadError> {
    let mut validator = Validator::new_with_features(engine::features());
    let mut types = None;
    for payload in Parser::new(0).parse_all(bytes) {
        if let ValidPayload::End(end) = payload.and_then(|payload| validator.payload(&payload)).map_err(invalid)? {
            // The last one is that of the component itself, which ends after all that is nested in it.
            types = Some(end);
        }
    }
    types.ok_or_else(|| LoadError::Malformed { message: "it ends too early".into(), offset: bytes.len() })
}

fn invalid(error: BinaryReaderError) -> LoadError {
    let (message, offset) = (error.message().to_owned(), error.offset());
    // Cut off is not the same as wrong: half a download, perhaps.
    if message.contains("unexpected end") {
        LoadError::Malformed { message, offset }
    } else {
        LoadError::Invalid { message, offset }
    }
}

/// The component's own imports, not those of what is nested in it.
fn imports(bytes: &[u8]) -> Result<Vec<ComponentImport<'_>>, LoadError> {
    let mut found = Vec::new();
    top_level(bytes, |payload| {
        if let Payload::ComponentImportSection(section) = payload {
            for import in section {
                found.push(import.map_err(malformed)?);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Calls `each` for the sections of the component itself. Nested modules come as one payload, unparsed.
pub(crate) fn top_level<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(Payload<'a>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut parser = Parser::new(0);
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let (payload, consumed) = match parser.parse(rest, true).map_err(malformed)? {
            wasmparser::Chunk::Parsed { payload, consumed } => (payload, consumed),
            wasmparser::Chunk::NeedMoreData(_) => {
                return Err(LoadError::Malformed { message: "it ends too early".into(), offset: at });
            }
        };
        at += consumed;
        match &payload {
            Payload::End(_) => return Ok(()),
            // The parser reports a nested module or component and expects us to step over it.
            Payload::ModuleSection { unchecked_range: range, .. }
            | Payload::ComponentSection { unchecked_range: range, .. } => {
                at = range.end;
            }
            _ => {}
        }
        each(payload)?;
    }
}

pub(crate) fn malformed(error: BinaryReaderError) -> LoadError {
    LoadError::Malformed { message: error.message().to_owned(), offset: error.offset() }
}
