//! Patches: strategic merges and JSON patches, and whom they mean.

use api::patch::{Patch as Parsed, PatchType};
use serde_json::{Value, json};

use super::{
    file::{Patch, Selector},
    merge,
    resource::{Resource, is_empty},
    set::{Resources, parse},
    source::Folder,
};

/// A patch that has been read.
#[derive(Debug)]
pub enum Ready {
    /// Strategic merges, each for what it is called like, or one for all that a selector means.
    Merge { patches: Vec<Resource>, target: Option<Selector>, names: bool, kinds: bool, told: String },
    /// A JSON patch for all that a selector means.
    Json { patch: Parsed, target: Option<Selector>, told: String, remembers: bool },
}

/// A patch as upstream shows it where something is wrong with it.
fn shown(patch: &Patch, text: &str) -> String {
    let target = patch.target.as_ref().map(|target| {
        json!({
            "group": target.group, "version": target.version, "kind": target.kind, "name": target.name,
            "namespace": target.namespace, "annotationSelector": target.annotation_selector,
            "labelSelector": target.label_selector,
        })
    });
    let mut value = json!({"path": patch.path, "target": target, "options": patch.options, text: patch.patch});
    let said = |_: &String, value: &mut Value| !is_empty(value) && *value != "";
    if let Some(target) = value["target"].as_object_mut() {
        target.retain(said);
    }
    // A target without a word is still one.
    let (empty, target) = (value["target"].as_object().is_some_and(serde_json::Map::is_empty), value["target"].take());
    if let Some(map) = value.as_object_mut() {
        map.insert("target".to_owned(), target);
        map.retain(|key, value| said(key, value) || (key == "target" && empty));
    }
    api::yaml::to_string(&value)
}

/// A JSON patch, which may be written in YAML.
fn json_patch(text: &str) -> Result<Parsed, String> {
    let json = match text {
        "" => return Err("empty json patch operations".to_owned()),
        text if text.starts_with('[') => text.to_owned(),
        text => api::schema::yaml::parse(text.as_bytes())?.value.to_string(),
    };
    Parsed::parse_ignoring(PatchType::Json, json.as_bytes()).map_err(|error| error.to_string())
}

/// Reads an entry of `patches`.
///
/// # Errors
/// It is no patch, or both kinds of one.
pub fn read(folder: &Folder, patch: &Patch) -> Result<Ready, String> {
    let wrong = |why: String| {
        format!("trouble configuring builtin PatchTransformer with config: `\n{}`: {why}", shown(patch, "patch"))
    };
    let (text, told) = match (patch.patch.trim(), patch.path.as_str()) {
        ("", "") => return Err(wrong(format!("must specify one of patch and path in\n{}", shown(patch, "patch")))),
        ("", path) => {
            let read = folder.text(path);
            let read = read.map_err(|why| wrong(format!("failed to get the patch file from path({path}): {why}")))?;
            (read, format!("[path: {}]", api::field::go_quote(path)))
        }
        (text, "") => (text.to_owned(), format!("[patch: {}]", api::field::go_quote(text))),
        _ => return Err(wrong(format!("patch and path can't be set at the same time\n{}", shown(patch, "patch")))),
    };
    let target = patch.target.clone();
    let allowed = |option: &str| patch.options.get(option).copied().unwrap_or_default();
    match (parse(&text), json_patch(&text)) {
        (Ok(_), Ok(_)) => Err(wrong(format!("illegally qualifies as both an SM and JSON patch: {told}"))),
        (Err(_), Err(_)) => Err(wrong(format!("unable to parse SM or JSON patch from {told}"))),
        (Ok(patches), Err(_)) => {
            let (names, kinds) = (allowed("allowNameChange"), allowed("allowKindChange"));
            Ok(Ready::Merge { patches, target, names, kinds, told })
        }
        (Err(_), Ok(patch)) => Ok(Ready::Json { patch, target, told, remembers: true }),
    }
}

