//! The files of the store: the database, a mark that an agent has it open, a reserve for the day on which the disk is full, a marker for the
//! day on which the database is lost.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use redb::{Database, DatabaseError, StorageError};
use tracing::{error, warn};

use super::{Disk, builder};

/// Files that were moved aside and are kept: each is one that somebody may want to look at.
const MAX_ASIDE: u32 = 1_000;

/// What a commit that only deletes takes at most is 95 KB on a file of 300 MB; some of them fit.
const RESERVE_BYTES: usize = 1 << 20;

/// Bytes of a marker that are read: more floors than the reported state can name.
const MAX_MARKER: u64 = 65_536;

/// The files.
#[derive(Debug)]
pub(super) struct Place {
    database: PathBuf,
    /// Whether the mark is ours.
    marked: bool,
    /// The name of this life of the machine, as long as an agent has the database open.
    mark: PathBuf,
    /// Zeros.
    reserve: PathBuf,
    /// See [`Disk::marker`].
    accepted: PathBuf,
}

impl Place {
    /// Opens or makes the database.
    pub(super) fn open(path: &Path, boot_id: u64) -> anyhow::Result<(Self, Database)> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let database = path.to_owned();
        let mut place = Self {
            database,
            marked: false,
            mark: path.with_extension("redb.running"),
            reserve: path.with_extension("redb.reserve"),
            accepted: path.with_extension("redb.accepted"),
        };
        if !path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
            make(path).with_context(|| format!("making {}", path.display()))?;
        }
        // redb ends the process on some kinds of damage, unless it is told to read everything first. That takes a minute for a large
        // file, so it is done only if an agent has ended badly since the machine started.
        let name = format!("{boot_id:016x}\n");
        let ended_badly = fs::read_to_string(&place.mark).is_ok_and(|mark| mark == name);
        let mut builder = builder();
        builder.set_check_integrity_on_open(ended_badly);
        let db = match builder.create(path) {
            Err(DatabaseError::Storage(StorageError::Corrupted(reason))) if !is_newer(&reason) => {
                let aside = move_aside(path)?;
                error!(path = %path.display(), aside = %aside, reason, "the store is corrupt: it was renamed, and a new one made");
                make(path).and_then(|()| Ok(builder.create(path)?))
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => bail!("{}: another agent has it open", path.display()),
            opened => opened.map_err(Into::into),
        };
        let db = db.with_context(|| format!("opening {}", path.display()))?;
        keep_private(path)?;
        match fs::write(&place.mark, name) {
            Ok(()) => place.marked = true,
            Err(error) => warn!(%error, path = %place.mark.display(), "cannot mark the store as open"),
        }
        Ok((place, db))
    }

    /// Sets some room on the disk aside, unless it is.
    pub(super) fn keep_reserve(&self) -> io::Result<()> {
        if fs::metadata(&self.reserve).is_ok_and(|file| file.len() == RESERVE_BYTES as u64) {
            return Ok(());
        }
        let written = fs::File::create(&self.reserve).and_then(|mut file| {
            file.write_all(&vec![0; RESERVE_BYTES])?;
            file.sync_all()
        });
        // Half a reserve only takes room.
        written.inspect_err(|_| self.use_reserve())
    }

    /// Damage is found by who reads it: the file is there.
    fn marker(&self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match fs::File::open(&self.accepted).and_then(|file| file.take(MAX_MARKER).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The old one or the new one is there, whenever the power is cut.
    fn keep_marker(&self, bytes: &[u8]) -> io::Result<()> {
        if self.marker().is_ok_and(|found| found.as_deref() == Some(bytes)) {
            return Ok(());
        }
        let new = self.accepted.with_extension("accepted.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.accepted)?;
        sync_folder(&self.accepted)
    }

    pub(super) fn use_reserve(&self) {
        match fs::remove_file(&self.reserve) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(%error, path = %self.reserve.display(), "cannot give up the reserve");
            }
            _ => {}
        }
    }
}

impl From<Place> for Disk {
    fn from(place: Place) -> Self {
        let place = Arc::new(place);
        let (keeper, user) = (place.clone(), place.clone());
        let (reader, writer) = (place.clone(), place.clone());
        Self {
            // A file that has vanished is not made anew: what waits in it would be forgotten.
            open: Box::new(move || builder().open(&place.database)),
            keep_reserve: Box::new(move || keeper.keep_reserve().is_ok()),
            use_reserve: Box::new(move || user.use_reserve()),
            marker: Box::new(move || reader.marker()),
            keep_marker: Box::new(move |bytes| writer.keep_marker(bytes)),
        }
    }
}

impl Drop for Place {
    /// The agent ends well. (After a panic or a kill nothing is dropped.)
    fn drop(&mut self) {
        // Not that of another agent, who has the store open.
        if self.marked {
            let _ = fs::remove_file(&self.mark);
        }
    }
}

/// redb calls a file of its own later versions corrupt, too.
fn is_newer(reason: &str) -> bool {
    reason.contains("file format version")
}

/// Takes a store from group and others, which earlier versions let read it: it holds the gateway's private key.
fn keep_private(path: &Path) -> anyhow::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let context = || format!("taking {} from other users", path.display());
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(context)?;
        warn!(path = %path.display(), mode = format!("{mode:04o}"), "others could read the store; its mode is 0600 now");
    }
    Ok(())
}

/// Makes an empty file. It comes to its name when it is whole: one that the power cut in the making would be no file of redb's,
/// and nobody could tell it from something else of the owner's.
fn make(path: &Path) -> anyhow::Result<()> {
    let new = path.with_extension("redb.new");
    if new.exists() {
        fs::remove_file(&new)?;
    }
    drop(builder().create(&new)?);
    fs::rename(&new, path)?;
    Ok(sync_folder(path)?)
}

/// Makes the names in a file's folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// Never deleted, and never in place of one that was moved aside before.
fn move_aside(path: &Path) -> anyhow::Result<String> {
    let free = (1..=MAX_ASIDE).map(|number| path.with_extension(format!("redb.corrupt-{number}")));
    let Some(aside) = free.into_iter().find(|aside| !aside.exists()) else {
        bail!("{}: the store is corrupt, and {MAX_ASIDE} others lie beside it", path.display());
    };
    fs::rename(path, &aside).with_context(|| format!("moving {} aside", path.display()))?;
    Ok(aside.display().to_string())
}
