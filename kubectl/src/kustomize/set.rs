//! The resources of a build: read, added, merged and chosen from.

use api::{selector::Selector as Labels, yaml};
use serde_json::Value;

use super::{
    file::Selector,
    resource::{Behavior, Id, ORIGIN, Resource, is_empty, scalar, strings},
};

/// Resources in order; no two of them are called the same.
#[derive(Clone, Debug, Default)]
pub struct Resources(pub Vec<Resource>);

/// What marks errors of files that are no YAML.
pub const MALFORMED: &str = "MalformedYAMLError";

/// Splits a stream at its `---` lines.
fn documents(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut at) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        at += line.len();
        if line.strip_prefix("---").is_some_and(|rest| rest.trim().is_empty() || rest.starts_with([' ', '\t'])) {
            out.push(&text[start..at - line.len()]);
            start = at - line.len() + 3;
        }
    }
    out.push(&text[start..]);
    out
}

/// The first empty item of a list in a value.
fn empty_item(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) => map.iter().find_map(|(key, inner)| Some(format!("{key}/{}", empty_item(inner)?))),
        Value::Array(items) => items.iter().enumerate().find_map(|(at, item)| match item {
            Value::Null => Some(String::new()),
            item => Some(format!("[{at}]/{}", empty_item(item)?)),
        }),
        _ => None,
    }
}

/// That a value has what a resource must have.
fn complete(value: &Value) -> Result<(), String> {
    let metadata = &value["metadata"];
    let known = ["apiVersion", "kind"].iter().any(|field| !is_empty(&value[field]));
    let named = ["name", "namespace", "labels", "annotations"].iter().any(|field| !is_empty(&metadata[field]));
    if !known && !named {
        return Err("missing Resource metadata".to_owned());
    }
    let told = || {
        let map = |value: &Value| -> String {
            let pairs: Vec<String> = strings(value).iter().map(|(k, v)| format!("{k}:{}", scalar(v))).collect();
            format!("map[{}]", pairs.join(" "))
        };
        let [api_version, kind] = ["apiVersion", "kind"].map(|field| scalar(&value[field]));
        let [name, namespace] = ["name", "namespace"].map(|field| scalar(&metadata[field]));
        let [labels, annotations] = ["labels", "annotations"].map(|field| map(&metadata[field]));
        format!("{{{{{api_version} {kind}}} {{{{{name} {namespace}}} {labels} {annotations}}}}}")
    };
    let kind = scalar(&value["kind"]);
    if kind.is_empty() {
        return Err(format!("missing kind in object {}", told()));
    }
    if scalar(&metadata["name"]).is_empty() && !kind.ends_with("List") {
        return Err(format!("missing metadata.name in object {}", told()));
    }
    if let Some(path) = empty_item(value) {
        return Err(format!("empty item at {path} in object {}", yaml::to_string(value)));
    }
    Ok(())
}

/// The resources of a text, those of lists one by one.
///
/// # Errors
/// It is no YAML (then with [`MALFORMED`] in it), or something in it is no resource.
pub fn parse(text: &str) -> Result<Vec<Resource>, String> {
    let mut values = Vec::new();
    for document in documents(text) {
        let read = api::schema::yaml::documents_1_2(document).map_err(|why| format!("{MALFORMED}: {why}"))?;
        values.extend(read.into_iter().filter(|value| !is_empty(value)));
    }
    values.iter().try_for_each(complete)?;
    let (mut out, mut lists) = (Vec::new(), Vec::new());
    for value in values {
        split_list(value, &mut out, &mut lists)?;
    }
    while !lists.is_empty() {
        for value in std::mem::take(&mut lists) {
            complete(&value)?;
            split_list(value, &mut out, &mut lists)?;
        }
    }
    Ok(out.into_iter().map(Resource::new).collect())
}

