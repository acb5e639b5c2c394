//! Sink `file`: each packet is a line of JSON.

use std::sync::{Arc, Mutex};

use porin_core::{config::RotatedFile, payload, status::SinkStatus};

use super::{Delivery, Shared, lock};
use crate::files::Files;

/// Bytes that are gathered of a batch. Beyond it they are written before its end.
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

    pub(super) fn add(&mut self, Delivery { packet, stream, unit, .. }: &Delivery<'_>) {
        let mut status = lock(&self.status);
        status.taken += 1;
        if self.text.len() > MAX_TEXT {
            status.lost += 1;
            return;
        }
        status.waiting += 1;
        self.text.push_str(&payload::json::row(stream, unit, packet));
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
