//! A kustomization as it is written: its fields, and what is wrong with them in the words of Go's decoder.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fields::FieldSpec;

/// `kustomization.yaml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Kustomization {
    pub api_version: String,
    pub kind: String,
    pub openapi: BTreeMap<String, String>,
    pub name_prefix: String,
    pub name_suffix: String,
    pub namespace: String,
    pub common_labels: BTreeMap<String, String>,
    pub labels: Vec<Label>,
    pub common_annotations: BTreeMap<String, String>,
    pub patches_strategic_merge: Vec<String>,
    pub patches_json6902: Vec<Patch>,
    pub patches: Vec<Patch>,
    pub images: Vec<Image>,
    pub image_tags: Vec<Image>,
    pub replacements: Vec<Value>,
    pub replicas: Vec<Replica>,
    pub vars: Vec<Variable>,
    pub sort_options: Option<SortOptions>,
    pub resources: Vec<String>,
    pub components: Vec<String>,
    pub crds: Vec<String>,
    pub bases: Vec<String>,
    pub config_map_generator: Vec<Generator>,
    pub secret_generator: Vec<Generator>,
    pub helm_charts: Vec<Value>,
    pub helm_chart_inflation_generator: Vec<Value>,
    pub generator_options: Option<GeneratorOptions>,
    pub configurations: Vec<String>,
    pub generators: Vec<String>,
    pub transformers: Vec<String>,
    pub validators: Vec<String>,
    pub build_metadata: Vec<String>,
}

/// An entry of `labels`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Label {
    pub pairs: BTreeMap<String, String>,
    pub include_selectors: bool,
    pub include_templates: bool,
    pub fields: Vec<Value>,
}

/// An entry of `patches` and `patchesJson6902`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Patch {
    pub path: String,
    pub patch: String,
    pub target: Option<Selector>,
    pub options: BTreeMap<String, bool>,
}

/// What resources are meant.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
    pub annotation_selector: String,
    pub label_selector: String,
}

/// An entry of `images`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Image {
    pub name: String,
    pub new_name: String,
    pub tag_suffix: String,
    pub new_tag: String,
    pub digest: String,
}

/// An entry of `replicas`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Replica {
    pub name: String,
    pub count: i64,
}

/// An entry of `replacements`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Replacement {
    pub source: Option<ReplacementSource>,
    pub targets: Option<Vec<ReplacementTarget>>,
}

/// Where a replacement's value is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplacementSource {
    #[serde(flatten)]
    pub selector: Selector,
    pub field_path: String,
    pub options: Option<FieldOptions>,
}

/// Where it goes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplacementTarget {
    pub select: Option<Selector>,
    pub reject: Vec<Selector>,
    pub field_paths: Vec<String>,
    pub options: Option<FieldOptions>,
}

/// What part of a field is meant.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FieldOptions {
    pub delimiter: String,
    pub index: i64,
    pub encoding: String,
    pub create: bool,
}

/// An entry of `vars`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Variable {
    pub name: String,
    pub objref: ObjectReference,
    pub fieldref: FieldReference,
}

/// The resource that a variable's value is in.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectReference {
    pub api_version: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

/// The field that it is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct FieldReference {
    pub field_path: String,
}

/// `sortOptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SortOptions {
    pub order: String,
    pub legacy_sort_options: Option<LegacySortOptions>,
}

/// What comes first and last.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LegacySortOptions {
    pub order_first: Vec<String>,
    pub order_last: Vec<String>,
}

/// An entry of `configMapGenerator` and `secretGenerator`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Generator {
    pub name: String,
    pub namespace: String,
    pub behavior: String,
    pub literals: Vec<String>,
    pub files: Vec<String>,
    pub envs: Vec<String>,
    pub env: String,
    pub options: Option<GeneratorOptions>,
    pub r#type: String,
}

/// `generatorOptions`, and each generator's own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GeneratorOptions {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub disable_name_suffix_hash: bool,
    pub immutable: bool,
}

