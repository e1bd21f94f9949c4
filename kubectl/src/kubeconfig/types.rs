//! The types that a kubeconfig is made of, and Go's complaints about one that does not have them.

use api::schema::go;
use serde_json::{Map, Value};

use crate::failure::from_base64;

/// The type of a value.
pub enum Type {
    Text,
    Flag,
    /// base64.
    Bytes,
    /// Text of a type with a name of its own.
    Named(&'static str),
    Anything,
    List(&'static Type),
    Map(&'static Type),
    Struct(&'static Struct),
    /// A structure that may be missing.
    Pointer(&'static Struct),
}

/// A structure: its name and its fields in order.
pub struct Struct {
    name: &'static str,
    fields: &'static [(&'static str, Type)],
}

use Type::{Anything, Bytes, Flag, List, Map as Mapping, Named, Pointer, Struct as Of, Text};

static EXTENSION: Struct = Struct { name: "NamedExtension", fields: &[("name", Text), ("extension", Anything)] };
static CLUSTER: Struct = Struct {
    name: "Cluster",
    fields: &[
        ("server", Text),
        ("tls-server-name", Text),
        ("insecure-skip-tls-verify", Flag),
        ("certificate-authority", Text),
        ("certificate-authority-data", Bytes),
        ("proxy-url", Text),
        ("disable-compression", Flag),
        ("extensions", List(&Of(&EXTENSION))),
    ],
};
static PROVIDER: Struct = Struct { name: "AuthProviderConfig", fields: &[("name", Text), ("config", Mapping(&Text))] };
static VARIABLE: Struct = Struct { name: "ExecEnvVar", fields: &[("name", Text), ("value", Text)] };
static EXEC: Struct = Struct {
    name: "ExecConfig",
    fields: &[
        ("command", Text),
        ("args", List(&Text)),
        ("env", List(&Of(&VARIABLE))),
        ("apiVersion", Text),
        ("installHint", Text),
        ("provideClusterInfo", Flag),
        ("interactiveMode", Named("v1.ExecInteractiveMode")),
    ],
};
static USER: Struct = Struct {
    name: "AuthInfo",
    fields: &[
        ("client-certificate", Text),
        ("client-certificate-data", Bytes),
        ("client-key", Text),
        ("client-key-data", Bytes),
        ("token", Text),
        ("tokenFile", Text),
        ("as", Text),
        ("as-uid", Text),
        ("as-groups", List(&Text)),
        ("as-user-extra", Mapping(&List(&Text))),
        ("username", Text),
        ("password", Text),
        ("auth-provider", Pointer(&PROVIDER)),
        ("exec", Pointer(&EXEC)),
        ("extensions", List(&Of(&EXTENSION))),
    ],
};
static CONTEXT: Struct = Struct {
    name: "Context",
    fields: &[("cluster", Text), ("user", Text), ("namespace", Text), ("extensions", List(&Of(&EXTENSION)))],
};
static NAMED_CLUSTER: Struct = Struct { name: "NamedCluster", fields: &[("name", Text), ("cluster", Of(&CLUSTER))] };
static NAMED_USER: Struct = Struct { name: "NamedAuthInfo", fields: &[("name", Text), ("user", Of(&USER))] };
static NAMED_CONTEXT: Struct = Struct { name: "NamedContext", fields: &[("name", Text), ("context", Of(&CONTEXT))] };
static PREFERENCES: Struct =
    Struct { name: "Preferences", fields: &[("colors", Flag), ("extensions", List(&Of(&EXTENSION)))] };
static CONFIG: Struct = Struct {
    name: "Config",
    fields: &[
        ("kind", Text),
        ("apiVersion", Text),
        ("preferences", Of(&PREFERENCES)),
        ("clusters", List(&Of(&NAMED_CLUSTER))),
        ("users", List(&Of(&NAMED_USER))),
        ("contexts", List(&Of(&NAMED_CONTEXT))),
        ("current-context", Text),
        ("extensions", List(&Of(&EXTENSION))),
    ],
};

impl Type {
    fn go(&self) -> String {
        match self {
            Text => "string".to_owned(),
            Flag => "bool".to_owned(),
            Bytes => "[]uint8".to_owned(),
            Named(name) => (*name).to_owned(),
            Anything => "interface {}".to_owned(),
            List(item) => format!("[]{}", item.go()),
            Mapping(value) => format!("map[string]{}", value.go()),
            Of(of) | Pointer(of) => format!("v1.{}", of.name),
        }
    }

    /// Checks a value of a field (`owner` is the field's structure, `path` where it is), and leaves out of it what the type
    /// does not have.
    fn check(&self, value: &mut Value, owner: &str, path: &str) -> Result<(), String> {
        match (self, &mut *value) {
            (_, Value::Null) | (Anything, _) | (Text | Named(_), Value::String(_)) | (Flag, Value::Bool(_)) => Ok(()),
            // Go takes numbers too.
            (Bytes, Value::Array(_)) => Ok(()),
            (Bytes, Value::String(text)) => from_base64(text).map(drop),
            (List(item), Value::Array(items)) => items.iter_mut().try_for_each(|value| item.check(value, owner, path)),
            (Mapping(item), Value::Object(map)) => map.values_mut().try_for_each(|value| item.check(value, owner, path)),
            (Of(of) | Pointer(of), Value::Object(map)) => of.check(map, path),
            (wanted, other) => Err(format!(
                "json: cannot unmarshal {} into Go struct field {owner}.{path} of type {}",
                go::kind(other),
                wanted.go()
            )),
        }
    }

    /// What Go's `%v` makes of a value.
    fn shown(&self, value: &Value) -> String {
        let bytes = |text: &str| from_base64(text).unwrap_or_default();
        match (self, value) {
            (Pointer(_), _) => "<nil>".to_owned(),
            (Flag, value) => value.as_bool().unwrap_or_default().to_string(),
            (Bytes, value) => {
                let bytes = bytes(value.as_str().unwrap_or_default());
                format!("[{}]", bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(" "))
            }
            (List(item), value) => {
                let items = value.as_array().into_iter().flatten();
                format!("[{}]", items.map(|value| item.shown(value)).collect::<Vec<_>>().join(" "))
            }
            (Mapping(item), value) => {
                let items = value.as_object().into_iter().flatten();
                let items: Vec<_> = items.map(|(name, value)| format!("{name}:{}", item.shown(value))).collect();
                format!("map[{}]", items.join(" "))
            }
            (Of(of), value) => {
                let fields: Vec<_> = of.fields.iter().map(|(name, field)| field.shown(&value[name])).collect();
                format!("{{{}}}", fields.join(" "))
            }
            (Text | Named(_) | Anything, value) => value.as_str().unwrap_or_default().to_owned(),
        }
    }
}

impl Struct {
    /// In the order of names, as values come out of upstream's YAML.
    fn check(&self, map: &mut Map<String, Value>, path: &str) -> Result<(), String> {
        let mut fields: Vec<_> = self.fields.iter().collect();
        fields.sort_by_key(|(name, _)| *name);
        for (name, field) in fields {
            let path = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
            map.get_mut(*name).map_or(Ok(()), |value| field.check(value, self.name, &path))?;
        }
        map.retain(|name, _| self.fields.iter().any(|(field, _)| field == name));
        Ok(())
    }
}

/// Checks a kubeconfig, and leaves out of it what no kubeconfig has.
pub fn check(config: &mut Value) -> Result<(), String> {
    let unreadable = |why: String| format!("couldn't get version/kind; json parse error: json: cannot unmarshal {why}");
    let Value::Object(map) = config else {
        let detector =
            r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
        return Err(unreadable(format!("{} into Go value of type {detector}", go::kind(config))));
    };
    let text = |name: &str, default: &str| match map.get(name) {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(text)) if text.is_empty() => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(unreadable(format!("{} into Go struct field .{name} of type string", go::kind(other)))),
    };
    let (version, kind) = (text("apiVersion", "v1")?, text("kind", "Config")?);
    if (version.as_str(), kind.as_str()) != ("v1", "Config") {
        return Err(format!(
            "no kind {} is registered for version {} in scheme \"k8s.io/client-go/tools/clientcmd/api/latest/latest.go:50\"",
            api::field::go_quote(&kind),
            api::field::go_quote(&version)
        ));
    }
    CONFIG.check(map, "")?;
    [("clusters", &NAMED_CLUSTER, "Cluster"), ("users", &NAMED_USER, "AuthInfo"), ("contexts", &NAMED_CONTEXT, "Context")]
        .into_iter()
        .try_for_each(|(list, of, inner)| once_each(map.get(list), of, inner))
}

fn once_each(list: Option<&Value>, of: &'static Struct, inner: &str) -> Result<(), String> {
    let items: Vec<&Value> = list.and_then(Value::as_array).into_iter().flatten().collect();
    let name = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
    let again = items.iter().enumerate().find(|(at, item)| items[..*at].iter().any(|other| name(other) == name(item)));
    let Some((_, again)) = again else { return Ok(()) };
    let shown: Vec<_> = items.iter().map(|item| Of(of).shown(item)).collect();
    Err(format!(
        "error converting *[]{} into *map[string]*api.{inner}: duplicate name {} in list: [{}]",
        of.name,
        api::field::go_quote(&name(again)),
        shown.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_types_are_told_with_their_place() {
        for (mut config, want) in [
            (
                json!({"clusters": [1]}),
                "json: cannot unmarshal number into Go struct field Config.clusters of type v1.NamedCluster",
            ),
            (
                json!({"users": [{"user": {"as-user-extra": {"a": "b"}}}]}),
                "json: cannot unmarshal string into Go struct field AuthInfo.users.user.as-user-extra of type []string",
            ),
            (
                json!({"users": [{"user": {"exec": {"env": [{"name": 1}]}}}]}),
                "json: cannot unmarshal number into Go struct field ExecEnvVar.users.user.exec.env.name of type string",
            ),
            (
                json!({"users": [{"name": "a", "user": {"token": "x"}}, {"name": "a", "user": {}}]}),
                "error converting *[]NamedAuthInfo into *map[string]*api.AuthInfo: duplicate name \"a\" in list: \
                 [{a { []  [] x    [] map[]   <nil> <nil> []}} {a { []  []     [] map[]   <nil> <nil> []}}]",
            ),
        ] {
            assert_eq!(check(&mut config), Err(want.to_owned()));
        }
    }

    #[test]
    fn what_no_kubeconfig_has_is_left_out() {
        let mut config = json!({"x": 1, "contexts": [{"name": "a", "y": 2, "context": {"user": "u", "z": 3}}]});
        assert_eq!(check(&mut config), Ok(()));
        assert_eq!(config, json!({"contexts": [{"name": "a", "context": {"user": "u"}}]}));
    }
}