/// Reads `patchesStrategicMerge`: texts or files.
///
/// # Errors
/// One of them is neither.
pub fn read_merges(folder: &Folder, sources: &[String]) -> Result<Option<Ready>, String> {
    let mut patches = Vec::new();
    for source in sources {
        match parse(source) {
            Ok(read) => patches.extend(read),
            Err(_) => patches.extend(folder.text(source).and_then(|text| parse(&text)).map_err(|why| {
                let shown = api::yaml::to_string(&json!({"paths": sources}));
                format!("trouble configuring builtin PatchStrategicMergeTransformer with config: `\n{shown}`: {why}")
            })?),
        }
    }
    let told = String::new();
    Ok((!sources.is_empty()).then_some(Ready::Merge { patches, target: None, names: false, kinds: false, told }))
}

/// Reads an entry of `patchesJson6902`.
///
/// # Errors
/// It names nobody, or is no JSON patch.
pub fn read_json(folder: &Folder, patch: &Patch) -> Result<Ready, String> {
    let wrong = |why: String| {
        let shown = shown(patch, "jsonOp");
        format!("trouble configuring builtin PatchJson6902Transformer with config: `\n{shown}`: {why}")
    };
    if patch.target.as_ref().is_none_or(|target| target.name.is_empty()) {
        return Err(wrong("must specify the target name".to_owned()));
    }
    let text = match (patch.patch.as_str(), patch.path.as_str()) {
        ("", "") => return Err(wrong("empty file path and empty jsonOp".to_owned())),
        ("", path) => folder.text(path).map_err(wrong)?,
        (text, "") => text.to_owned(),
        _ => return Err(wrong("must specify a file path or jsonOp, not both".to_owned())),
    };
    let parsed = json_patch(&text).map_err(|why| wrong(format!("decoding {text}: {why}")))?;
    Ok(Ready::Json { patch: parsed, target: patch.target.clone(), told: String::new(), remembers: false })
}

/// Merges a patch into a resource. It keeps its namespace, and its name and kind unless they may change.
fn merge_into(resource: &mut Resource, patch: &Resource, names: bool, kinds: bool) -> Result<(), String> {
    let (name, namespace, kind) = (resource.name(), resource.namespace(), resource.kind());
    if names || kinds {
        resource.remember();
    }
    let mut patch = patch.value.clone();
    patch["apiVersion"] = resource.value["apiVersion"].clone();
    match merge::apply(resource.value.take(), patch)?.filter(|value| !is_empty(value)) {
        Some(value) => resource.value = value,
        None => return Ok(()),
    }
    if !kinds {
        resource.value["kind"] = kind.into();
    }
    if !names {
        resource.set_name(name);
    }
    resource.set_namespace(namespace);
    Ok(())
}

impl Ready {
    /// Patches resources.
    ///
    /// # Errors
    /// What a patch names is not there, or it does not fit.
    pub fn apply(&self, set: &mut Resources) -> Result<(), String> {
        match self {
            Self::Merge { patches, target: None, names, kinds, told } => {
                for patch in patches {
                    let id = patch.id();
                    let at = set.find(&id).map_err(|why| match told.as_str() {
                        "" => why,
                        _ => format!("no resource matches strategic merge patch \"{id}\": {why}"),
                    })?;
                    merge_into(&mut set.0[at], patch, *names, *kinds)?;
                    if told.is_empty() {
                        set.drop_empty();
                    }
                }
            }
            Self::Merge { patches, target: Some(target), names, kinds, told } => {
                let [patch] = patches.as_slice() else {
                    return Err(format!(
                        "Multiple Strategic-Merge Patches in one `patches` entry is not allowed to set `patches.target` field: {told}"
                    ));
                };
                for at in set.select(target)? {
                    merge_into(&mut set.0[at], patch, *names, *kinds)?;
                }
                let mut checked = Resources::default();
                checked.append_all(std::mem::take(&mut set.0).into_iter().filter(|resource| !resource.is_empty()))?;
                *set = checked;
            }
            Self::Json { target: None, told, .. } => {
                return Err(format!("must specify a target for JSON patch {told}"));
            }
            Self::Json { patch, target: Some(target), remembers, .. } => {
                for at in set.select(target)? {
                    let resource = &mut set.0[at];
                    if *remembers {
                        resource.remember();
                    }
                    resource.value = patch.apply(&resource.value, None).map_err(|error| error.to_string())?;
                }
            }
        }
        set.drop_empty();
        Ok(())
    }
}
