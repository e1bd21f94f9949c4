//! JSON values written as messages. What a value does not hold is not written: to the reader that is the same as zero.

use base64::Engine;
use serde_json::{Map, Value};

use super::{
    Error,
    layout::{Layout, Slot, layout},
    wire::{self, WireType},
};
use crate::schema::table::{Type, TypeId, table};

/// Writes an object's fields.
pub(super) fn object(out: &mut Vec<u8>, map: &Map<String, Value>, id: TypeId) -> Result<(), Error> {
    let layout = layout(id);
    if !layout.complete {
        return Err(Error::Unsupported(table().get(id).name));
    }
    fields(out, map, layout)
}

fn fields(out: &mut Vec<u8>, map: &Map<String, Value>, layout: &Layout) -> Result<(), Error> {
    for (number, slot) in layout.slots() {
        match slot {
            Slot::Field(known) => {
                if let Some(value) = map.get(known.name).filter(|v| !v.is_null()) {
                    field(out, *number, value, &known.ty)?;
                }
            }
            Slot::Inline(inner) => wire::message(out, *number, |out| fields(out, map, inner))?,
        }
    }
    Ok(())
}

fn mismatch(ty: &Type, value: &Value) -> Error {
    Error::Value(format!("{value} is no {ty:?}"))
}

fn field(out: &mut Vec<u8>, number: u32, value: &Value, declared: &Type) -> Result<(), Error> {
    let ty = table().resolve(declared);
    let text = || value.as_str().ok_or_else(|| mismatch(ty, value));
    match ty {
        Type::String => wire::bytes(out, number, text()?.as_bytes()),
        Type::Bytes => {
            let plain: String = text()?.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(plain).map_err(|_| mismatch(ty, value))?;
            wire::bytes(out, number, &bytes);
        }
        Type::Bool => wire::number(out, number, value.as_bool().ok_or_else(|| mismatch(ty, value))?.into()),
        Type::Int32 | Type::Int64 => wire::number(out, number, value.as_i64().ok_or_else(|| mismatch(ty, value))?),
        Type::Float => {
            wire::tag(out, number, WireType::Fixed64);
            out.extend_from_slice(&value.as_f64().ok_or_else(|| mismatch(ty, value))?.to_le_bytes());
        }
        Type::Time | Type::MicroTime => {
            let at: jiff::Timestamp = text()?.parse().map_err(|_| mismatch(ty, value))?;
            let nanos = if *ty == Type::MicroTime { at.subsec_microsecond() as i64 * 1000 } else { 0 };
            let seconds = at.as_microsecond().div_euclid(1_000_000);
            wire::message(out, number, |out| {
                wire::number(out, 1, seconds);
                wire::number(out, 2, nanos.rem_euclid(1_000_000_000));
                Ok(())
            })?;
        }
        Type::Quantity => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            wire::message(out, number, |out| {
                wire::bytes(out, 1, text.as_bytes());
                Ok(())
            })?;
        }
        Type::IntOrString => {
            let (kind, int, text) = match value {
                Value::String(text) => (1, 0, text.as_str()),
                other => (0, other.as_i64().ok_or_else(|| mismatch(ty, value))?, ""),
            };
            wire::message(out, number, |out| {
                wire::number(out, 1, kind);
                wire::number(out, 2, int);
                wire::bytes(out, 3, text.as_bytes());
                Ok(())
            })?;
        }
        Type::Object if !super::is_raw(declared) => wire::bytes(out, number, b""),
        Type::Object => {
            let raw = serde_json::to_vec(value).map_err(|e| Error::Value(e.to_string()))?;
            wire::message(out, number, |out| {
                wire::bytes(out, 1, &raw);
                Ok(())
            })?;
        }
        Type::Any => return Err(Error::Unsupported("any JSON")),
        Type::Array(items) => {
            for item in value.as_array().ok_or_else(|| mismatch(ty, value))? {
                field(out, number, item, items)?;
            }
        }
        Type::Map(values) => {
            let mut entries: Vec<_> = value.as_object().ok_or_else(|| mismatch(ty, value))?.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, value) in entries {
                wire::message(out, number, |out| {
                    wire::bytes(out, 1, key.as_bytes());
                    match table().resolve(values) {
                        _ if value.is_null() => Ok(()),
                        // A list cannot be a map's value: it is the only field of a message.
                        Type::Array(_) => wire::message(out, 2, |out| field(out, 1, value, values)),
                        _ => field(out, 2, value, values),
                    }
                })?;
            }
        }
        Type::Ref(id) => {
            let map = value.as_object().ok_or_else(|| mismatch(ty, value))?;
            wire::message(out, number, |out| object(out, map, *id))?;
        }
    }
    Ok(())
}
