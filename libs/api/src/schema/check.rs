//! Values against the table of types: fields that it does not know, values of the wrong type, scalars in canonical form.

use serde_json::{Map, Value};

use super::{
    go::{self, Place},
    json, scalars,
    table::{Table, Type, TypeId, table},
};

/// Checks a value against a type in place: unknown fields go (their paths are returned), quantities and bytes become canonical,
/// nulls in lists and maps become what Go makes of them.
pub fn check(value: &mut Value, ty: TypeId) -> Result<Vec<String>, String> {
    walk(value, ty, false)
}

/// [`check`] as what a strategic merge patch made of an object becomes one again: it is converted and not decoded, which takes
/// whole numbers in any form and has words of its own. (Upstream also cuts numbers that are too large for their fields; they
/// are refused here.)
pub fn convert(value: &mut Value, ty: TypeId) -> Result<Vec<String>, String> {
    walk(value, ty, true)
}

/// All that [`check`] refuses, where it ends at the first: the path of each and what is said of it.
pub fn mismatches(value: &mut Value, ty: TypeId) -> Vec<(String, String)> {
    let mut walk = Walk { mismatches: Some(Vec::new()), ..Walk::new(false) };
    // Values in lists and maps are noted there; the whole has no path.
    match walk.value(value, &Type::Ref(ty)) {
        Ok(()) => walk.mismatches.unwrap_or_default(),
        Err(why) => vec![(String::new(), why)],
    }
}

fn walk(value: &mut Value, ty: TypeId, converts: bool) -> Result<Vec<String>, String> {
    let mut walk = Walk::new(converts);
    walk.value(value, &Type::Ref(ty))?;
    Ok(walk.unknown)
}

struct Walk {
    table: &'static Table,
    unknown: Vec<String>,
    /// `spec.containers[0]`.
    path: String,
    place: Place,
    /// Where all is looked at whatever is wrong with some of it.
    mismatches: Option<Vec<(String, String)>>,
}

impl Walk {
    fn new(converts: bool) -> Self {
        let place = Place { converts, ..Place::default() };
        Self { table: table(), unknown: Vec::new(), path: String::new(), place, mismatches: None }
    }

    /// Goes on after what is wrong here, if all is looked at.
    fn noted(&mut self, result: Result<(), String>) -> Result<(), String> {
        match (result, &mut self.mismatches) {
            (Err(why), Some(noted)) => {
                noted.push((self.path.clone(), why));
                Ok(())
            }
            (result, _) => result,
        }
    }

    fn value(&mut self, value: &mut Value, ty: &Type) -> Result<(), String> {
        if value.is_null() {
            return Ok(());
        }
        match self.table.resolve(ty) {
            Type::String => self.expect(value.is_string(), value, ty),
            Type::Bool => self.expect(value.is_boolean(), value, ty),
            Type::Float => self.expect(value.is_number(), value, ty),
            Type::Int32 => self.integer(value, i64::from(i32::MIN), i64::from(i32::MAX), ty),
            Type::Int64 => self.integer(value, i64::MIN, i64::MAX, ty),
            Type::Bytes => self.bytes(value, ty),
            Type::Time => self.time(value, false),
            Type::MicroTime => self.time(value, true),
            Type::Quantity => scalars::canonical_quantity(value),
            Type::IntOrString => self.int_or_string(value),
            Type::Object => {
                if !self.is_raw(ty) {
                    self.expect(value.is_object(), value, ty)?;
                }
                bounded(value)
            }
            Type::Any => bounded(value),
            Type::Array(items) => match value {
                Value::Array(values) => self.array(values, items),
                other => Err(self.place.mismatch(other, ty)),
            },
            Type::Map(values) => match value {
                Value::Object(map) => self.map(map, values),
                other => Err(self.place.mismatch(other, ty)),
            },
            Type::Ref(id) => match value {
                Value::Object(map) => self.object(map, *id),
                other => Err(self.place.mismatch(other, ty)),
            },
        }
    }

    /// Whether a type keeps any JSON, though it is called an object.
    fn is_raw(&self, ty: &Type) -> bool {
        matches!(ty, Type::Ref(id) if matches!(self.table.get(*id).short_name(), "RawExtension" | "FieldsV1"))
    }

