//! The canonical ABI, as far as the worlds need it: values laid out in a cell's memory, and read back from it.
//!
//! Everything that comes from a cell is an offset into its memory and a length, both lies until checked. The memory
//! may move whenever the cell runs, so it is borrowed anew after each call.

use porin_core::{
    fault::{BadOutput, Fault},
    setup::{Param, StreamInfo, Value},
};

use crate::guest::Guest;

/// Bytes in the cell's memory, or a fault if they are not all inside it.
pub(crate) fn bytes<'a>(memory: &'a [u8], what: &'static str, pointer: u32, len: u64) -> Result<&'a [u8], Fault> {
    let range = usize::try_from(pointer).ok().zip(usize::try_from(len).ok());
    let range = range.and_then(|(start, len)| Some(start..start.checked_add(len)?));
    range.and_then(|range| memory.get(range)).ok_or(out_of_bounds(what, pointer, len))
}

/// As `bytes`, to write to.
pub(crate) fn bytes_mut<'a>(
    memory: &'a mut [u8],
    what: &'static str,
    pointer: u32,
    len: u64,
) -> Result<&'a mut [u8], Fault> {
    let range = usize::try_from(pointer).ok().zip(usize::try_from(len).ok());
    let range = range.and_then(|(start, len)| Some(start..start.checked_add(len)?));
    range.and_then(|range| memory.get_mut(range)).ok_or(out_of_bounds(what, pointer, len))
}

fn out_of_bounds(what: &'static str, pointer: u32, bytes: u64) -> Fault {
    Fault::BadOutput(BadOutput::OutOfBounds { what, pointer, bytes })
}

/// A pointer that the type's alignment divides.
pub(crate) fn aligned(what: &'static str, pointer: u32, align: u32) -> Result<u32, Fault> {
    if pointer.is_multiple_of(align) { Ok(pointer) } else { Err(out_of_bounds(what, pointer, 0)) }
}

/// A little-endian word.
pub(crate) fn word(memory: &[u8], what: &'static str, pointer: u32) -> Result<u32, Fault> {
    let bytes = bytes(memory, what, pointer, 4)?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were asked for")))
}

/// Pointer and length of a list or string, as a function returns them in memory.
pub(crate) fn pointer_and_len(memory: &[u8], what: &'static str, at: u32) -> Result<(u32, u32), Fault> {
    let at = aligned(what, at, 4)?;
    let pointer = word(memory, what, at)?;
    Ok((pointer, word(memory, what, at.checked_add(4).ok_or(out_of_bounds(what, at, 8))?)?))
}

/// A text of at most `limit` bytes.
pub(crate) fn text<'a>(
    memory: &'a [u8],
    what: &'static str,
    pointer: u32,
    len: u32,
    limit: usize,
) -> Result<&'a str, Fault> {
    let bytes = bytes(memory, what, pointer, len.into())?;
    if bytes.len() > limit {
        return Err(Fault::BadOutput(BadOutput::TooMany { what, len: bytes.len(), limit }));
    }
    core::str::from_utf8(bytes).map_err(|_| Fault::BadOutput(BadOutput::NotUtf8 { what }))
}

/// Lays out a string and gives its pointer and length.
pub(crate) fn lower_string(guest: &mut Guest, text: &str) -> Result<[u32; 2], Fault> {
    lower_bytes(guest, text.as_bytes(), 1)
}

/// Lays out bytes whose elements are aligned to `align`, and gives pointer and length in bytes.
pub(crate) fn lower_bytes(guest: &mut Guest, bytes: &[u8], align: u32) -> Result<[u32; 2], Fault> {
    let len = length(bytes.len())?;
    let pointer = guest.allocate(len, align)?;
    guest.write(pointer, bytes)?;
    Ok([pointer, len])
}

/// What the host passes in is bounded by its own configuration, far below this.
fn length(len: usize) -> Result<u32, Fault> {
    u32::try_from(len)
        .map_err(|_| Fault::BadOutput(BadOutput::TooMany { what: "argument", len, limit: u32::MAX as usize }))
}

/// Lays out a list of records, each of `size` bytes, aligned to `align`.
pub(crate) fn lower_list<T, const SIZE: usize>(
    guest: &mut Guest,
    items: &[T],
    align: u32,
    mut lower: impl FnMut(&mut Guest, &T) -> Result<[u8; SIZE], Fault>,
) -> Result<[u32; 2], Fault> {
    let pointer = guest.allocate(length(items.len() * SIZE)?, align)?;
    for (index, item) in items.iter().enumerate() {
        let record = lower(guest, item)?;
        guest.write(pointer + length(index * SIZE)?, &record)?;
    }
    Ok([pointer, length(items.len())?])
}

/// `list<param>`: a record of a string and a variant with a payload of up to 8 bytes.
pub(crate) fn lower_params(guest: &mut Guest, params: &[Param]) -> Result<[u32; 2], Fault> {
    lower_list(guest, params, 8, |guest, param| {
        let mut record = [0; 24];
        put(&mut record, 0, lower_string(guest, &param.name)?);
        let (case, payload) = match &param.value {
            Value::Flag(value) => (0, u64::from(*value)),
            Value::Integer(value) => (1, value.cast_unsigned()),
            Value::Number(value) => (2, value.to_bits()),
            Value::Text(value) => {
                let [pointer, len] = lower_string(guest, value)?;
                (3, u64::from(len) << 32 | u64::from(pointer))
            }
        };
        record[8] = case;
        record[16..24].copy_from_slice(&payload.to_le_bytes());
        Ok(record)
    })
}

/// `list<stream-info>`.
pub(crate) fn lower_streams(guest: &mut Guest, streams: &[StreamInfo]) -> Result<[u32; 2], Fault> {
    lower_list(guest, streams, 4, |guest, stream| {
        let mut record = [0; 28];
        record[..4].copy_from_slice(&stream.id.0.to_le_bytes());
        put(&mut record, 4, lower_string(guest, &stream.name)?);
        put(&mut record, 12, lower_string(guest, &stream.unit)?);
        put(&mut record, 20, lower_params(guest, &stream.params)?);
        Ok(record)
    })
}

/// Writes a pointer and a length into a record.
pub(crate) fn put(record: &mut [u8], at: usize, [pointer, len]: [u32; 2]) {
    record[at..at + 4].copy_from_slice(&pointer.to_le_bytes());
    record[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
}
