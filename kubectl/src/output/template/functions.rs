//! The functions of templates.

use api::{field::go_quote, jsonpath::go_format};
use serde_json::Value;

use super::eval::Val;

/// Every function that a template may name.
pub(super) const NAMES: &[&str] = &[
    "and",
    "or",
    "not",
    "len",
    "index",
    "slice",
    "print",
    "printf",
    "println",
    "html",
    "js",
    "urlquery",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "exists",
    "base64decode",
    "call",
];

fn text(value: Value) -> Val {
    Val::Json(value)
}

/// Calls a function other than `and` and `or`.
pub(super) fn call(name: &str, args: &[Val]) -> Result<Val, String> {
    let needs = |at_least: usize, at_most: usize| {
        let count = args.len();
        if count < at_least || count > at_most {
            let want = if at_least == at_most { at_least.to_string() } else { format!("at least {at_least}") };
            return Err(format!("wrong number of args for {name}: want {want} got {count}"));
        }
        Ok(())
    };
    let failed = |why: String| format!("error calling {name}: {why}");
    match name {
        "not" => needs(1, 1).map(|()| text(Value::Bool(!args[0].truth()))),
        "len" => {
            needs(1, 1)?;
            match &args[0] {
                Val::Json(Value::String(text)) => Ok(Val::Int(text.len() as i64)),
                Val::Json(Value::Array(items)) => Ok(Val::Int(items.len() as i64)),
                Val::Json(Value::Object(map)) => Ok(Val::Int(map.len() as i64)),
                Val::Missing | Val::Json(Value::Null) => Err(failed("len of nil pointer".to_owned())),
                other => Err(failed(format!("len of type {}", other.go_type()))),
            }
        }
        "index" => {
            needs(1, usize::MAX)?;
            args[1..].iter().try_fold(args[0].clone(), |value, at| index(value, at).map_err(&failed))
        }
        "slice" => {
            needs(1, 4)?;
            slice(&args[0], &args[1..]).map_err(failed)
        }
        "print" => Ok(text(sprint(args).into())),
        "println" => Ok(text(format!("{}\n", args.iter().map(Val::printed).collect::<Vec<_>>().join(" ")).into())),
        "printf" => {
            needs(1, usize::MAX)?;
            match &args[0] {
                Val::Json(Value::String(format)) => Ok(text(sprintf(format, &args[1..]).into())),
                other => Err(format!("wrong type for value; expected string; got {}", other.go_type())),
            }
        }
        "html" => Ok(text(html(&sprint(args)).into())),
        "js" => Ok(text(js(&sprint(args)).into())),
        "urlquery" => Ok(text(crate::client::escape(&sprint(args), " ").replace(' ', "+").into())),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => compare(name, args).map_err(failed),
        "exists" => {
            needs(1, usize::MAX)?;
            let found = args[1..].iter().try_fold(args[0].clone(), index);
            Ok(text(Value::Bool(found.is_ok_and(|v| !matches!(v, Val::Missing | Val::Json(Value::Null))))))
        }
        "base64decode" => {
            use base64::Engine;
            needs(1, 1)?;
            let given = args[0].printed();
            let decoded = base64::engine::general_purpose::STANDARD.decode(given.replace(['\n', '\r'], ""));
            let decoded = decoded
                .map_err(|why| failed(format!("base64 decode failed: {}", crate::failure::go_base64(&given, &why))))?;
            Ok(text(String::from_utf8_lossy(&decoded).into_owned().into()))
        }
        _ => Err(failed("nothing here can be called".to_owned())),
    }
}

fn index(value: Val, at: &Val) -> Result<Val, String> {
    match (value, at) {
        (Val::Json(Value::Object(mut map)), Val::Json(Value::String(key))) => {
            Ok(map.remove(key).map_or(Val::Missing, Val::Json))
        }
        (Val::Json(Value::Object(_)), other) => Err(format!("value has type {}; should be string", other.go_type())),
        (Val::Json(list @ (Value::Array(_) | Value::String(_))), other) => match other.whole() {
            Some(at) => item(list, at),
            None => Err(format!("cannot index slice/array with type {}", other.go_type())),
        },
        (Val::Missing | Val::Json(Value::Null), _) => Err("index of untyped nil".to_owned()),
        (other, _) => Err(format!("can't index item of type {}", other.go_type())),
    }
}

