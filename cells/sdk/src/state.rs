//! The bytes of a cell's state: little-endian fields in the order they are written.
//!
//! A cell writes and reads its own fields; the frame around them (version, stream ids, lengths) is `Streams`'.

use alloc::vec::Vec;

/// The state ends before a field does, or holds a value that `save` never writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Collects the state of one stream.
#[derive(Debug, Default)]
pub struct StateWriter(pub(crate) Vec<u8>);

impl StateWriter {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Eight bytes: the float's bits, so that a NaN comes back as it was.
    pub fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }
    /// A byte that says whether there is a value, and the value.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Reads the state of one stream.
#[derive(Debug)]
pub struct StateReader<'a>(pub(crate) &'a [u8]);

impl<'a> StateReader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }
    /// The length of a stream's part.
    pub(crate) fn length(&mut self) -> Result<usize, Malformed> {
        Ok(u16::from_le_bytes(self.array()?).into())
    }
    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    /// Eight bytes as a float.
    pub fn f64(&mut self) -> Result<f64, Malformed> {
        Ok(f64::from_bits(self.u64()?))
    }
    /// A byte that says whether there is a value, and the value.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<Option<T>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(read(self)?)),
            _ => Err(Malformed),
        }
    }
}
