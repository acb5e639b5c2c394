//! `porin cell build`: from a cell's package to a component, in one process but for cargo.
//!
//! cargo compiles the package to a core module; `wit-component` makes it a component of the world that the SDK
//! names in a custom section; names and other custom sections are cut away; what is larger than a cell may be is
//! refused, with the largest functions by name.

#![allow(clippy::wildcard_enum_match_arm)] // wasmparser's enums: only the sections that matter are looked at

mod strip;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use serde::Deserialize;
use wasmparser_tools::{KnownCustom, Name, Parser, Payload};
use wit_component::ComponentEncoder;

use self::strip::strip;
use crate::failure::{Exit, Failure};

/// "A cell is at most 50 KB": of the stripped component file.
const MAX_BYTES: usize = 51_200;

/// Stack of a cell. The default of 1 MiB would be 1.1 MB of RAM for each cell.
const STACK_BYTES: usize = 16_384;

/// The profile of every cell, wherever its package lies: size first. Symbols stay until their names have been read.
const PROFILE: [&str; 6] = [
    "profile.cell.inherits=\"release\"",
    "profile.cell.opt-level=\"s\"",
    "profile.cell.lto=\"fat\"",
    "profile.cell.codegen-units=1",
    "profile.cell.panic=\"abort\"",
    "profile.cell.strip=\"none\"",
];

const TARGET: &str = "wasm32-unknown-unknown";

/// Builds each package and writes `<name>.wasm`.
pub(crate) fn run(packages: &[PathBuf], out: Option<&Path>) -> anyhow::Result<()> {
    for package in packages {
        build(package, out).with_context(|| format!("cannot build the cell in `{}`", package.display()))?;
    }
    Ok(())
}

fn build(package: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    let compiled = compile(package)?;
    let module = fs::read(&compiled.wasm).with_context(|| format!("reading {}", compiled.wasm.display()))?;
    let component = strip(&ComponentEncoder::default().module(&module)?.validate(true).encode()?)?;
    if component.len() > MAX_BYTES {
        return Err(Failure {
            exit: Exit::Refused,
            message: format!("the component has {} bytes, a cell may have {MAX_BYTES}", component.len()),
            hint: Some(format!("the largest functions are\n{}", largest_functions(&module)?)),
        }
        .into());
    }
    let out = match out {
        Some(out) => out.to_path_buf(),
        // <target>/wasm32-unknown-unknown/cell/<name>.wasm → <target>/cells
        None => compiled.wasm.ancestors().nth(3).context("cargo's target folder has an unknown shape")?.join("cells"),
    };
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let path = out.join(format!("{}.wasm", compiled.name));
    // Under another name first: a gateway that watches the folder never sees half a cell.
    let partial = path.with_extension("wasm.partial");
    fs::write(&partial, &component).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("{}: {} bytes of {MAX_BYTES}", path.display(), component.len());
    Ok(())
}

struct Compiled {
    name: String,
    wasm: PathBuf,
}

/// The part of cargo's JSON messages that is read here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

fn compile(package: &Path) -> anyhow::Result<Compiled> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["rustc", "--lib", "--crate-type=cdylib", "--profile=cell", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .args(PROFILE.iter().flat_map(|setting| ["--config", setting]))
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .args(["--", &format!("-Clink-arg=-zstack-size={STACK_BYTES}")])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        return Err(Failure {
            exit: Exit::Failed,
            message: "cargo failed".into(),
            hint: Some(format!(
                "if the target {TARGET} is missing: rustup target add {TARGET} (in porin's own checkout `make cells` does more)"
            )),
        }
        .into());
    }
    let mut compiled = None;
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Message = serde_json::from_slice(line).context("cargo's messages have an unknown shape")?;
        let wasm = message.filenames.into_iter().find(|file| file.extension().is_some_and(|ext| ext == "wasm"));
        if let ("compiler-artifact", Some(wasm), Some(target)) = (message.reason.as_str(), wasm, message.target) {
            compiled = Some(Compiled { name: target.name.replace('_', "-"), wasm });
        }
    }
    compiled.context("cargo made no wasm file")
}

/// The ten largest functions of a core module, a line each, by the names of its `name` section.
fn largest_functions(module: &[u8]) -> anyhow::Result<String> {
    let mut names = std::collections::HashMap::new();
    let mut imported = 0_u32;
    let mut sizes = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    imported += u32::from(matches!(import?.ty, wasmparser_tools::TypeRef::Func(_)));
                }
            }
            Payload::CodeSectionEntry(body) => sizes.push(body.range().end - body.range().start),
            Payload::CustomSection(custom) => {
                let KnownCustom::Name(sections) = custom.as_known() else { continue };
                for section in sections {
                    let Name::Function(functions) = section? else { continue };
                    for function in functions {
                        let function = function?;
                        names.insert(function.index, function.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    let mut functions: Vec<_> = (imported..).zip(sizes).map(|(index, size)| (size, index)).collect();
    if functions.is_empty() {
        bail!("the module has no functions");
    }
    functions.sort_unstable_by(|a, b| b.cmp(a));
    let line = |(size, index): &(u64, u32)| {
        let name = names.get(index).cloned().unwrap_or_else(|| format!("function {index}"));
        format!("{size:>8} {name}")
    };
    Ok(functions.iter().take(10).map(line).collect::<Vec<_>>().join("\n"))
}