/// Sorts out lists, whose items come after everything else.
fn split_list(mut value: Value, out: &mut Vec<Value>, lists: &mut Vec<Value>) -> Result<(), String> {
    let kind = scalar(&value["kind"]);
    let items = value.as_object_mut().filter(|map| kind.ends_with("List") && map.contains_key("items"));
    match items.map(|map| map["items"].take()) {
        None => out.push(value),
        Some(Value::Null) => {}
        Some(Value::Array(items)) => lists.extend(items.into_iter().filter(|item| !is_empty(item))),
        Some(_) => return Err(format!("expected array in {kind}/items")),
    }
    Ok(())
}

/// An id as Go's `%#v` writes it.
fn go_syntax(id: &Id) -> String {
    let q = api::field::go_quote;
    format!(
        "resid.ResId{{Gvk:resid.Gvk{{Group:{}, Version:{}, Kind:{}, isClusterScoped:{}}}, Name:{}, Namespace:{}}}",
        q(&id.gvk.group),
        q(&id.gvk.version),
        q(&id.gvk.kind),
        id.gvk.is_cluster_scoped(),
        q(&id.name),
        q(&id.namespace)
    )
}

impl Resources {
    /// Adds a resource.
    ///
    /// # Errors
    /// There is one of that name.
    pub fn append(&mut self, resource: Resource) -> Result<(), String> {
        let id = resource.id();
        if self.0.iter().any(|there| there.id().equals(&id)) {
            return Err(format!("may not add resource with an already registered id: {id}"));
        }
        self.0.push(resource);
        Ok(())
    }

    /// Adds resources.
    ///
    /// # Errors
    /// There are some of these names.
    pub fn append_all(&mut self, resources: impl IntoIterator<Item = Resource>) -> Result<(), String> {
        resources.into_iter().try_for_each(|resource| self.append(resource))
    }

    /// Adds a generated resource, or lets it replace or merge with one that is there.
    ///
    /// # Errors
    /// What its behavior says cannot be done.
    pub fn absorb(&mut self, mut resource: Resource) -> Result<(), String> {
        let id = resource.id();
        let mut matches = self.matching(&id);
        match (matches.pop(), matches.is_empty(), resource.behavior) {
            (None, _, Behavior::Create) => self.append(resource),
            (None, _, _) => Err(format!("id {} does not exist; cannot merge or replace", go_syntax(&id))),
            (Some(_), true, Behavior::Create) => {
                Err(format!("id {} exists; behavior must be merge or replace", go_syntax(&id)))
            }
            (Some(at), true, behavior) => {
                let old = &self.0[at];
                resource.take_place_of(old);
                if behavior == Behavior::Merge {
                    resource.merge_data_of(old);
                    let origin = old.value["metadata"]["annotations"][ORIGIN].as_str();
                    origin.into_iter().for_each(|origin| resource.note(ORIGIN, origin.to_owned()));
                }
                self.0[at] = resource;
                Ok(())
            }
            (Some(_), false, _) => Err(format!("found multiple objects that could accept merge of {id}")),
        }
    }

    /// The places of resources that are or were called so.
    pub fn matching(&self, id: &Id) -> Vec<usize> {
        let fits = |resource: &Resource| resource.ids().iter().any(|other| id.equals(other));
        (0..self.0.len()).filter(|at| fits(&self.0[*at])).collect()
    }

    /// The place of the one resource that is or was called so.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find(&self, id: &Id) -> Result<usize, String> {
        let found = self.matching(id);
        let what = match found.as_slice() {
            [at] => return Ok(*at),
            [] => "no",
            _ => "multiple",
        };
        Err(format!("{what} matches for Id {id}; failed to find unique target for patch {id}"))
    }

    /// The places of what a selector means. Its parts are regular expressions for all of a word.
    ///
    /// # Errors
    /// It is no selector.
    pub fn select(&self, selector: &Selector) -> Result<Vec<usize>, String> {
        let chooser = Chooser::new(selector)?;
        Ok((0..self.0.len()).filter(|at| chooser.fits(&self.0[*at])).collect())
    }

    /// Leaves out what nothing is left of.
    pub fn drop_empty(&mut self) {
        self.0.retain(|resource| !resource.is_empty());
    }

    /// All as a stream of YAML.
    pub fn to_yaml(&self) -> String {
        let documents: Vec<String> = self.0.iter().map(|resource| yaml::to_string(&resource.value)).collect();
        documents.join("---\n")
    }
}

