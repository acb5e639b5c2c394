//! Where a line or a frame ends, in bytes that come in pieces of any size.
//!
//! Nothing here grows beyond what was pushed and [`MAX_FRAME`]. What is no frame is skipped and told once, with how much it was.

use alloc::vec::Vec;

/// Bytes of a line or frame at most. What is longer is skipped.
pub const MAX_FRAME: usize = 4_096;

/// What ends a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// A line feed. It does not belong to the line, nor does a carriage return before it; empty lines are none.
    #[default]
    Lines,
    /// Its own length, which it says at its beginning. All of it is given on: a cell may want to see that it came whole.
    Counted {
        /// The bytes that a frame begins with, by which a beginning is found again after noise.
        start: Vec<u8>,
        /// How the length stands after them.
        length: Length,
        /// Bytes that follow besides those that the length counts, such as a checksum.
        extra: usize,
    },
}

/// How a length is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Length {
    #[default]
    U8,
    U16Be,
    U16Le,
}

impl Length {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 3] = [("u8", Self::U8), ("u16be", Self::U16Be), ("u16le", Self::U16Le)];

    /// The length, and how many bytes it took; `None`: they are not there yet.
    fn read(self, bytes: &[u8]) -> Option<(usize, usize)> {
        match (self, bytes) {
            (Self::U8, [length, ..]) => Some((usize::from(*length), 1)),
            (Self::U16Be, [high, low, ..]) => Some((usize::from(u16::from_be_bytes([*high, *low])), 2)),
            (Self::U16Le, [low, high, ..]) => Some((usize::from(u16::from_le_bytes([*low, *high])), 2)),
            (Self::U8 | Self::U16Be | Self::U16Le, _) => None,
        }
    }
}

/// What is no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFrame {
    /// A line that does not end where it should have.
    #[error("a line has more than {MAX_FRAME} bytes")]
    TooLong,
    /// Bytes that begin no frame.
    #[error("{0} bytes that belong to no frame")]
    Noise(usize),
}

/// Finds frames.
#[derive(Debug)]
pub struct Framer {
    framing: Framing,
    bytes: Vec<u8>,
    /// Of the bytes, those that are done with.
    done: usize,
    /// Bytes that were skipped and not told.
    noise: usize,
    /// Bytes that came after the last line or frame that ended.
    unended: u64,
    /// Whether what comes is the rest of a line that is not wanted: it is too long, or its beginning was not heard.
    skips_line: bool,
}

impl Framer {
    /// Nothing has come.
    #[must_use]
    pub const fn new(framing: Framing) -> Self {
        Self { framing, bytes: Vec::new(), done: 0, noise: 0, unended: 0, skips_line: false }
    }

    /// Somebody may be in the middle of a line: its rest, which might look like a line of its own, is none, and is not told. Where a counted
    /// frame begins is found in any case.
    pub const fn join_midway(&mut self) {
        self.skips_line = matches!(self.framing, Framing::Lines);
    }

