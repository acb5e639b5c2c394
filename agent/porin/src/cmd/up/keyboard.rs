//! Keys that scroll the streams of the live table: arrows, page keys, Home and End.
//!
//! The terminal gives each key at once and does not print it. Ctrl-C stays a signal. What the terminal was is restored
//! when this is dropped.

use std::{
    io::{IsTerminal, Read},
    sync::mpsc::{Receiver, sync_channel},
};

use rustix::{
    process::getpgrp,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr},
};

/// Keys that wait at most; what is typed faster is discarded.
const MAX_WAITING: usize = 64;

/// How far to scroll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scroll {
    Up,
    Down,
    PageUp,
    PageDown,
    Start,
    End,
}

#[derive(Debug)]
pub(super) struct Keyboard {
    before: Termios,
    keys: Receiver<Scroll>,
}

impl Keyboard {
    /// `None` if standard input is not a terminal, or another process in the foreground has it.
    pub(super) fn listen() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || tcgetpgrp(&stdin).ok()? != getpgrp() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        let (sender, keys) = sync_channel(MAX_WAITING);
        // Ends with the program: a read from a terminal cannot be called off.
        std::thread::spawn(move || {
            let mut bytes = [0; 32];
            while let Ok(count @ 1..) = std::io::stdin().read(&mut bytes) {
                for scroll in scrolls(&bytes[..count]) {
                    let _ = sender.try_send(scroll);
                }
            }
        });
        Some(Self { before, keys })
    }

    /// Keys pressed since the last call.
    pub(super) fn pressed(&self) -> impl Iterator<Item = Scroll> {
        self.keys.try_iter()
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The keys in what a terminal sends (xterm's sequences, ECMA-48).
fn scrolls(bytes: &[u8]) -> Vec<Scroll> {
    const SEQUENCES: [(&[u8], Scroll); 14] = [
        (b"\x1b[A", Scroll::Up),
        (b"\x1bOA", Scroll::Up),
        (b"k", Scroll::Up),
        (b"\x1b[B", Scroll::Down),
        (b"\x1bOB", Scroll::Down),
        (b"j", Scroll::Down),
        (b"\x1b[5~", Scroll::PageUp),
        (b"\x1b[6~", Scroll::PageDown),
        (b" ", Scroll::PageDown),
        (b"\x1b[H", Scroll::Start),
        (b"\x1b[1~", Scroll::Start),
        (b"\x1b[F", Scroll::End),
        (b"\x1b[4~", Scroll::End),
        (b"\x1bOF", Scroll::End),
    ];
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let key = SEQUENCES.iter().find(|(sequence, _)| rest.starts_with(sequence));
        found.extend(key.map(|(_, scroll)| *scroll));
        rest = &rest[key.map_or(1, |(sequence, _)| sequence.len())..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_what_a_terminal_sends() {
        assert_eq!(scrolls(b"\x1b[A\x1b[6~xj\x1b[F"), [Scroll::Up, Scroll::PageDown, Scroll::Down, Scroll::End]);
        assert_eq!(scrolls(b"\x1b["), []);
    }
}
