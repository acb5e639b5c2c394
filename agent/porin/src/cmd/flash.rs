//! `porin flash`: writes the appliance image to a card, with the owner's files in place, and reads it back.
//!
//! Everything that can be wrong is found before the first byte is written: the image, the files, the device. The first
//! megabyte, with the partition table, is written last, so a card whose writing was interrupted is an empty card.

mod card;
mod image;
mod owned;
mod stock;
mod target;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
};

use anyhow::Context;
use serde_json::json;

use self::{
    image::Image,
    owned::{Owned, Place},
    stock::Stock,
    target::Target,
};
use crate::failure::{Exit, Failure};

#[derive(Debug, clap::Args)]
#[command(after_help = "Secrets are never arguments: files hold them, or they are typed.")]
pub(crate) struct Arguments {
    /// The image, packed (.img.gz) or not
    #[arg(required_unless_present_any = ["files_only", "list"], conflicts_with = "files_only")]
    image: Option<PathBuf>,
    /// The card (see `--list`), or a file
    #[arg(required_unless_present_any = ["files_only", "list"], conflicts_with = "files_only")]
    target: Option<PathBuf>,
    /// Show the devices of this computer, and which of them can be written
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    owned: owned::Given,
    /// For a stock Raspberry Pi OS: put cloud-init's files, the package and yours into its FAT partition
    #[arg(long, value_name = "DIR")]
    files_only: Option<PathBuf>,
    #[command(flatten)]
    stock: stock::Extras,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.list {
        return list(arguments.json);
    }
    if let Some(folder) = &arguments.files_only {
        let owned = Owned::read(&arguments.owned, Place::Package)?;
        let written = Stock::read(&arguments.stock, &owned)?.put_into(folder, &owned)?;
        return tell(arguments.json, &json!({ "folder": folder, "files": written }), || {
            format!("{}: {}", folder.display(), written.join(" "))
        });
    }
    arguments.stock.refuse()?;
    let (Some(image), Some(place)) = (&arguments.image, &arguments.target) else {
        anyhow::bail!("missing: an image and a card");
    };
    let owned = Owned::read(&arguments.owned, Place::Appliance)?;
    let mut bytes = Image::read(image)?;
    let files = bytes.put(&owned)?;
    let target = Target::look(place)?;
    target.check_size(bytes.needs())?;
    confirm(&target, arguments.yes)?;
    card::write(&target, bytes.bytes())?;
    let size = bytes.bytes().len();
    tell(arguments.json, &json!({ "target": place, "bytes": size, "verified": true, "files": files }), || {
        format!("{}: {size} bytes written and read back; your files: {}", place.display(), files.join(" "))
    })
}

fn list(as_json: bool) -> anyhow::Result<()> {
    let devices = target::devices()?;
    let found = devices.iter().map(|(device, refusal)| {
        json!({ "device": device.path, "model": device.model, "bytes": device.bytes, "refused": refusal })
    });
    tell(as_json, &json!(found.collect::<Vec<_>>()), || {
        let lines = devices.iter().map(|(device, refusal)| match refusal {
            None => format!("{device}"),
            Some(refusal) => format!("{device}  not to be written to: {refusal}"),
        });
        let lines = lines.collect::<Vec<_>>();
        if lines.is_empty() { "there are no devices here".into() } else { lines.join("\n") }
    })
}

/// Whoever writes to the wrong device loses what is on it: it is shown first.
fn confirm(target: &Target, yes: bool) -> anyhow::Result<()> {
    if yes || target.is_new() {
        return Ok(());
    }
    eprintln!("{target}\neverything on it will be lost");
    if !std::io::stdin().is_terminal() {
        return Err(Failure {
            exit: Exit::Usage,
            message: "standard input is not a terminal, so the question cannot be asked".into(),
            hint: Some("--yes writes without asking".into()),
        }
        .into());
    }
    eprint!("write? [yes/no] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("the answer cannot be read")?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Failure { exit: Exit::Refused, message: "nothing was written".into(), hint: None }.into())
}

fn tell(as_json: bool, json: &serde_json::Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let mut stdout = crate::output::stdout();
    if as_json {
        writeln!(stdout, "{json}")?
    } else {
        writeln!(stdout, "{}", text())?
    }
    Ok(())
}