    /// Takes bytes. What [`Framer::next`] gives is to be taken first, all of it.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.done);
        self.done = 0;
        self.bytes.extend_from_slice(bytes);
        self.unended += bytes.len() as u64;
    }

    /// Bytes that came after the last line or frame that ended, also those that were skipped.
    #[must_use]
    pub const fn unended(&self) -> u64 {
        self.unended
    }

    fn ended(&mut self) {
        self.unended = (self.bytes.len() - self.done) as u64;
    }

    /// Nothing follows: a line that has begun is whole. A counted frame is not.
    pub fn end(&mut self) {
        match self.framing {
            Framing::Lines => self.push(b"\n"),
            Framing::Counted { .. } => self.abandon(),
        }
    }

    /// Whether frames say their own length.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        matches!(self.framing, Framing::Counted { .. })
    }

    /// Whether a frame has begun and not ended.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.done < self.bytes.len()
    }

    /// What has begun never ends: something was lost.
    pub fn abandon(&mut self) {
        self.noise += self.bytes.len() - self.done;
        self.done = self.bytes.len();
    }

    /// Gives the next frame, or what was there instead; `None`: more bytes are needed.
    #[allow(clippy::should_implement_trait)] // what it gives is lent
    pub fn next(&mut self) -> Option<Result<&[u8], NoFrame>> {
        match self.framing {
            Framing::Lines => self.next_line(),
            Framing::Counted { .. } => self.next_counted(),
        }
    }

    fn next_line(&mut self) -> Option<Result<&[u8], NoFrame>> {
        loop {
            let rest = &self.bytes[self.done..];
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                let is_too_long = rest.len() > MAX_FRAME;
                if is_too_long || self.skips_line {
                    self.done = self.bytes.len();
                }
                let first = is_too_long && !self.skips_line;
                self.skips_line |= is_too_long;
                return first.then_some(Err(NoFrame::TooLong));
            };
            let start = self.done;
            self.done += end + 1;
            self.ended();
            if core::mem::take(&mut self.skips_line) {
                continue;
            }
            if end > MAX_FRAME {
                return Some(Err(NoFrame::TooLong));
            }
            let line = &self.bytes[start..start + end];
            let length = line.strip_suffix(b"\r").unwrap_or(line).len();
            if length > 0 {
                return Some(Ok(&self.bytes[start..start + length]));
            }
        }
    }

    fn next_counted(&mut self) -> Option<Result<&[u8], NoFrame>> {
        let Framing::Counted { start, length, extra } = &self.framing else { return None };
        let frame = loop {
            let rest = &self.bytes[self.done..];
            if start.starts_with(rest) && rest.len() < start.len().max(1) {
                break None;
            }
            if let Some(after) = rest.strip_prefix(start.as_slice()) {
                let Some((count, width)) = length.read(after) else { break None };
                let bytes = start.len() + width + count + extra;
                if bytes <= MAX_FRAME {
                    break (rest.len() >= bytes).then_some(bytes);
                }
            }
            self.done += 1;
            self.noise += 1;
        };
        // It is told when a frame follows, or when there is much of it.
        if self.noise > 0 && (frame.is_some() || self.noise >= MAX_FRAME) {
            return Some(Err(NoFrame::Noise(core::mem::take(&mut self.noise))));
        }
        let bytes = frame?;
        self.done += bytes;
        self.ended();
        Some(Ok(&self.bytes[self.done - bytes..self.done]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of these bytes, handed over in pieces of this size.
    fn frames(framing: &Framing, bytes: &[u8], piece: usize) -> Vec<Result<Vec<u8>, NoFrame>> {
        let mut framer = Framer::new(framing.clone());
        let mut all = Vec::new();
        for piece in bytes.chunks(piece) {
            framer.push(piece);
            while let Some(frame) = framer.next() {
                all.push(frame.map(<[u8]>::to_vec));
            }
            assert!(framer.bytes.len() - framer.done <= MAX_FRAME, "it keeps more than a frame");
        }
        framer.end();
        while let Some(frame) = framer.next() {
            all.push(frame.map(<[u8]>::to_vec));
        }
        all
    }

    #[test]
    fn lines_end_with_a_line_feed_however_they_come() {
        let long = alloc::vec![b'x'; MAX_FRAME + 1];
        let text = [b"one\r\n\n\r\ntwo\n", long.as_slice(), b"\n", &long[1..], b"\nlast"].concat();
        for piece in [1, 2, 3, 64, 4_097, text.len()] {
            let found = frames(&Framing::Lines, &text, piece);
            let expected = [
                Ok(b"one".to_vec()),
                Ok(b"two".to_vec()),
                Err(NoFrame::TooLong),
                Ok(long[1..].to_vec()),
                Ok(b"last".to_vec()),
            ];
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn bytes_that_end_no_line_or_frame_are_counted() {
        let counted = Framing::Counted { start: alloc::vec![0x7e], length: Length::U8, extra: 0 };
        for (framing, whole) in [(Framing::Lines, &b"one\n"[..]), (counted, &[0x7e, 1, 9][..])] {
            let mut framer = Framer::new(framing);
            let mut push = |bytes: &[u8]| {
                framer.push(bytes);
                while framer.next().is_some() {}
                framer.unended()
            };
            let noise = [b'x'; 3_000];
            assert_eq!((push(&noise), push(&noise)), (3_000, 6_000), "also those that are skipped");
            // The rest of a line that is too long ends, too.
            push(b"\n");
            assert_eq!(push(whole), 0);
            assert_eq!(push(&noise[..5]), 5);
        }
    }

    #[test]
    fn the_rest_of_a_line_whose_beginning_was_not_heard_is_no_line() {
        for piece in [1, 3, 100] {
            let mut framer = Framer::new(Framing::Lines);
            framer.join_midway();
            let mut all = Vec::new();
            for piece in b"2.34\r\n0012.35\r\n".chunks(piece) {
                framer.push(piece);
                while let Some(frame) = framer.next() {
                    all.push(frame.map(<[u8]>::to_vec));
                }
            }
            assert_eq!(all, [Ok(b"0012.35".to_vec())], "in pieces of {piece}");
        }
    }

    #[test]
    fn counted_frames_are_found_again_after_noise() {
        // As a PMS5003 sends them: 42 4d, a length in two bytes.
        let framing = Framing::Counted { start: b"\x42\x4d".to_vec(), length: Length::U16Be, extra: 0 };
        let (one, two) = (b"\x42\x4d\x00\x03abc".to_vec(), b"\x42\x4d\x00\x00".to_vec());
        let bytes = [b"\x4d", one.as_slice(), b"\x00\x00\x01\x42\x42\x4d\xff\xff", two.as_slice(), &one[..5]].concat();
        for piece in [1, 2, 5, bytes.len()] {
            let found = frames(&framing, &bytes, piece);
            let expected = [Err(NoFrame::Noise(1)), Ok(one.clone()), Err(NoFrame::Noise(8)), Ok(two.clone())];
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_length_may_be_one_byte_or_two_and_leave_out_a_checksum() {
        let check = |start: &[u8], length, extra, bytes: &[u8]| {
            let framing = Framing::Counted { start: start.to_vec(), length, extra };
            assert_eq!(frames(&framing, bytes, 1), [Ok(bytes.to_vec())], "{length:?}");
        };
        check(b"", Length::U8, 0, b"\x02ab");
        check(b"\xaa", Length::U16Le, 2, b"\xaa\x01\x00acc");
    }

    #[test]
    fn noise_without_a_frame_is_told_in_time() {
        let framing = Framing::Counted { start: b"\x42\x4d".to_vec(), length: Length::U8, extra: 0 };
        let noise = alloc::vec![0; 10_000];
        let told: usize = frames(&framing, &noise, 7)
            .iter()
            .map(|told| if let Err(NoFrame::Noise(bytes)) = told { *bytes } else { 0 })
            .sum();
        assert!((2 * MAX_FRAME..=noise.len()).contains(&told), "{told}");
    }

    #[test]
    fn a_frame_that_was_cut_does_not_take_the_next_one_with_it() {
        let framing = Framing::Counted { start: b"\x42".to_vec(), length: Length::U8, extra: 0 };
        let mut framer = Framer::new(framing);
        framer.push(b"\x42\x05ab");
        assert_eq!(framer.next(), None);
        assert!(framer.has_begun());
        framer.abandon();
        framer.push(b"\x42\x01c");
        assert_eq!(framer.next(), Some(Err(NoFrame::Noise(4))));
        assert_eq!(framer.next(), Some(Ok(&b"\x42\x01c"[..])));
        assert!(!framer.has_begun());
    }
}