/// A list's item or a text's byte.
fn item(list: Value, at: i64) -> Result<Val, String> {
    let (found, length, what) = match list {
        Value::Array(mut items) => {
            let length = items.len();
            let found = usize::try_from(at).ok().filter(|at| *at < length).map(|at| Val::Json(items.swap_remove(at)));
            (found, length, "slice")
        }
        Value::String(text) => {
            let byte = usize::try_from(at).ok().and_then(|at| text.as_bytes().get(at).copied());
            (byte.map(|byte| Val::Int(byte.into())), text.len(), "string")
        }
        _ => (None, 0, ""),
    };
    // Go misses the one past the end.
    let past = usize::try_from(at) == Ok(length);
    let wrong = || if past { format!("reflect: {what} index out of range") } else { format!("index out of range: {at}") };
    found.ok_or_else(wrong)
}

fn slice(value: &Val, bounds: &[Val]) -> Result<Val, String> {
    let length = match value {
        Val::Json(Value::String(text)) => text.len(),
        Val::Json(Value::Array(items)) => items.len(),
        Val::Missing | Val::Json(Value::Null) => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", other.go_type())),
    };
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(Val::Int(bound)) => {
            usize::try_from(*bound).ok().filter(|b| *b <= length).ok_or(format!("index out of range: {bound}"))
        }
        // Go does not look at what an object's field holds.
        Some(Val::Json(Value::Number(_))) => Err("cannot index slice/array with type interface {}".to_owned()),
        Some(other) => Err(format!("cannot index slice/array with type {}", other.go_type())),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match value {
        Val::Json(Value::String(text)) => Val::Json(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned().into()),
        Val::Json(Value::Array(items)) => Val::Json(items[from..to].to_vec().into()),
        _ => Val::Missing,
    })
}

/// Go's `Sprint`: spaces between operands of which neither is a string.
fn sprint(args: &[Val]) -> String {
    let mut out = String::new();
    for (at, arg) in args.iter().enumerate() {
        let string = |v: &Val| matches!(v, Val::Json(Value::String(_)));
        if at > 0 && !string(arg) && !string(&args[at - 1]) {
            out.push(' ');
        }
        out.push_str(&arg.printed_nil());
    }
    out
}

fn compare(name: &str, args: &[Val]) -> Result<Val, String> {
    if args.len() < 2 {
        return Err("missing argument for comparison".to_owned());
    }
    let bool = |value: bool| Ok(Val::Json(Value::Bool(value)));
    if name == "eq" {
        let results: Vec<bool> = args[1..].iter().map(|other| equal(&args[0], other)).collect::<Result<_, _>>()?;
        return bool(results.contains(&true));
    }
    if name == "ne" {
        return bool(!equal(&args[0], &args[1])?);
    }
    let order = match (&args[0], &args[1]) {
        (a, b) if a.whole().is_some() && b.whole().is_some() => Some(a.whole().cmp(&b.whole())),
        (Val::Json(Value::Number(a)), Val::Json(Value::Number(b))) if a.is_f64() && b.is_f64() => {
            a.as_f64().partial_cmp(&b.as_f64())
        }
        (Val::Json(Value::String(a)), Val::Json(Value::String(b))) => Some(a.as_bytes().cmp(b.as_bytes())),
        (a, b) if a.basic() && b.basic() && a.go_type() != b.go_type() => {
            return Err("incompatible types for comparison".to_owned());
        }
        _ => return Err("invalid type for comparison".to_owned()),
    };
    bool(order.is_some_and(|order| match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    }))
}

fn equal(a: &Val, b: &Val) -> Result<bool, String> {
    Ok(match (a, b) {
        (Val::Missing | Val::Json(Value::Null), Val::Missing | Val::Json(Value::Null)) => true,
        (Val::Missing | Val::Json(Value::Null), _) | (_, Val::Missing | Val::Json(Value::Null)) => false,
        (a, b) if a.whole().is_some() && b.whole().is_some() => a.whole() == b.whole(),
        (Val::Json(Value::Number(a)), Val::Json(Value::Number(b))) if a.is_f64() && b.is_f64() => a.as_f64() == b.as_f64(),
        (Val::Json(a), Val::Json(b)) if a.is_string() && b.is_string() || a.is_boolean() && b.is_boolean() => a == b,
        (a, b) if a.basic() && b.basic() => return Err("incompatible types for comparison".to_owned()),
        (a, _) => return Err(format!("non-comparable type {}: {}", a.printed(), a.go_type())),
    })
}

