//! Messages read as JSON values. Zeros of fields for which zero means unset are left out, as Go's encoder would in JSON.

use base64::Engine;
use serde_json::{Map, Value, json};

use super::{
    Error, MAX_DEPTH,
    layout::{Layout, Slot, layout},
    wire::{Payload, Reader},
};
use crate::schema::table::{Type, TypeId, table};

/// Reads an object's fields into `map`.
pub(super) fn object(bytes: &[u8], map: &mut Map<String, Value>, id: TypeId, depth: usize) -> Result<(), Error> {
    let layout = layout(id);
    if !layout.complete {
        return Err(Error::Unsupported(table().get(id).name));
    }
    fields(bytes, map, layout, depth)
}

fn fields(bytes: &[u8], map: &mut Map<String, Value>, layout: &Layout, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Wire("exceeded max depth"));
    }
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.next()? {
        match layout.get(number) {
            None => {}
            Some(Slot::Inline(inner)) => fields(bytes_of(payload)?, map, inner, depth + 1)?,
            Some(Slot::Field(known)) => {
                let before = map.remove(known.name);
                let value = field(payload, &known.ty, before, depth)?;
                let unset = value.is_null() || (known.zero_is_unset && is_zero(&value));
                if !unset {
                    map.insert(known.name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(flag) => !flag,
        _ => false,
    }
}

fn bytes_of(payload: Payload<'_>) -> Result<&[u8], Error> {
    match payload {
        Payload::Bytes(bytes) => Ok(bytes),
        _ => Err(Error::Wire("wrong wireType")),
    }
}

fn varint_of(payload: Payload<'_>) -> Result<i64, Error> {
    match payload {
        Payload::Varint(value) => Ok(value as i64),
        _ => Err(Error::Wire("wrong wireType")),
    }
}

fn text_of(payload: Payload<'_>) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(bytes_of(payload)?).into_owned())
}

/// The last value of one field of a message.
fn only(bytes: &[u8], number: u32) -> Result<Option<Payload<'_>>, Error> {
    let mut reader = Reader(bytes);
    let mut found = None;
    while let Some((n, payload)) = reader.next()? {
        if n == number {
            found = Some(payload);
        }
    }
    Ok(found)
}

/// A field's value; `before` is what the field held, for lists, maps and messages that come in parts.
fn field(payload: Payload<'_>, ty: &Type, before: Option<Value>, depth: usize) -> Result<Value, Error> {
    Ok(match table().resolve(ty) {
        Type::String => text_of(payload)?.into(),
        Type::Bytes => base64::engine::general_purpose::STANDARD.encode(bytes_of(payload)?).into(),
        Type::Bool => (varint_of(payload)? != 0).into(),
        Type::Int32 => (varint_of(payload)? as i32).into(),
        Type::Int64 => varint_of(payload)?.into(),
        Type::Float => match payload {
            Payload::Fixed64(bits) => json!(f64::from_bits(bits)),
            _ => return Err(Error::Wire("wrong wireType")),
        },
        Type::Time => time(bytes_of(payload)?, "%Y-%m-%dT%H:%M:%SZ")?,
        Type::MicroTime => time(bytes_of(payload)?, "%Y-%m-%dT%H:%M:%S.%6fZ")?,
        Type::Quantity => match only(bytes_of(payload)?, 1)? {
            Some(text) => text_of(text)?.into(),
            None => "0".into(),
        },
        Type::IntOrString => {
            let bytes = bytes_of(payload)?;
            let number = |n| only(bytes, n)?.map_or(Ok(0), varint_of);
            match number(1)? {
                0 => (number(2)? as i32).into(),
                _ => only(bytes, 3)?.map_or(Ok(String::new()), text_of)?.into(),
            }
        }
        Type::Object if !super::is_raw(ty) => json!({}),
        Type::Object => match only(bytes_of(payload)?, 1)? {
            Some(raw) => json_of(bytes_of(raw)?, depth)?,
            None => Value::Null,
        },
        Type::Any => return Err(Error::Unsupported("any JSON")),
        Type::Array(items) => {
            let mut list = match before {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            };
            match (table().resolve(items), payload) {
                // Numbers may come packed.
                (Type::Int32 | Type::Int64 | Type::Bool, Payload::Bytes(packed)) => {
                    let mut reader = Reader(packed);
                    while !reader.0.is_empty() {
                        list.push(field(Payload::Varint(reader.varint()?), items, None, depth)?);
                    }
                }
                _ => list.push(field(payload, items, None, depth)?),
            }
            Value::Array(list)
        }
        Type::Map(values) => {
            let mut map = match before {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            let entry = bytes_of(payload)?;
            let key = only(entry, 1)?.map_or(Ok(String::new()), text_of)?;
            map.insert(key, map_value(only(entry, 2)?, values, depth)?);
            Value::Object(map)
        }
        Type::Ref(id) => {
            let mut map = match before {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            object(bytes_of(payload)?, &mut map, *id, depth + 1)?;
            Value::Object(map)
        }
    })
}

fn map_value(payload: Option<Payload<'_>>, ty: &Type, depth: usize) -> Result<Value, Error> {
    match (table().resolve(ty), payload) {
        (Type::Array(_), payload) => {
            let mut list = Value::Array(Vec::new());
            let mut reader = Reader(payload.map_or(Ok(&[][..]), bytes_of)?);
            while let Some((number, item)) = reader.next()? {
                if number == 1 {
                    list = field(item, ty, Some(list), depth)?;
                }
            }
            Ok(list)
        }
        (_, Some(payload)) => field(payload, ty, None, depth),
        (Type::String | Type::Bytes, None) => Ok("".into()),
        (Type::Quantity, None) => Ok("0".into()),
        (Type::Ref(_) | Type::Map(_), None) => Ok(json!({})),
        (Type::Time | Type::MicroTime, None) => Ok(Value::Null),
        (_, None) => Ok(json!(0)),
    }
}

/// An empty message is Go's zero time: unset.
fn time(bytes: &[u8], format: &str) -> Result<Value, Error> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let number = |n| only(bytes, n)?.map_or(Ok(0), varint_of);
    let (seconds, nanos) = (number(1)?, number(2)?);
    let nanos = i32::try_from(nanos).map_err(|_| Error::Wire("time out of range"))?;
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| Error::Wire("time out of range"))?;
    Ok(at.strftime(format).to_string().into())
}

fn json_of(raw: &[u8], depth: usize) -> Result<Value, Error> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if super::is(raw) {
        return super::decode_at(raw, None, depth + 1);
    }
    crate::schema::json::parse(raw).map(|parsed| parsed.value).map_err(|e| Error::Value(e.to_string()))
}
