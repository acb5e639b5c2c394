//! Sink `file`: each packet is a line of JSON.

use std::sync::{Arc, Mutex};

use porin_core::{config::RotatedFile, payload, status::SinkStatus};

use super::{Delivery, Shared, lock};
use crate::files::Files;

/// Bytes that are gathered of a batch. Beyond it they are written before its end; if the disk is too slow for that, packets are lost.
const MAX_TEXT: usize = 262_144;

/// A file, and what is gathered for it.
pub(super) struct Lines {
    file: RotatedFile,
    status: Shared,
    text: String,
    packets: u64,
}

impl Lines {
    pub(super) fn new(file: RotatedFile, status: SinkStatus) -> Self {
        Self { file, status: Arc::new(Mutex::new(status)), text: String::new(), packets: 0 }
    }

    pub(super) fn add(&mut self, Delivery { packet, stream, unit, .. }: &Delivery<'_>, files: &mut Files) {
        let has_room = self.text.len() <= MAX_TEXT || self.write(files);
        let mut status = lock(&self.status);
        status.taken += 1;
        if !has_room {
            status.lost += 1;
            return;
        }
        status.waiting += 1;
        self.text.push_str(&payload::json::object(stream, unit, packet));
        self.text.push('\n');
        self.packets += 1;
    }

    /// What the disk is too slow for stays gathered, up to a bound. Whether nothing is left.
    pub(super) fn write(&mut self, files: &mut Files) -> bool {
        if self.text.is_empty() {
            return true;
        }
        let (packets, shared) = (self.packets, self.status.clone());
        let outcome = move |written: std::io::Result<()>| {
            let mut status = lock(&shared);
            status.waiting -= packets;
            status.ok = written.is_ok();
            match written {
                Ok(()) => status.done += packets,
                Err(error) => {
                    status.lost += packets;
                    status.last_error = Some(error.to_string());
                }
            }
        };
        let taken = files.write(&self.file, &mut self.text, Box::new(outcome));
        if taken {
            self.packets = 0;
        }
        taken
    }

    pub(super) fn status(&self) -> SinkStatus {
        lock(&self.status).clone()
    }
}

#[cfg(test)]
mod tests {
    use porin_core::{
        ids::{RouteId, StreamId},
        packet::{Message, Packet, Quality},
        time::Unix,
    };

    use super::*;
    use crate::sink::Age;

    #[test]
    fn a_batch_larger_than_what_is_gathered_is_written_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("all").display().to_string();
        let file = RotatedFile { path: path.clone(), max_bytes: 1_000_000_000, keep: 0 };
        let (mut lines, mut files) = (Lines::new(file, SinkStatus::default()), Files::default());
        let payload = vec![b'x'; 60_000].into();
        let (time, stream, quality) = (Unix(1), StreamId(0), Quality::GOOD);
        let packet = Packet::Message(Arc::new(Message { time, stream, quality, topic: "t".into(), payload }));
        for _ in 0..64 {
            lines.add(
                &Delivery { packet: &packet, id: RouteId(0), route: "r", stream: "s", unit: "", age: Age::Now },
                &mut files,
            );
        }
        assert!(lines.write(&mut files));
        files.stop();
        let SinkStatus { taken, waiting, done, lost, ok, .. } = lines.status();
        assert_eq!((taken, waiting, done, lost, ok), (64, 0, 64, 0, true));
        assert_eq!(std::fs::read_to_string(path).expect("it is there").lines().count(), 64);
    }
}
