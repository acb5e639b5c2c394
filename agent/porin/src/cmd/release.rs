//! `porin release`: says, signed by its publisher, that a cell exists and what it is.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use porin_cell::{Engine, LoadError, Plan, World};
use porin_core::{
    limits::CellLimits,
    trust::{
        self, Digest, Envelope, Gateway, Health, Memory, Release, Time,
        documents::{Document, PIECE},
    },
};
use porind::wall_clock;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    keys::{KeyFolder, RoleName, public, sign, write_whole},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The component, as `porin cell build` makes it
    file: PathBuf,
    #[command(flatten)]
    about: About,
    /// Folder with the publisher's key [default: `porin/keys` in the folder of the user's configuration]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Output file [default: the component's name with `.release`]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a publisher says of a cell besides what its component says itself.
#[derive(Debug, clap::Args)]
pub(crate) struct About {
    /// The cell's name [default: the file's, after the publisher's prefix]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Its number, higher than those of earlier releases [default: seconds since 1970]
    #[arg(long)]
    pub(crate) seq: Option<u64>,
    /// Its version, for people [default: 0.1.0]
    #[arg(long)]
    semver: Option<String>,
    /// Board that it is made for; may be given several times [default: any]
    #[arg(long = "board", value_name = "BOARD")]
    boards: Vec<String>,
    /// Share of its input that a healthy cell forwards, in percent [default: 0..100, compared with the cell before]
    #[arg(long, value_name = "MIN..MAX", value_parser = percent)]
    passes: Option<Health>,
}

impl About {
    /// Whether anything was said.
    pub(crate) fn says_something(&self) -> bool {
        self.name.is_some()
            || self.seq.is_some()
            || self.semver.is_some()
            || !self.boards.is_empty()
            || self.passes.is_some()
    }
}

/// A component, and the release that says what it is.
pub(crate) struct Released {
    pub(crate) component: Vec<u8>,
    pub(crate) release: Release,
    /// The release's name.
    pub(crate) digest: Digest,
    /// As it is published.
    pub(crate) envelope: Vec<u8>,
}

fn percent(text: &str) -> Result<Health, String> {
    let bounds = text.split_once("..").and_then(|(min, max)| {
        let per_mille = |text: &str| text.parse::<u32>().ok()?.checked_mul(10);
        Some(Health { min_per_mille: per_mille(min)?, max_per_mille: per_mille(max)? })
    });
    bounds
        .filter(|bounds| bounds.min_per_mille <= bounds.max_per_mille)
        .ok_or("two whole numbers, such as 1..50".into())
}

fn refused(message: String, hint: Option<&str>) -> Failure {
    Failure { exit: Exit::Refused, message, hint: hint.map(Into::into) }
}

/// Reads a component, and what a gateway would find in it.
pub(crate) fn read_component(path: &Path) -> anyhow::Result<(Vec<u8>, Plan)> {
    let limits = CellLimits::default();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let path = path.display();
    let mut component = Vec::new();
    // One byte more than may be: a file may grow, and some never end.
    file.take(limits.component_bytes as u64 + 1)
        .read_to_end(&mut component)
        .with_context(|| format!("reading {path}"))?;
    if component.len() > limits.component_bytes {
        let message = format!("{path} has more than the {} bytes that a cell may have", limits.component_bytes);
        return Err(refused(message, None).into());
    }
    let plan = load(&component, &limits).map_err(|error| refused(format!("{path}: {error}"), None))?;
    Ok((component, plan))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = KeyFolder::at(arguments.keys.as_deref())?;
    let Released { release, digest, envelope, .. } = release(&folder, &arguments.file, &arguments.about)?;
    let out = arguments.out.clone().unwrap_or_else(|| arguments.file.with_extension("release"));
    write_whole(&out, &envelope)?;
    let mut stdout = crate::output::stdout();
    let Release { cell, seq, semver, sha256, size, world, imports, .. } = &release;
    if arguments.json {
        let release = json!({
            "cell": cell, "seq": seq, "semver": semver, "release": digest.to_string(), "sha256": sha256.to_string(),
            "size": size, "world": world, "imports": imports, "file": out,
        });
        writeln!(stdout, "{release}")?;
    } else {
        writeln!(stdout, "{cell} {semver}, number {seq}: a {world} of {size} bytes, sha256:{sha256}")?;
        let imports = if imports.is_empty() { "nothing".into() } else { imports.join(", ") };
        writeln!(stdout, "imports {imports}")?;
        writeln!(stdout, "release {digest} in {}", out.display())?;
    }
    Ok(())
}

/// Signs what a component is. What a gateway would refuse is not signed.
pub(crate) fn release(folder: &KeyFolder, path: &Path, about: &About) -> anyhow::Result<Released> {
    let root = folder.root()?;
    let (component, plan) = read_component(path)?;
    let mut imports: Vec<_> = plan.imports().map(|(interface, _)| interface.to_owned()).collect();
    imports.sort_unstable();
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let pair = folder.pair(RoleName::Publisher, &root)?;
    let key = public(&pair);
    let publisher = root.publishers.iter().find(|publisher| publisher.role.keys.contains(&key));
    let prefix = publisher.map(|publisher| publisher.prefix.as_str()).filter(|prefix| !prefix.is_empty());
    let name = about.name.clone().unwrap_or_else(|| prefix.map_or(stem.clone(), |prefix| format!("{prefix}/{stem}")));
    let issued = wall_clock();
    let release = Release {
        cell: name,
        seq: about.seq.unwrap_or(issued.0 / 1_000_000),
        semver: about.semver.clone().unwrap_or_else(|| "0.1.0".into()),
        sha256: Digest::of(&component),
        size: u32::try_from(component.len()).context("its size")?,
        pieces: component.chunks(PIECE).map(Digest::of).collect(),
        world: plan.world.name().into(),
        imports,
        boards: about.boards.clone(),
        health: about.passes.unwrap_or(Health::UNSAID),
        issued,
    };
    release.check().map_err(|what| Failure {
        exit: Exit::Usage,
        message: format!("that makes no release: {what}"),
        hint: None,
    })?;
    let bytes = sign(&release, &[&pair]);
    let digest = Envelope::decode(&bytes).map_err(|refusal| refused(refusal.to_string(), None))?.digest();
    // As a gateway will: what it would refuse is not written.
    let gateway = Gateway { id: "", groups: &[], board: None, memory: Memory::Numbers };
    let slot = publisher.and_then(|publisher| publisher.slots.first()).map_or("*", String::as_str);
    trust::release(&root, &bytes, digest, |_| 0, Time::Known(issued), gateway, slot).map_err(|refusal| {
        let hint = matches!(refusal, trust::Refusal::OutsidePrefix(_)).then_some("--name gives the cell another name");
        let hint = hint
            .or(matches!(refusal, trust::Refusal::Expired { .. })
                .then_some("`porin keys rotate root` makes the next root"));
        refused(refusal.to_string(), hint)
    })?;
    Ok(Released { component, release, digest, envelope: bytes })
}

/// The component knows its world: the one that says most of it.
fn load(component: &[u8], limits: &CellLimits) -> Result<Plan, LoadError> {
    let engine = Engine::new(limits);
    let mut error = None;
    for world in World::ALL {
        match Plan::load(&engine, component, world, limits) {
            Ok(plan) => return Ok(plan),
            // Of its own world only another thing can be wrong than a type.
            Err(other @ (LoadError::ImportType(..) | LoadError::ExportType(..) | LoadError::MissingExport(..))) => {
                error = error.or(Some(other));
            }
            Err(other) => error = Some(other),
        }
    }
    Err(error.expect("there are worlds"))
}