/// A selector of labels or annotations.
///
/// # Errors
/// It is none.
pub fn selector_of(text: &str) -> Result<Option<Labels>, String> {
    if text.is_empty() { Ok(None) } else { Labels::parse(text).map(Some).map_err(|error| error.0) }
}

/// Whether labels or annotations fit a selector.
pub fn fits(selector: Option<&Labels>, resource: &Resource, field: &str) -> bool {
    let there = strings(&resource.value["metadata"][field]);
    selector.is_none_or(|selector| selector.matches_with(|key| there.get(key).and_then(Value::as_str)))
}

/// A selector, made ready.
struct Chooser {
    /// Group, version, kind, name, namespace.
    words: [Option<regex::Regex>; 5],
    labels: Option<Labels>,
    annotations: Option<Labels>,
}

impl Chooser {
    fn new(selector: &Selector) -> Result<Self, String> {
        let expression = |pattern: &String| match pattern.as_str() {
            "" => Ok(None),
            pattern => regex::Regex::new(&format!("^(?:{pattern})$"))
                .map(Some)
                .map_err(|_| format!("error parsing regexp: `^(?:{pattern})$`")),
        };
        let [group, version, kind] = [&selector.group, &selector.version, &selector.kind].map(expression);
        let [name, namespace] = [&selector.name, &selector.namespace].map(expression);
        Ok(Self {
            words: [group?, version?, kind?, name?, namespace?],
            labels: selector_of(&selector.label_selector)?,
            annotations: selector_of(&selector.annotation_selector)?,
        })
    }

    fn fits(&self, resource: &Resource) -> bool {
        let [group, version, kind, name, namespace] =
            self.words.each_ref().map(|word| move |text: &str| word.as_ref().is_none_or(|word| word.is_match(text)));
        let (first, now) = (resource.original_id(), resource.id());
        (namespace(first.effective_namespace()) || namespace(now.effective_namespace()))
            && (name(&first.name) || name(&now.name))
            && (group(&now.gvk.group) && version(&now.gvk.version) && kind(&now.gvk.kind))
            && fits(self.labels.as_ref(), resource, "labels")
            && fits(self.annotations.as_ref(), resource, "annotations")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        parse(text).map(|resources| resources.iter().map(Resource::name).collect())
    }

    #[test]
    fn streams_and_lists_hold_resources() {
        let text = "kind: A\nmetadata: {name: a}\n---\n# nothing\n--- \nkind: List\nitems: [{kind: B, metadata: {name: b}}]\n---\nkind: C\nmetadata: {name: c}";
        assert_eq!(names(text).unwrap(), ["a", "c", "b"]);
    }

    #[test]
    fn what_is_no_resource_is_refused() {
        assert_eq!(names("a: b").unwrap_err(), "missing Resource metadata");
        assert_eq!(
            names("kind: A\napiVersion: v1").unwrap_err(),
            "missing metadata.name in object {{v1 A} {{ } map[] map[]}}"
        );
        assert!(names("a: [").unwrap_err().starts_with(MALFORMED));
    }

    #[test]
    fn selectors_are_whole_regular_expressions() {
        let set =
            Resources(parse("kind: A\nmetadata: {name: ab, labels: {x: y}}\n---\nkind: B\nmetadata: {name: b}").unwrap());
        let select = |selector: Selector| set.select(&selector).unwrap();
        let named = |name: &str| Selector { name: name.to_owned(), ..Selector::default() };
        assert_eq!(select(named("b")), [1]);
        assert_eq!(select(named("a?b")), [0, 1]);
        assert_eq!(select(Selector { label_selector: "x=y".to_owned(), ..Selector::default() }), [0]);
        assert!(set.select(&named("(")).is_err());
    }
}
