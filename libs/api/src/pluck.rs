//! A few fields out of encoded JSON, without building the rest.
//!
//! Watch caches ask every object's selectable fields. Decoding a pod costs five times what skipping over its bytes costs.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The values at `paths` (`spec.nodeName`; a number is a list's index: `status.podIPs.0.ip`), as text: strings as they are,
/// numbers and booleans written out, empty if absent or no scalar. Malformed bytes have no fields.
pub fn texts(bytes: &[u8], paths: &[&str]) -> Vec<String> {
    let mut found = vec![String::new(); paths.len()];
    let wanted: Vec<(usize, &str)> = paths.iter().copied().enumerate().collect();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let walk = Walk { wanted, found: &mut found };
    if walk.deserialize(&mut deserializer).is_err() {
        found.iter_mut().for_each(String::clear);
    }
    found
}

/// Paths that are left to go from here, each with its place in the answer.
struct Walk<'p, 'f> {
    wanted: Vec<(usize, &'p str)>,
    found: &'f mut [String],
}

impl<'p> Walk<'p, '_> {
    /// The paths that go on below `step`.
    fn below(&self, step: &str) -> Vec<(usize, &'p str)> {
        let rest = |path: &'p str| match path.strip_prefix(step)? {
            "" => Some(""),
            rest => rest.strip_prefix('.'),
        };
        self.wanted.iter().filter_map(|(place, path)| Some((*place, rest(path)?))).collect()
    }

    fn put(self, text: impl fmt::Display) {
        if let Some((place, _)) = self.wanted.iter().find(|(_, path)| path.is_empty()) {
            self.found[*place] = text.to_string();
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.put(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.put(value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.put(value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.put(value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.put(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let wanted = self.below(&key);
            if wanted.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Walk { wanted, found: &mut *self.found })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            let wanted = self.below(&index.to_string());
            let more = if wanted.is_empty() {
                items.next_element::<IgnoredAny>()?.is_some()
            } else {
                items.next_element_seed(Walk { wanted, found: &mut *self.found })?.is_some()
            };
            if !more {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_asked_and_skips_the_rest() {
        let json = br#"{"a":{"b":"x\n","bc":1,"d":[{"e":true},{"e":false}]},"f":null,"g":{"a":{"b":"no"}}}"#;
        let paths = ["a.b", "a.bc", "a.d.1.e", "a.d", "f", "h.i"];
        assert_eq!(texts(json, &paths), ["x\n", "1", "false", "", "", ""]);
        assert_eq!(texts(b"{\"a\":1,", &["a"]), [""]);
    }
}
