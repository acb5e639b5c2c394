//! Writing and reading back.

use std::{
    fs::{File, OpenOptions},
    io::{IsTerminal, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{Advice, OFlags, fadvise};

use super::target::{NEW_FILE_BYTES, Target};

/// What is written and compared at a time. The first piece holds the partition table and nothing else.
const PIECE: usize = 1 << 20;

/// Writes the image to the target and compares every byte.
pub(super) fn write(target: &Target, image: &[u8]) -> anyhow::Result<()> {
    let place = target.path().display();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match target {
        // Exclusive: the kernel says no if somebody has mounted it in the meantime.
        Target::Device(_) => options.custom_flags(OFlags::EXCL.bits().cast_signed()),
        // A new file must not be there by now, under whatever kind of name.
        Target::File { .. } if target.is_new() => options.create_new(true),
        Target::File { .. } => &mut options,
    };
    let mut card = options.open(target.path()).with_context(|| {
        let hint = if matches!(target, Target::Device(_)) { " (a device takes root: sudo)" } else { "" };
        format!("cannot write to {place}{hint}")
    })?;
    target.check_is_still(&card)?;
    if target.is_new() {
        card.set_len(NEW_FILE_BYTES).with_context(|| format!("{place}"))?;
    }

    let (table, rest) = image.split_at(PIECE.min(image.len()));
    let bar = bar("writing", image.len());
    // Without a table the card is empty, whatever else is on it: an interrupted writing is seen, and starts over.
    put(&mut card, 0, &vec![0; table.len()]).and_then(|()| card.sync_data()).with_context(|| format!("{place}"))?;
    for (number, piece) in rest.chunks(PIECE).enumerate() {
        put(&mut card, (number + 1) * PIECE, piece).with_context(|| format!("{place}"))?;
        bar.inc(piece.len() as u64);
    }
    card.sync_data().with_context(|| format!("{place}"))?;
    put(&mut card, 0, table).and_then(|()| card.sync_all()).with_context(|| format!("{place}"))?;
    bar.finish_and_clear();
    verify(&mut card, image).with_context(|| format!("{place} is not to be trusted"))
}

fn verify(card: &mut File, image: &[u8]) -> anyhow::Result<()> {
    // From the card, not from what the kernel remembers of it.
    fadvise(&*card, 0, None, Advice::DontNeed)?;
    card.seek(SeekFrom::Start(0))?;
    let bar = bar("reading back", image.len());
    let mut found = vec![0; PIECE];
    for (number, piece) in image.chunks(PIECE).enumerate() {
        let found = &mut found[..piece.len()];
        card.read_exact(found)?;
        if let Some(at) = found.iter().zip(piece).position(|(found, written)| found != written) {
            bail!("byte {} came back as another one: it is worn out, or smaller than it says", number * PIECE + at);
        }
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

fn put(card: &mut File, at: usize, bytes: &[u8]) -> std::io::Result<()> {
    card.seek(SeekFrom::Start(at as u64))?;
    card.write_all(bytes)
}

/// Progress for who watches; nothing elsewhere.
fn bar(what: &'static str, bytes: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:>12} [{bar:40}] {bytes}/{total_bytes} {eta}");
    ProgressBar::new(bytes as u64).with_style(style.expect("a fixed template")).with_message(what)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_byte_that_comes_back_as_another_one_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("card");
        let image = (0..3 * PIECE + 700).map(|byte| byte.to_le_bytes()[0] ^ byte.to_le_bytes()[1]).collect::<Vec<_>>();
        let target = Target::look(&path).expect("a new file");
        write(&target, &image).expect("written");
        let mut bytes = fs::read(&path).expect("it is there");
        assert_eq!(bytes.len() as u64, NEW_FILE_BYTES);
        assert!(bytes.starts_with(&image));
        for at in [0, PIECE - 1, PIECE, image.len() - 1] {
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).expect("written");
            let error = verify(&mut File::open(&path).expect("open"), &image).expect_err("it differs");
            assert!(error.to_string().contains(&format!("byte {at} ")), "{error}");
            bytes[at] ^= 0x10;
        }
    }
}