fn html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Go's `Sprintf` for the values that there are.
fn sprintf(format: &str, args: &[Val]) -> String {
    let mut out = String::new();
    let mut next = args.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let spec = &rest[at + 1..];
        let end = spec.find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+' | '#' | ' ')).unwrap_or(spec.len());
        let (flags, tail) = spec.split_at(end);
        let Some(verb) = tail.chars().next() else {
            out.push_str("%!(NOVERB)");
            rest = "";
            break;
        };
        rest = &tail[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match next.next() {
            Some(value) => out.push_str(&formatted(flags, verb, value)),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    out.push_str(rest);
    let extra: Vec<String> = next.map(|v| format!("{}={}", v.go_type(), v.printed_nil())).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn formatted(flags: &str, verb: char, value: &Val) -> String {
    let (left, zero) = (flags.contains('-'), flags.trim_start_matches(['+', '#', ' ']).starts_with('0'));
    let numbers = flags.trim_start_matches(['-', '+', '#', ' ', '0']);
    let (width, precision) = numbers.split_once('.').unwrap_or((numbers, ""));
    let width: usize = width.parse().unwrap_or(0);
    let places: Option<usize> = numbers.contains('.').then(|| precision.parse().unwrap_or(0));
    let plus = |text: String| if flags.contains('+') && !text.starts_with('-') { format!("+{text}") } else { text };
    let whole = value.whole().and_then(|int| {
        Some(match verb {
            'd' => plus(int.to_string()),
            'x' => format!("{int:x}"),
            'X' => format!("{int:X}"),
            'o' => format!("{int:o}"),
            'b' => format!("{int:b}"),
            'c' => u32::try_from(int).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(),
            _ => return None,
        })
    });
    let body = match (verb, value) {
        _ if whole.is_some() => whole.unwrap_or_default(),
        ('v', value) if flags.contains('#') => match value {
            Val::Json(json) => super::go_syntax(json),
            other => other.printed_nil(),
        },
        ('v', value) => value.printed_nil(),
        ('T', value) => value.go_type().to_owned(),
        ('s', Val::Json(Value::String(text))) => places.map_or(text.clone(), |p| text.chars().take(p).collect()),
        ('q', Val::Json(Value::String(text))) => go_quote(text),
        ('x', Val::Json(Value::String(text))) => text.bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Val::Json(Value::String(text))) => text.bytes().map(|b| format!("{b:02X}")).collect(),
        ('t', Val::Json(Value::Bool(bool))) => bool.to_string(),
        ('f' | 'F', Val::Json(Value::Number(number))) if number.is_f64() => {
            plus(format!("{:.*}", places.unwrap_or(6), number.as_f64().unwrap_or_default()))
        }
        ('g' | 'G', Val::Json(Value::Number(number))) if number.is_f64() => plus(value.printed()),
        ('e', Val::Json(Value::Number(number))) if number.is_f64() => {
            plus(exponential(number.as_f64().unwrap_or_default(), places.unwrap_or(6)))
        }
        ('s' | 'd' | 'q', Val::Json(Value::Array(_) | Value::Object(_))) => go_format(&value.clone().into_json()),
        (verb, Val::Missing | Val::Json(Value::Null)) => format!("%!{verb}(<nil>)"),
        (verb, value) => format!("%!{verb}({}={})", value.go_type(), value.printed()),
    };
    let length = body.chars().count();
    if length >= width {
        return body;
    }
    let fill = width - length;
    match (left, zero && !left && verb != 's') {
        (true, _) => body + &" ".repeat(fill),
        (false, true) => {
            let sign = usize::from(body.starts_with(['-', '+']));
            format!("{}{}{}", &body[..sign], "0".repeat(fill), &body[sign..])
        }
        (false, false) => " ".repeat(fill) + &body,
    }
}

fn exponential(float: f64, places: usize) -> String {
    let text = format!("{float:.places$e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let power: i32 = exponent.parse().unwrap_or_default();
            format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
        }
        None => text,
    }
}
