//! Files that grow: a thread writes them, and begins another when one is full.
//!
//! The loop hands lines over and goes on; what the disk is too slow for stays with whoever has it. Nothing is synced: a power cut costs
//! what the kernel has not written, half a minute at most.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
};

use porin_core::config::RotatedFile;
use tracing::warn;

/// Texts that wait for the disk.
const QUEUE: usize = 256;

/// Told what became of a text.
pub(crate) type Outcome = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The thread, once there is something to write.
#[derive(Default)]
pub(crate) struct Files {
    writer: Option<Writer>,
}

struct Writer {
    texts: SyncSender<(RotatedFile, String, Outcome)>,
    thread: JoinHandle<()>,
}

impl Files {
    /// Takes lines, which stay together, out of `text`. `false`: the disk is too slow for them now; they stay, and `outcome` is not told.
    pub(crate) fn write(&mut self, file: &RotatedFile, text: &mut String, outcome: Outcome) -> bool {
        if self.writer.is_none() {
            let (sender, texts) = sync_channel(QUEUE);
            match thread::Builder::new().name("files".into()).spawn(move || write(&texts)) {
                Ok(thread) => self.writer = Some(Writer { texts: sender, thread }),
                Err(error) => warn!(%error, "cannot start a thread for files"),
            }
        }
        let Some(Writer { texts, .. }) = &self.writer else { return false };
        match texts.try_send((file.clone(), std::mem::take(text), outcome)) {
            Ok(()) => true,
            Err(TrySendError::Full((_, back, _)) | TrySendError::Disconnected((_, back, _))) => {
                *text = back;
                false
            }
        }
    }

    /// Waits until everything is written.
    pub(crate) fn stop(&mut self) {
        if let Some(Writer { texts, thread }) = self.writer.take() {
            drop(texts);
            let _ = thread.join();
        }
    }
}

fn write(texts: &Receiver<(RotatedFile, String, Outcome)>) {
    let mut open: BTreeMap<String, (File, u64)> = BTreeMap::new();
    let mut failures = 0_u64;
    for (file, text, outcome) in texts {
        let written = append(&mut open, &file, &text);
        if let Err(error) = &written {
            open.remove(&file.path);
            failures += 1;
            if failures.is_power_of_two() {
                warn!(path = file.path, %error, failures, "a file cannot be written");
            }
        }
        outcome(written);
    }
}

fn append(open: &mut BTreeMap<String, (File, u64)>, file: &RotatedFile, text: &str) -> io::Result<()> {
    let bytes = text.len() as u64;
    let (mut out, mut has) = match open.remove(&file.path) {
        Some(there) => there,
        None => start(&file.path)?,
    };
    if has > 0 && has + bytes > file.max_bytes {
        drop(out);
        rotate(file)?;
        (out, has) = start(&file.path)?;
    }
    if let Err(error) = out.write_all(text.as_bytes()) {
        // What has been written of it is not counted as written: nothing is to be glued to half a line.
        let _ = out.set_len(has);
        return Err(error);
    }
    open.insert(file.path.clone(), (out, has + bytes));
    Ok(())
}

fn start(path: &str) -> io::Result<(File, u64)> {
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let mut has = file.metadata()?.len();
    // A power cut has left half a line: the next one is another.
    if ends_within_a_line(&file, has)? {
        file.write_all(b"\n")?;
        has += 1;
    }
    Ok((file, has))
}

/// Whether the last of so many bytes ends no line.
pub(crate) fn ends_within_a_line(file: &File, bytes: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if let Some(before) = bytes.checked_sub(1) {
        file.read_exact_at(&mut last, before)?;
    }
    Ok(last != [b'\n'])
}

/// `x` becomes `x.1`, `x.1` becomes `x.2`, and the last one goes.
fn rotate(RotatedFile { path, keep, .. }: &RotatedFile) -> io::Result<()> {
    if *keep == 0 {
        return fs::remove_file(path);
    }
    for number in (1..*keep).rev() {
        match fs::rename(format!("{path}.{number}"), format!("{path}.{}", number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, format!("{path}.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_renamed_and_so_many_older_ones_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("logs/x.log").display().to_string();
        let file = RotatedFile { path: path.clone(), max_bytes: 30, keep: 2 };
        let mut files = Files::default();
        for number in 0..10 {
            // Ten bytes: three to a file.
            assert!(files.write(&file, &mut format!("{number:09}\n"), Box::new(drop)));
        }
        files.stop();
        let numbers = |name: &str| -> Vec<u64> {
            let text = fs::read_to_string(name).expect("it is there");
            text.lines().map(|line| line.parse().expect("a number")).collect()
        };
        assert_eq!(numbers(&path), [9]);
        assert_eq!(numbers(&format!("{path}.1")), [6, 7, 8]);
        assert_eq!(numbers(&format!("{path}.2")), [3, 4, 5]);
        assert!(!Path::new(&format!("{path}.3")).exists());
        // The next run goes on with the file that is there, even where it was left in the middle of a line.
        File::options().append(true).open(&path).and_then(|mut file| file.write_all(b"10")).expect("written");
        assert!(files.write(&file, &mut "11\n".into(), Box::new(drop)));
        files.stop();
        assert_eq!(numbers(&path), [9, 10, 11]);
    }
}