/// What a field may hold.
enum Form {
    Text,
    Bool,
    Int,
    Texts,
    Bools,
    List(&'static Form),
    Struct(&'static Struct),
    Any,
}

/// A Go struct: its name and its fields.
struct Struct(&'static str, &'static [(&'static str, Form)]);

use Form::{Any, Bool, Bools, Int, List, Struct as Of, Text, Texts};

const GROUP: (&str, Form) = ("group", Text);
const VERSION: (&str, Form) = ("version", Text);
const KIND: (&str, Form) = ("kind", Text);
static OPTIONS: Struct = Struct(
    "GeneratorOptions",
    &[("labels", Texts), ("annotations", Texts), ("disableNameSuffixHash", Bool), ("immutable", Bool)],
);
static IMAGE: Struct =
    Struct("Image", &[("name", Text), ("newName", Text), ("tagSuffix", Text), ("newTag", Text), ("digest", Text)]);
static FIELD: Struct = Struct("FieldSpec", &[GROUP, VERSION, KIND, ("path", Text), ("create", Bool)]);
static SELECTOR: Struct = Struct(
    "Selector",
    &[GROUP, VERSION, KIND, ("name", Text), ("namespace", Text), ("annotationSelector", Text), ("labelSelector", Text)],
);
static FIELD_OPTIONS: Struct =
    Struct("FieldOptions", &[("delimiter", Text), ("index", Int), ("encoding", Text), ("create", Bool)]);
static SOURCE: Struct = Struct(
    "SourceSelector",
    &[GROUP, VERSION, KIND, ("name", Text), ("namespace", Text), ("fieldPath", Text), ("options", Of(&FIELD_OPTIONS))],
);
static TARGET: Struct = Struct(
    "TargetSelector",
    &[
        ("select", Of(&SELECTOR)),
        ("reject", List(&Of(&SELECTOR))),
        ("fieldPaths", List(&Text)),
        ("options", Of(&FIELD_OPTIONS)),
    ],
);
static REPLACEMENT: Struct =
    Struct("ReplacementField", &[("source", Of(&SOURCE)), ("targets", List(&Of(&TARGET))), ("path", Text)]);
static PATCH: Struct = Struct("Patch", &[("path", Text), ("patch", Text), ("target", Of(&SELECTOR)), ("options", Bools)]);
static LABEL: Struct = Struct(
    "Label",
    &[("pairs", Texts), ("includeSelectors", Bool), ("includeTemplates", Bool), ("fields", List(&Of(&FIELD)))],
);
static OBJECT: Struct = Struct("Target", &[("apiVersion", Text), GROUP, VERSION, KIND, ("name", Text), ("namespace", Text)]);
static VARIABLE: Struct = Struct(
    "Var",
    &[("name", Text), ("objref", Of(&OBJECT)), ("fieldref", Of(&Struct("FieldSelector", &[("fieldPath", Text)])))],
);
static SORT: Struct = Struct(
    "SortOptions",
    &[
        ("order", Text),
        ("legacySortOptions", Of(&Struct("LegacySortOptions", &[("orderFirst", List(&Text)), ("orderLast", List(&Text))]))),
    ],
);
static METADATA: Struct =
    Struct("ObjectMeta", &[("name", Text), ("namespace", Text), ("labels", Texts), ("annotations", Texts)]);
static CONFIG_MAP: Struct = Struct(
    "ConfigMapArgs",
    &[
        ("namespace", Text),
        ("name", Text),
        ("behavior", Text),
        ("literals", List(&Text)),
        ("files", List(&Text)),
        ("envs", List(&Text)),
        ("env", Text),
        ("options", Of(&OPTIONS)),
    ],
);
static SECRET: Struct = Struct(
    "SecretArgs",
    &[
        ("namespace", Text),
        ("name", Text),
        ("behavior", Text),
        ("literals", List(&Text)),
        ("files", List(&Text)),
        ("envs", List(&Text)),
        ("env", Text),
        ("options", Of(&OPTIONS)),
        ("type", Text),
    ],
);
static KUSTOMIZATION: Struct = Struct(
    "Kustomization",
    &[
        ("apiVersion", Text),
        ("kind", Text),
        ("metadata", Of(&METADATA)),
        ("openapi", Texts),
        ("namePrefix", Text),
        ("nameSuffix", Text),
        ("namespace", Text),
        ("commonLabels", Texts),
        ("labels", List(&Of(&LABEL))),
        ("commonAnnotations", Texts),
        ("patchesStrategicMerge", List(&Text)),
        ("patchesJson6902", List(&Of(&PATCH))),
        ("patches", List(&Of(&PATCH))),
        ("images", List(&Of(&IMAGE))),
        ("imageTags", List(&Of(&IMAGE))),
        ("replacements", List(&Of(&REPLACEMENT))),
        ("replicas", List(&Of(&Struct("Replica", &[("name", Text), ("count", Int)])))),
        ("vars", List(&Of(&VARIABLE))),
        ("sortOptions", Of(&SORT)),
        ("resources", List(&Text)),
        ("components", List(&Text)),
        ("crds", List(&Text)),
        ("bases", List(&Text)),
        ("configMapGenerator", List(&Of(&CONFIG_MAP))),
        ("secretGenerator", List(&Of(&SECRET))),
        ("helmGlobals", Any),
        ("helmCharts", List(&Any)),
        ("helmChartInflationGenerator", List(&Any)),
        ("generatorOptions", Of(&OPTIONS)),
        ("configurations", List(&Text)),
        ("generators", List(&Text)),
        ("transformers", List(&Text)),
        ("validators", List(&Text)),
        ("buildMetadata", List(&Text)),
    ],
);

/// Where in a document a value is: the struct that it is a field of, and the path to it.
#[derive(Clone, Copy)]
struct Place<'a>(&'a str, &'a str);

fn refuse(value: &Value, place: Place<'_>, ty: &str) -> String {
    let found = match value {
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if ty.starts_with("int") => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::Null => "null".to_owned(),
    };
    match place {
        Place("", _) => format!("json: cannot unmarshal {found} into Go value of type {ty}"),
        Place(parent, path) => format!("json: cannot unmarshal {found} into Go struct field {parent}.{path} of type {ty}"),
    }
}

/// Checks a value and gives its fields the names that they have: Go's decoder passes over their case, and over nulls.
fn check(value: Value, form: &Form, place: Place<'_>) -> Result<Value, String> {
    match (form, value) {
        (Any, value) => Ok(value),
        (Text, Value::Null) => Ok("".into()),
        (_, Value::Null) => Ok(Value::Null),
        (Text, value @ Value::String(_)) | (Bool, value @ Value::Bool(_)) => Ok(value),
        (Int, value) if value.is_i64() => Ok(value),
        (Texts, Value::Object(map)) => each(map, &Text, place),
        (Bools, Value::Object(map)) => each(map, &Bool, place),
        (List(inner), Value::Array(items)) => {
            let items: Result<Vec<Value>, String> = items.into_iter().map(|item| check(item, inner, place)).collect();
            Ok(items?.into())
        }
        (Of(inner), Value::Object(map)) => fields(map, inner, place).map(Value::Object),
        (form, value) => Err(refuse(&value, place, &name(form, place))),
    }
}

fn name(form: &Form, place: Place<'_>) -> String {
    match form {
        Text if place.1 == "patchesStrategicMerge" => "types.PatchStrategicMerge".to_owned(),
        Text if place.1 == "sortOptions.order" => "types.SortOrder".to_owned(),
        Text => "string".to_owned(),
        Bool => "bool".to_owned(),
        Int if place.1 == "replicas.count" => "int64".to_owned(),
        Int => "int".to_owned(),
        Texts => "map[string]string".to_owned(),
        Bools => "map[string]bool".to_owned(),
        List(inner) => format!("[]{}", name(inner, place)),
        Of(inner) => format!("types.{}", inner.0),
        Any => "interface {}".to_owned(),
    }
}

fn each(map: Map<String, Value>, form: &Form, place: Place<'_>) -> Result<Value, String> {
    let checked = map.into_iter().map(|(key, value)| Ok((key, check(value, form, place)?)));
    checked.collect::<Result<Map<_, _>, String>>().map(Value::Object)
}

fn fields(map: Map<String, Value>, of: &Struct, place: Place<'_>) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for (key, value) in map {
        let exact = of.1.iter().find(|(name, _)| *name == key);
        let Some((name, form)) = exact.or_else(|| of.1.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key))) else {
            return Err(format!("json: unknown field {}", api::field::go_quote(&key)));
        };
        let path = if place.1.is_empty() { (*name).to_owned() } else { format!("{}.{name}", place.1) };
        let value = check(value, form, Place(of.0, &path))?;
        if !value.is_null() {
            out.insert((*name).to_owned(), value);
        }
    }
    Ok(out)
}

/// A replacement from a file of its own.
///
/// # Errors
/// Its form is another.
pub fn replacement(value: Value) -> Result<Replacement, String> {
    let checked = check(value, &Of(&REPLACEMENT), Place("", ""))?;
    serde_json::from_value(checked).map_err(|e| e.to_string())
}

const EDIT: &str = "Run 'kustomize edit fix' to update your Kustomization automatically.";

/// A kustomization and what is to be said of it on stderr.
///
/// # Errors
/// It is no YAML, has unknown fields or fields of another form, or is empty.
pub fn read(text: &str) -> Result<(Kustomization, Vec<String>), String> {
    let invalid = |why: String| format!("invalid Kustomization: {why}");
    let parsed = api::schema::yaml::parse(text.as_bytes()).map_err(invalid)?;
    let checked = match parsed.value {
        Value::Null => Map::new(),
        Value::Object(map) => fields(map, &KUSTOMIZATION, Place("", "")).map_err(invalid)?,
        other => return Err(invalid(refuse(&other, Place("", ""), "types.Kustomization"))),
    };
    let deprecated = [
        ("bases", "resources", ""),
        ("commonLabels", "labels", ""),
        ("imageTags", "images", ""),
        ("patchesJson6902", "patches", ""),
        ("patchesStrategicMerge", "patches", ""),
        ("vars", "replacements", "[EXPERIMENTAL] "),
    ];
    let told = deprecated.iter().filter(|(old, _, _)| checked.contains_key(*old));
    let warnings = told
        .map(|(old, new, note)| format!("# Warning: '{old}' is deprecated. Please use '{new}' instead. {note}{EDIT}"))
        .collect();
    let empty = checked.keys().all(|key| matches!(key.as_str(), "apiVersion" | "kind"));
    if empty {
        return Err("kustomization.yaml is empty".to_owned());
    }
    let read = serde_json::from_value(Value::Object(checked));
    let mut file: Kustomization = read.map_err(|e| invalid(e.to_string()))?;
    file.complete();
    Ok((file, warnings))
}

impl Kustomization {
    /// Puts what has older names where it belongs.
    fn complete(&mut self) {
        if self.kind.is_empty() {
            self.kind = "Kustomization".to_owned();
        }
        self.resources.append(&mut self.bases);
        self.images.append(&mut self.image_tags);
        for generator in self.config_map_generator.iter_mut().chain(&mut self.secret_generator) {
            if !generator.env.is_empty() {
                generator.envs.push(std::mem::take(&mut generator.env));
            }
        }
    }

    /// What is wrong with its kind and version.
    pub fn mistakes(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if !["Kustomization", "Component"].contains(&self.kind.as_str()) {
            wrong.push("kind should be Kustomization or Component".to_owned());
        }
        let version = if self.is_component() { "v1alpha1" } else { "v1beta1" };
        let version = format!("kustomize.config.k8s.io/{version}");
        if !self.api_version.is_empty() && self.api_version != version {
            wrong.push(format!("apiVersion for {} should be {version}", self.kind));
        }
        wrong
    }

    pub fn is_component(&self) -> bool {
        self.kind == "Component"
    }
}

impl Label {
    /// The fields that it names itself.
    ///
    /// # Errors
    /// None: they have been checked.
    pub fn specs(&self) -> Result<Vec<FieldSpec>, String> {
        super::tables::specs(&Value::Array(self.fields.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_as_go_tells_them() {
        let why = |text: &str| read(text).unwrap_err();
        for (text, want) in [
            ("foo: 1", "json: unknown field \"foo\""),
            (
                "images: [{newTag: 1}]",
                "json: cannot unmarshal number into Go struct field Image.images.newTag of type string",
            ),
            ("namePrefix: [a]", "json: cannot unmarshal array into Go struct field Kustomization.namePrefix of type string"),
        ] {
            assert_eq!(why(text), format!("invalid Kustomization: {want}"));
        }
        assert_eq!(why("kind: Kustomization"), "kustomization.yaml is empty");
    }

    #[test]
    fn older_names_are_read() {
        let (file, warnings) = read("bases: [a]\nResources: [b]\nsecretGenerator: [{env: x, envs: [z], type: t}]").unwrap();
        assert_eq!(file.resources, ["b", "a"]);
        assert_eq!(file.secret_generator[0].envs, ["z", "x"]);
        assert_eq!(file.secret_generator[0].r#type, "t");
        assert_eq!(warnings.len(), 1);
    }
}
