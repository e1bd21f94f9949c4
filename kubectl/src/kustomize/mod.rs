//! Kustomizations: `kubectl kustomize` and `-k`.
//!
//! A build reads a folder's `kustomization.yaml` ([`file`]), gathers the resources that it names ([`set`], [`build`]), those
//! of other kustomizations included, generates more ([`generate`]), and transforms them in upstream's order: [`patch`]es,
//! namespace, names, labels and so on ([`transform`]), [`replace`]ments. At the very end names that are referred to follow
//! ([`references`]), [`variables`] are put in, and the whole is sorted ([`order`]). Everything but [`source`] is a function of
//! values; what upstream notes in annotations while it builds is kept beside the value here ([`resource`]).
//!
//! The behaviour is that of kustomize [`VERSION`], byte for byte in what it prints. Left out: anything that would have to be
//! fetched, and plugins.

mod build;
mod fields;
mod file;
mod generate;
mod merge;
mod order;
mod patch;
mod references;
mod replace;
mod resource;
mod set;
mod source;
mod tables;
mod transform;
mod variables;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::failure::{Failure, plain};

/// The version of kustomize that is implemented.
pub const VERSION: &str = "v5.5.0";

/// What a build comes to.
#[derive(Debug)]
pub struct Built {
    /// The resources.
    resources: Vec<resource::Resource>,
    /// The same as a stream of YAML.
    pub text: String,
}

/// Builds what a directory's kustomization says; its warnings are printed. Unless `unrestricted`, no files outside of the
/// directory are read.
///
/// # Errors
/// What is wrong with it, in upstream's words.
pub fn build(directory: &str, unrestricted: bool) -> Result<Built, Failure> {
    let mut warnings = Vec::new();
    let folder = source::Folder::open(directory, !unrestricted);
    let built = folder.and_then(|folder| build::build(folder, &mut warnings));
    warnings.iter().for_each(|warning| eprintln!("{warning}"));
    let resources = built.map_err(plain)?;
    Ok(Built { text: resources.to_yaml(), resources: resources.0 })
}

impl Built {
    /// A file for each resource: its name, which tells namespaces if there is more than one of them, and what is in it.
    pub fn files(&self) -> Vec<(String, &Value)> {
        let ids: Vec<_> = self.resources.iter().map(resource::Resource::id).collect();
        let namespaced = ids.iter().filter(|id| !id.gvk.is_cluster_scoped());
        let several = namespaced.map(resource::Id::effective_namespace).collect::<BTreeSet<_>>().len() > 1;
        let name = |id: &resource::Id| {
            let gvk = &id.gvk;
            let words = [gvk.group.as_str(), &gvk.version, &gvk.kind, &id.name].map(str::to_lowercase);
            let own = words.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join("_");
            let told = several && !gvk.is_cluster_scoped();
            if told { format!("{}_{own}.yaml", id.effective_namespace()) } else { format!("{own}.yaml") }
        };
        ids.iter().map(name).zip(self.resources.iter().map(|resource| &resource.value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Each folder with a file `expected.txt` is a case: what upstream's kubectl prints for it.
    #[test]
    fn builds_print_what_upstreams_do() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kustomize");
        let mut built = Vec::new();
        for folder in std::fs::read_dir(&cases).unwrap().map(|entry| entry.unwrap().path()) {
            let Ok(want) = std::fs::read_to_string(folder.join("expected.txt")) else { continue };
            let got = build(folder.to_str().unwrap(), false).unwrap();
            assert!(got.text == want, "{}:\n{}", folder.display(), got.text);
            built.push(folder);
        }
        assert_eq!(built.len(), 5, "{built:?}");
    }

    #[test]
    fn files_are_named_by_what_they_hold() {
        let value = |namespace: &str| {
            serde_json::json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "A", "namespace": namespace},
            })
        };
        let files = |namespaces: &[&str]| -> Vec<String> {
            let resources = namespaces.iter().map(|namespace| resource::Resource::new(value(namespace))).collect();
            let built = Built { resources, text: String::new() };
            built.files().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(files(&["x"]), ["apps_v1_deployment_a.yaml"]);
        assert_eq!(files(&["x", ""]), ["x_apps_v1_deployment_a.yaml", "default_apps_v1_deployment_a.yaml"]);
    }
}
