//! The functions of templates.

use api::field::go_quote;
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

/// Whether a function takes so many arguments.
///
/// # Errors
/// It does not.
pub(super) fn check_count(name: &str, count: usize) -> Result<(), String> {
    let (least, most) = match name {
        "not" | "len" | "base64decode" => (1, 1),
        "ne" | "lt" | "le" | "gt" | "ge" => (2, 2),
        // What `call` is given by a pipe it misses itself.
        "index" | "slice" | "printf" | "eq" | "exists" | "call" => (1, usize::MAX),
        _ => (0, usize::MAX),
    };
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let want = if least == most { least.to_string() } else { format!("at least {least}") };
    Err(format!("wrong number of args for {name}: want {want} got {count}"))
}

/// Calls a function other than `and`, `or` and `call`, with as many arguments as it takes.
pub(super) fn call(name: &str, args: &[Val]) -> Result<Val, String> {
    let failed = |why: String| format!("error calling {name}: {why}");
    match name {
        "not" => Ok(text(Value::Bool(!args[0].truth()))),
        "len" => match &args[0] {
            Val::Json(Value::String(text)) => Ok(Val::Int(text.len() as i64)),
            Val::Json(Value::Array(items)) => Ok(Val::Int(items.len() as i64)),
            Val::Json(Value::Object(map)) => Ok(Val::Int(map.len() as i64)),
            Val::Missing | Val::Json(Value::Null) => {
                Err(failed("reflect: call of reflect.Value.Type on zero Value".to_owned()))
            }
            other => Err(failed(format!("len of type {}", other.go_type()))),
        },
        "index" => args[1..].iter().try_fold(args[0].clone(), |value, at| index(value, at).map_err(&failed)),
        "slice" => slice(&args[0], &args[1..]).map_err(failed),
        "print" => Ok(text(sprint(args).into())),
        "println" => Ok(text(format!("{}\n", args.iter().map(Val::printed_nil).collect::<Vec<_>>().join(" ")).into())),
        "printf" => match &args[0] {
            Val::Json(Value::String(format)) => Ok(text(sprintf(format, &args[1..]).into())),
            other => Err(format!("wrong type for value; expected string; got {}", other.go_type())),
        },
        "html" => Ok(text(html(&evaluated(args)).into())),
        "js" => Ok(text(js(&evaluated(args)).into())),
        "urlquery" => Ok(text(crate::client::escape(&evaluated(args), " ").replace(' ', "+").into())),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => compare(name, args).map_err(failed),
        "exists" => {
            let found = args[1..].iter().try_fold(args[0].clone(), index);
            Ok(text(Value::Bool(found.is_ok_and(|v| !matches!(v, Val::Missing | Val::Json(Value::Null))))))
        }
        "base64decode" => {
            let decoded = crate::failure::from_base64(&args[0].printed());
            let decoded = decoded.map_err(|why| failed(format!("base64 decode failed: {why}")))?;
            Ok(text(String::from_utf8_lossy(&decoded).into_owned().into()))
        }
        _ => Err(failed("there is no such function".to_owned())),
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
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    if bounds.len() == 3 && matches!(value, Val::Json(Value::String(_))) {
        return Err("cannot 3-index slice a string".to_owned());
    }
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(Val::Int(bound)) => {
            usize::try_from(*bound).ok().filter(|b| *b <= length).ok_or(format!("index out of range: {bound}"))
        }
        // Go does not look at what an object's field holds.
        Some(Val::Json(Value::Number(_))) => Err("cannot index slice/array with type interface {}".to_owned()),
        Some(other) => Err(format!("cannot index slice/array with type {}", other.go_type())),
    };
    let (from, to, most) = (bound(0, 0)?, bound(1, length)?, bound(2, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    if to > most {
        return Err(format!("invalid slice index: {to} > {most}"));
    }
    Ok(match value {
        Val::Json(Value::String(text)) => Val::Json(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned().into()),
        Val::Json(Value::Array(items)) => Val::Json(items[from..to].to_vec().into()),
        _ => Val::Missing,
    })
}

/// The text that is to be escaped.
fn evaluated(args: &[Val]) -> String {
    let shown = |arg: &Val| match arg {
        Val::Missing | Val::Json(Value::Null) => Val::Json("<no value>".into()),
        other => other.clone(),
    };
    sprint(&args.iter().map(shown).collect::<Vec<_>>())
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
    let (mut next, mut reordered) = (0, false);
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let mut spec = Spec::default();
        let mut bad_index = false;
        rest = spec.flags(&rest[at + 1..]);
        let mut index = |rest: &mut &str, next: &mut usize| {
            let Some(inner) = rest.strip_prefix('[') else { return };
            let Some((number, after)) = inner.split_once(']') else {
                (bad_index, *rest) = (true, inner);
                return;
            };
            reordered = true;
            match number.parse::<usize>().ok().filter(|number| (1..=args.len()).contains(number)) {
                Some(number) => *next = number - 1,
                None => bad_index = true,
            }
            *rest = after;
        };
        index(&mut rest, &mut next);
        let star = |rest: &mut &str, next: &mut usize| {
            let after = rest.strip_prefix('*')?;
            *rest = after;
            let value = match args.get(*next) {
                Some(Val::Int(value)) => Some(*value),
                Some(other) => other.whole(),
                None => None,
            };
            *next += 1;
            Some(value)
        };
        match star(&mut rest, &mut next) {
            Some(Some(width)) => {
                spec.left |= width < 0;
                spec.width = usize::try_from(width.unsigned_abs()).unwrap_or_default();
            }
            Some(None) => out.push_str("%!(BADWIDTH)"),
            None => spec.width = number(&mut rest).unwrap_or_default(),
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            index(&mut rest, &mut next);
            spec.places = match star(&mut rest, &mut next) {
                Some(Some(places)) => usize::try_from(places).ok(),
                Some(None) => None,
                None => Some(number(&mut rest).unwrap_or_default()),
            };
            if spec.places.is_none() {
                out.push_str("%!(BADPREC)");
            }
        }
        index(&mut rest, &mut next);
        let Some(verb) = rest.chars().next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        rest = &rest[verb.len_utf8()..];
        match args.get(next) {
            _ if verb == '%' => out.push('%'),
            _ if bad_index => out.push_str(&format!("%!{verb}(BADINDEX)")),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
            Some(value) => {
                out.push_str(&spec.formatted(verb, value));
                next += 1;
            }
        }
    }
    out.push_str(rest);
    if !reordered && next < args.len() {
        let extra: Vec<String> = args[next..].iter().map(|value| typed(value, &value.printed_nil())).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

/// A value with its type, as what does not fit is shown; of nothing there is no type.
fn typed(value: &Val, shown: &str) -> String {
    match value {
        Val::Missing | Val::Json(Value::Null) => "<nil>".to_owned(),
        other => format!("{}={shown}", other.go_type()),
    }
}

/// The number that a text begins with.
fn number(rest: &mut &str) -> Option<usize> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits.parse().ok()
}

/// What stands between `%` and a verb.
#[derive(Default)]
struct Spec {
    left: bool,
    zero: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    width: usize,
    places: Option<usize>,
}

impl Spec {
    /// Reads the flags; the rest is what comes after them.
    fn flags<'a>(&mut self, text: &'a str) -> &'a str {
        let mut rest = text;
        while let Some(flag) = rest.chars().next() {
            match flag {
                '-' => self.left = true,
                '0' => self.zero = true,
                '+' => self.plus = true,
                '#' => self.sharp = true,
                ' ' => self.space = true,
                _ => break,
            }
            rest = &rest[1..];
        }
        rest
    }

    fn signed(&self, negative: bool, digits: &str) -> String {
        let sign = match negative {
            true => "-",
            false if self.plus => "+",
            false if self.space => " ",
            false => "",
        };
        format!("{sign}{digits}")
    }

    fn whole(&self, verb: char, int: i64) -> Option<String> {
        let (size, negative) = (int.unsigned_abs(), int < 0);
        let sharp = |prefix: &str| if self.sharp { prefix.to_owned() } else { String::new() };
        let character = || u32::try_from(int).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
        let (prefix, digits) = match verb {
            'd' | 'v' => (String::new(), size.to_string()),
            'x' => (sharp("0x"), format!("{size:x}")),
            'X' => (sharp("0X"), format!("{size:X}")),
            'o' => (sharp("0"), format!("{size:o}")),
            'O' => ("0o".to_owned(), format!("{size:o}")),
            'b' => (sharp("0b"), format!("{size:b}")),
            'c' => return Some(character().to_string()),
            'q' => return Some(quoted(character())),
            'U' => {
                let shown = if self.sharp { format!(" '{}'", character()) } else { String::new() };
                return Some(format!("U+{size:04X}{shown}"));
            }
            _ => return None,
        };
        let digits = format!("{digits:0>width$}", width = self.places.unwrap_or_default());
        Some(self.signed(negative, &(prefix + &digits)))
    }

    fn float(&self, verb: char, float: f64) -> Option<String> {
        let (size, negative) = (float.abs(), float.is_sign_negative());
        let digits = match verb {
            'f' | 'F' => format!("{size:.*}", self.places.unwrap_or(6)),
            'e' => exponential(size, self.places.unwrap_or(6)),
            'E' => exponential(size, self.places.unwrap_or(6)).to_uppercase(),
            'g' | 'v' if self.places.is_none() => Val::Json(size.into()).printed(),
            'G' if self.places.is_none() => Val::Json(size.into()).printed().to_uppercase(),
            _ => return None,
        };
        Some(self.signed(negative, &digits))
    }

    fn text(&self, verb: char, text: &str) -> Option<String> {
        let cut: String = text.chars().take(self.places.unwrap_or(usize::MAX)).collect();
        let bytes = |upper: bool| {
            let byte = |b: u8| if upper { format!("{b:02X}") } else { format!("{b:02x}") };
            let prefix = if upper { "0X" } else { "0x" };
            let all: Vec<String> = cut.bytes().map(byte).collect();
            let joined = all.join(match (self.space, self.sharp) {
                (true, true) if upper => " 0X",
                (true, true) => " 0x",
                (true, false) => " ",
                (false, _) => "",
            });
            if self.sharp && !all.is_empty() { format!("{prefix}{joined}") } else { joined }
        };
        Some(match verb {
            'v' if self.sharp => go_quote(text),
            's' | 'v' => cut,
            'q' if self.sharp && !cut.contains(['`', '\n', '\u{feff}']) && !cut.contains(char::is_control) => {
                format!("`{cut}`")
            }
            'q' if self.plus => ascii(&go_quote(&cut)),
            'q' => go_quote(&cut),
            'x' => bytes(false),
            'X' => bytes(true),
            _ => return None,
        })
    }

    fn formatted(&self, verb: char, value: &Val) -> String {
        let found = match (verb, value) {
            ('T', value) => Some(value.go_type().to_owned()),
            ('v', Val::Missing | Val::Json(Value::Null)) => Some("<nil>".to_owned()),
            (_, Val::Missing | Val::Json(Value::Null)) => None,
            ('v', Val::Json(json @ (Value::Array(_) | Value::Object(_)))) if self.sharp => Some(super::go_syntax(json)),
            ('v', Val::Json(Value::Array(_) | Value::Object(_))) => Some(value.printed_nil()),
            (_, Val::Json(json @ (Value::Array(_) | Value::Object(_)))) => return self.each(verb, json),
            ('t' | 'v', Val::Json(Value::Bool(bool))) => Some(bool.to_string()),
            (_, Val::Json(Value::String(text))) => self.text(verb, text),
            (_, Val::Json(Value::Number(number))) if number.is_f64() => {
                self.float(verb, number.as_f64().unwrap_or_default())
            }
            (_, value) => value.whole().and_then(|int| self.whole(verb, int)),
        };
        self.padded(verb, found.unwrap_or_else(|| format!("%!{verb}({})", typed(value, &value.printed_nil()))))
    }

    /// A list or an object: what is in it, each by itself.
    fn each(&self, verb: char, value: &Value) -> String {
        let one = |value: &Value| self.formatted(verb, &Val::Json(value.clone()));
        match value {
            Value::Array(items) => format!("[{}]", items.iter().map(one).collect::<Vec<_>>().join(" ")),
            Value::Object(map) => {
                let mut entries: Vec<(&String, &Value)> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                let entry = |(key, value): (&String, &Value)| format!("{}:{}", one(&key.as_str().into()), one(value));
                format!("map[{}]", entries.into_iter().map(entry).collect::<Vec<_>>().join(" "))
            }
            other => one(other),
        }
    }

    fn padded(&self, verb: char, body: String) -> String {
        let fill = self.width.saturating_sub(body.chars().count());
        match (self.left, self.zero && !matches!(verb, 's' | 'q' | 'v' | 't')) {
            _ if fill == 0 => body,
            (true, _) => body + &" ".repeat(fill),
            (false, true) => {
                let sign = usize::from(body.starts_with(['-', '+', ' ']));
                format!("{}{}{}", &body[..sign], "0".repeat(fill), &body[sign..])
            }
            (false, false) => " ".repeat(fill) + &body,
        }
    }
}

/// A character in single quotes.
fn quoted(c: char) -> String {
    let text = go_quote(&c.to_string());
    match c {
        '\'' => "'\\''".to_owned(),
        '"' => "'\"'".to_owned(),
        _ => format!("'{}'", text.trim_matches('"')),
    }
}

/// A quoted text with nothing but ASCII in it.
fn ascii(text: &str) -> String {
    let one = |c: char| match u32::from(c) {
        0..=0x7f => c.to_string(),
        code @ ..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    };
    text.chars().map(one).collect()
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
