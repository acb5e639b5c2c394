//! The appliance image, whole in memory: at most 96 MB, so that everything is checked before the first byte is written.

use std::{
    fs::File,
    io::{Cursor, Read, Write},
    ops::Range,
    path::Path,
};

use anyhow::Context;
use fatfs::{Date, DateTime, FileSystem, FsOptions, Time, TimeProvider};
use flate2::read::MultiGzDecoder;

use super::owned::Owned;
use crate::failure::{Exit, Failure};

/// An image is at most 96 MB.
const MAX_BYTES: u64 = 96_000_000;

/// The smallest card with porin's layout: 480 MB (cross/image/layout.sh).
const SMALLEST_CARD: u64 = 480 << 20;

/// Bytes 440 to 443 of the first sector: what a card with porin's layout is known by.
const SIGNATURE: &[u8] = b"pori";

const SECTOR: usize = 512;

/// An image, and the owner's files once they are put there.
#[derive(Debug)]
pub(super) struct Image {
    bytes: Vec<u8>,
    /// Where the first partition is.
    owners: Range<usize>,
}

impl Image {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let place = path.display();
        let mut file = File::open(path).with_context(|| format!("{place}"))?;
        let mut magic = [0; 2];
        let found = file.read(&mut magic).with_context(|| format!("{place}"))?;
        let whole = (&magic[..found]).chain(file);
        let packed: Box<dyn Read> =
            if magic == [0x1f, 0x8b] { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        let mut bytes = Vec::new();
        packed.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("{place} cannot be unpacked"))?;
        let not_ours = |why: &str| Failure {
            exit: Exit::Refused,
            message: format!("{place} is not an image of porin: {why}"),
            hint: Some("`make image BOARD=rpi-3b` makes one; other systems are written with their own tools".into()),
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(not_ours("it is larger than 96 MB").into());
        }
        let owners = first_partition(&bytes).ok_or_else(|| not_ours("its first sector is another one"))?;
        Ok(Self { bytes, owners })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes that a card must have.
    pub(super) fn needs(&self) -> u64 {
        SMALLEST_CARD.max(self.bytes.len() as u64)
    }

    /// Puts the owner's files into the first partition; their names.
    pub(super) fn put(&mut self, owned: &Owned) -> anyhow::Result<Vec<String>> {
        let mut partition = Cursor::new(&mut self.bytes[self.owners.clone()]);
        let options = FsOptions::new().time_provider(&Beginning);
        let system = FileSystem::new(&mut partition, options).context("the image's first partition")?;
        for (name, bytes) in owned.files() {
            let mut folder = system.root_dir();
            if let Some((parent, _)) = name.rsplit_once('/') {
                // The image has the folders that there can be: those that fatfs makes are not to fsck's liking.
                folder = folder.open_dir(parent).with_context(|| format!("the image has no folder {parent}"))?;
            }
            let name = name.rsplit('/').next().unwrap_or(name);
            let mut file = folder.create_file(name).with_context(|| format!("file {name}"))?;
            file.truncate()
                .and_then(|()| file.write_all(bytes))
                .with_context(|| format!("{name} does not fit: the first partition has 8 MB for what is yours"))?;
        }
        system.unmount().context("the image's first partition")?;
        Ok(owned.files().map(|(name, _)| name.to_owned()).collect())
    }
}

/// The files of a card have no times that mean anything; the earliest that FAT knows.
#[derive(Debug)]
struct Beginning;

impl TimeProvider for Beginning {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// The first entry of the partition table, if it lies within the image and the card is one of ours.
fn first_partition(bytes: &[u8]) -> Option<Range<usize>> {
    let sector = bytes.get(..SECTOR)?;
    if sector[440..444] != *SIGNATURE || sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let number = |at: usize| usize::try_from(u32::from_le_bytes(sector[at..at + 4].try_into().ok()?)).ok();
    let start = number(454)?.checked_mul(SECTOR)?;
    let end = start.checked_add(number(458)?.checked_mul(SECTOR)?)?;
    (start >= SECTOR && start < end && end <= bytes.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_the_layout_is_what_the_image_is_built_by() {
        let layout = include_str!("../../../../../cross/image/layout.sh");
        let signature = SIGNATURE.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(layout.contains(&format!("\nSIGNATURE={signature}\n")));
        assert!(layout.contains(&format!("\nCARD_SECTORS={}\n", SMALLEST_CARD / 512)));
    }

    #[test]
    fn a_table_that_lies_is_no_image() {
        let mut sector = vec![0; SECTOR];
        sector[440..444].copy_from_slice(SIGNATURE);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        for (start, size) in [(0_u32, 1_u32), (1, 0), (1, 2), (u32::MAX, u32::MAX), (2, 1)] {
            sector[454..458].copy_from_slice(&start.to_le_bytes());
            sector[458..462].copy_from_slice(&size.to_le_bytes());
            let image = [sector.clone(), vec![0; SECTOR]].concat();
            assert_eq!(first_partition(&image), None, "{start} {size}");
        }
        sector[454..458].copy_from_slice(&1_u32.to_le_bytes());
        sector[458..462].copy_from_slice(&1_u32.to_le_bytes());
        assert_eq!(first_partition(&[sector.clone(), vec![0; SECTOR]].concat()), Some(512..1024));
        assert_eq!(first_partition(&sector), None);
        assert_eq!(first_partition(&sector[..511]), None);
    }
}
