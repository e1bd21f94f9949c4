//! Protobuf's wire format: tags, varints, lengths.

use super::Error;

/// How a field's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    Length,
}

/// One field as read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next field's number and value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n > 0).ok_or(Error::Wire("illegal tag"))?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Error::EndOfInput)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::EndOfInput)?;
                Payload::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Payload::Fixed32
            }
            // Groups were never used by this API.
            _ => return Err(Error::Wire("illegal wireType")),
        };
        Ok(Some((number, payload)))
    }

    /// A bare varint.
    pub(super) fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 { Error::EndOfInput } else { Error::Wire("integer overflow") })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Error::EndOfInput)?;
        self.0 = rest;
        Ok(head)
    }
}

/// Appends a bare varint.
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field's tag.
pub(super) fn tag(out: &mut Vec<u8>, number: u32, ty: WireType) {
    let ty = match ty {
        WireType::Varint => 0,
        WireType::Fixed64 => 1,
        WireType::Length => 2,
    };
    varint(out, u64::from(number) << 3 | ty);
}

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, field: u32, value: i64) {
    tag(out, field, WireType::Varint);
    varint(out, value as u64);
}

/// Appends bytes with their length.
pub(super) fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    tag(out, field, WireType::Length);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a message that `write` writes.
pub(super) fn message(
    out: &mut Vec<u8>,
    field: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    tag(out, field, WireType::Length);
    // Most messages are short: one byte is kept for the length, and what is longer moves.
    let at = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(5);
    varint(&mut prefix, length as u64);
    out.splice(at..=at, prefix);
    Ok(())
}
