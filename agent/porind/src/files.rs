//! Files of what cells log: a thread writes them, and begins another when one is full.
//!
//! The loop hands lines over and goes on; what the disk is too slow for stays with the slot, which keeps few and counts the rest.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use porin_cell::Level;
use porin_core::{config::LogFile, time::Unix};
use serde::Serialize;
use tracing::warn;

use crate::slot::Line;

/// Lines that wait for the disk.
const QUEUE: usize = 256;

/// A line as it is written and published.
#[derive(Serialize)]
struct Json<'a> {
    time_us: u64,
    slot: &'a str,
    level: &'static str,
    context: &'a str,
    message: &'a str,
}

/// A line of JSON, with a newline at its end.
pub(crate) fn line_as_json(time: Unix, slot: &str, Line { level, context, message }: &Line) -> String {
    let level = match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
        Level::Critical => "critical",
    };
    let mut text = serde_json::to_string(&Json { time_us: time.0, slot, level, context, message }).unwrap_or_default();
    text.push('\n');
    text
}

/// The thread, once there is something to write.
#[derive(Default)]
pub(crate) struct LogFiles {
    writer: Option<Writer>,
}

struct Writer {
    lines: SyncSender<(LogFile, String)>,
    thread: JoinHandle<()>,
}

impl LogFiles {
    /// Hands a line over. `false`: the disk is too slow for it now.
    pub(crate) fn write(&mut self, file: &LogFile, line: String) -> bool {
        if self.writer.is_none() {
            let (sender, lines) = sync_channel(QUEUE);
            match thread::Builder::new().name("cell-log".into()).spawn(move || write(&lines)) {
                Ok(thread) => self.writer = Some(Writer { lines: sender, thread }),
                Err(error) => warn!(%error, "there is no thread to write what cells log"),
            }
        }
        self.writer.as_ref().is_some_and(|writer| writer.lines.try_send((file.clone(), line)).is_ok())
    }

    /// Waits until everything is written.
    pub(crate) fn stop(&mut self) {
        if let Some(Writer { lines, thread }) = self.writer.take() {
            drop(lines);
            let _ = thread.join();
        }
    }
}

fn write(lines: &Receiver<(LogFile, String)>) {
    let mut open: BTreeMap<String, (File, u64)> = BTreeMap::new();
    let mut failures = 0_u64;
    for (file, line) in lines {
        if let Err(error) = append(&mut open, &file, &line) {
            open.remove(&file.path);
            failures += 1;
            if failures.is_power_of_two() {
                warn!(path = file.path, %error, failures, "what a cell logs cannot be written");
            }
        }
    }
}

fn append(open: &mut BTreeMap<String, (File, u64)>, file: &LogFile, line: &str) -> io::Result<()> {
    let bytes = line.len() as u64;
    let (mut out, mut has) = match open.remove(&file.path) {
        Some(there) => there,
        None => start(&file.path)?,
    };
    if has > 0 && has + bytes > file.max_bytes {
        drop(out);
        rotate(file)?;
        (out, has) = start(&file.path)?;
    }
    out.write_all(line.as_bytes())?;
    open.insert(file.path.clone(), (out, has + bytes));
    Ok(())
}

fn start(path: &str) -> io::Result<(File, u64)> {
    if let Some(folder) = Path::new(path).parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let has = file.metadata()?.len();
    Ok((file, has))
}

/// `x` becomes `x.1`, `x.1` becomes `x.2`, and the last one goes.
fn rotate(LogFile { path, keep, .. }: &LogFile) -> io::Result<()> {
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
        let file = LogFile { path: path.clone(), max_bytes: 30, keep: 2 };
        let mut files = LogFiles::default();
        for number in 0..10 {
            // Ten bytes: three to a file.
            assert!(files.write(&file, format!("{number:09}\n")));
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
        // The next run goes on with the file that is there.
        assert!(files.write(&file, "10\n".into()));
        files.stop();
        assert_eq!(numbers(&path), [9, 10]);
    }

    #[test]
    fn a_line_is_json_whatever_the_cell_says() {
        let line = Line { level: Level::Warn, context: "a\"b".into(), message: "ü".into() };
        let text = line_as_json(Unix(7), "s", &line);
        assert_eq!(
            text,
            "{\"time_us\":7,\"slot\":\"s\",\"level\":\"warn\",\"context\":\"a\\\"b\",\"message\":\"ü\"}\n"
        );
    }
}