    fn object(&mut self, map: &mut Map<String, Value>, id: TypeId) -> Result<(), String> {
        let table = self.table;
        let def = table.get(id);
        let outer = std::mem::replace(&mut self.place.owner, def.short_name());
        let length = self.path.len();
        let mut foreign = false;
        for (key, value) in map.iter_mut() {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
            match def.field(key) {
                Some(field) => {
                    let outer = std::mem::replace(&mut self.place.named, field.go);
                    self.place.fields.push(field.name);
                    let result = self.value(value, &field.ty);
                    self.place.fields.pop();
                    self.place.named = outer;
                    self.noted(result)?;
                }
                None => {
                    self.unknown.push(self.path.clone());
                    foreign = true;
                }
            }
            self.path.truncate(length);
        }
        if foreign {
            map.retain(|key, _| def.field(key).is_some());
        }
        self.place.owner = outer;
        Ok(())
    }

    fn array(&mut self, values: &mut [Value], items: &Type) -> Result<(), String> {
        let length = self.path.len();
        for (i, value) in values.iter_mut().enumerate() {
            self.path.push_str(&format!("[{i}]"));
            let result = self.element(value, items);
            self.noted(result)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn map(&mut self, map: &mut Map<String, Value>, values: &Type) -> Result<(), String> {
        let length = self.path.len();
        for (key, value) in map.iter_mut() {
            self.path.push('.');
            self.path.push_str(key);
            let result = self.element(value, values);
            self.noted(result)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    /// A null among elements is Go's zero value.
    fn element(&mut self, value: &mut Value, ty: &Type) -> Result<(), String> {
        if value.is_null() {
            *value = match self.table.resolve(ty) {
                Type::String | Type::Bytes => Value::from(""),
                Type::Bool => Value::from(false),
                Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::from(0),
                Type::Quantity => Value::from("0"),
                Type::Ref(_) | Type::Object => Value::Object(Map::new()),
                _ => Value::Null,
            };
        }
        let outer = self.place.named;
        self.place.named = go::element(outer);
        let result = self.value(value, ty);
        self.place.named = outer;
        result
    }

    fn expect(&self, fits: bool, value: &Value, ty: &Type) -> Result<(), String> {
        if fits { Ok(()) } else { Err(self.place.mismatch(value, ty)) }
    }

    fn integer(&self, value: &mut Value, low: i64, high: i64, ty: &Type) -> Result<(), String> {
        let number = match &*value {
            Value::Number(number) => number,
            other => return Err(self.place.mismatch(other, ty)),
        };
        if let Some(float) = number.as_f64().filter(|_| self.place.converts && number.is_f64()) {
            // As integers that floats hold exactly.
            #[allow(clippy::cast_possible_truncation, reason = "compared with what it was made of")]
            let whole = float as i64;
            #[allow(clippy::cast_precision_loss, reason = "as above")]
            let same = whole as f64 == float && whole != i64::MAX;
            if !same && float.fract() != 0.0 {
                return Err(self.place.mismatch(value, ty));
            }
            if same && (low..=high).contains(&whole) {
                *value = whole.into();
                return Ok(());
            }
        }
        match value.as_i64() {
            Some(number) if (low..=high).contains(&number) => Ok(()),
            _ => Err(self.place.told(&format!("number {value}"), &self.place.type_name(ty))),
        }
    }

    fn time(&self, value: &Value, micro: bool) -> Result<(), String> {
        let text = value.as_str().ok_or_else(|| self.place.refuse(go::kind(value), "string"))?;
        scalars::check_time(text, micro)
    }

    fn int_or_string(&self, value: &Value) -> Result<(), String> {
        let fits = |n: &serde_json::Number| n.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
        match value {
            Value::String(_) => Ok(()),
            Value::Number(n) if fits(n) => Ok(()),
            Value::Number(n) => Err(self.place.refuse(&format!("number {n}"), "int32")),
            other => Err(self.place.refuse(go::kind(other), "int32")),
        }
    }

    /// Bytes are text in base64, or a list of numbers; what is kept is the text that Go writes.
    fn bytes(&self, value: &mut Value, ty: &Type) -> Result<(), String> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let bytes = match &*value {
            Value::String(text) if STANDARD.decode(text).is_ok() => return Ok(()),
            Value::String(text) => scalars::from_base64(text).map_err(|at| {
                let from = if self.place.converts { "error decoding from json: " } else { "" };
                format!("{from}illegal base64 data at input byte {at}")
            })?,
            Value::Array(items) => items.iter().map(|item| self.byte(item)).collect::<Result<Vec<u8>, String>>()?,
            other => return Err(self.place.mismatch(other, ty)),
        };
        *value = STANDARD.encode(bytes).into();
        Ok(())
    }

    fn byte(&self, value: &Value) -> Result<u8, String> {
        match value {
            Value::Null => Ok(0),
            Value::Number(number) => {
                let byte = number.as_u64().and_then(|number| u8::try_from(number).ok());
                byte.ok_or_else(|| self.place.told(&format!("number {number}"), "uint8"))
            }
            _ if self.place.converts => Err("unrecognized type: uint8".to_owned()),
            other => Err(self.place.told(go::kind(other), "uint8")),
        }
    }
}

/// What is not compared with a type is kept as it is, and has to be all there.
fn bounded(value: &Value) -> Result<(), String> {
    if json::depth(value) > json::OPAQUE_DEPTH { Err("exceeded max depth".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_have_their_names() {
        let pod = table().by_kind("", "v1", "Pod").unwrap();
        let told = |container: Value| check(&mut json!({"spec": {"containers": [container]}}), pod).unwrap_err();
        for (container, want) in [
            (
                json!({"ports": [{"protocol": 6}]}),
                "number into Go struct field ContainerPort.spec.containers.ports.protocol of type v1.Protocol",
            ),
            (
                json!({"resources": {"limits": []}}),
                "array into Go struct field ResourceRequirements.spec.containers.resources.limits of type v1.ResourceList",
            ),
            (
                json!({"securityContext": {"capabilities": {"add": "x"}}}),
                "string into Go struct field Capabilities.spec.containers.securityContext.capabilities.add of type []v1.Capability",
            ),
            (
                json!({"securityContext": {"capabilities": {"add": [1]}}}),
                "number into Go struct field Capabilities.spec.containers.securityContext.capabilities.add of type v1.Capability",
            ),
            (
                json!({"securityContext": {"capabilities": {"add": ["A"]}, "procMount": 1}, "name": 1}),
                "number into Go struct field Container.spec.containers.name of type string",
            ),
        ] {
            assert_eq!(told(container), format!("json: cannot unmarshal {want}"));
        }
        let review = table().by_kind("authorization.k8s.io", "v1", "SubjectAccessReview").unwrap();
        let told = |extra: Value| check(&mut json!({"spec": {"extra": extra}}), review).unwrap_err();
        for (extra, want) in
            [(json!(1), "map[string]v1.ExtraValue"), (json!({"a": 1}), "v1.ExtraValue"), (json!({"a": [1]}), "string")]
        {
            assert!(told(extra).ends_with(&format!("of type {want}")), "{want}");
        }
    }

    #[test]
    fn what_is_converted_has_words_of_its_own() {
        let deployment = table().by_kind("apps", "v1", "Deployment").unwrap();
        let converted = |object: Value| {
            let mut object = object;
            convert(&mut object, deployment).map(|_| object)
        };
        let spec = |field: &str, value: Value| converted(json!({"spec": {field: value}}));
        assert_eq!(spec("replicas", json!(2.0)), Ok(json!({"spec": {"replicas": 2}})));
        let surge = |value: Value| spec("strategy", json!({"rollingUpdate": {"maxSurge": value}}));
        let meta = |field: &str, value: Value| converted(json!({"metadata": {field: value}}));
        for (told, want) in [
            (spec("replicas", json!(1.5)), "cannot convert float64 to int32"),
            (spec("replicas", json!("x")), "unrecognized type: int32"),
            (spec("paused", json!(1)), "unrecognized type: bool"),
            (spec("template", json!([])), "cannot restore struct from: slice"),
            (meta("name", json!(1)), "cannot convert int64 to string"),
            (meta("name", json!(1.5)), "unrecognized type: string"),
            (meta("uid", json!(1)), "cannot convert int64 to types.UID"),
            (meta("uid", json!({})), "unrecognized type: string"),
            (meta("name", json!({})), "unrecognized type: string"),
            (meta("finalizers", json!({})), "cannot restore slice from map"),
            (meta("labels", json!("x")), "cannot restore map from string"),
            (meta("creationTimestamp", json!(1)), "json: cannot unmarshal number into Go value of type string"),
            (surge(json!(1.5)), "json: cannot unmarshal number 1.5 into Go value of type int32"),
            (
                spec("replicas", json!(2_147_483_648_u32)),
                "json: cannot unmarshal number 2147483648 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
        ] {
            assert_eq!(told, Err(want.to_owned()));
        }
    }
}
