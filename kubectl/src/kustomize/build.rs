//! A build: kustomizations are read, those that they name first, their resources gathered, and transformed on the way up.

use serde_json::{Value, json};

use super::{
    fields::{self, FieldSpec},
    file::{Kustomization, Replacement, Variable, read, replacement},
    generate, order, patch, references, replace,
    resource::ORIGIN,
    set::{MALFORMED, Resources, parse},
    source::Folder,
    tables::Tables,
    transform::{self, End},
    variables,
};

/// What has been gathered.
#[derive(Debug, Default)]
struct Gathered {
    set: Resources,
    tables: Tables,
    variables: Vec<Variable>,
}

/// A kustomization, and where it is.
struct Target<'a> {
    folder: Folder,
    file: Kustomization,
    /// Its file's name.
    name: &'static str,
    /// Its path from the first one's folder, for notes on where things came from.
    path: String,
    /// Whether notes are made.
    notes: bool,
    warnings: &'a mut Vec<String>,
}

/// Builds what a folder's kustomization says. Warnings are added while it is read, also where that fails.
///
/// # Errors
/// What is wrong with it, in upstream's words.
pub fn build(folder: Folder, warnings: &mut Vec<String>) -> Result<Resources, String> {
    let mut target = Target::load(folder, String::new(), None, warnings)?;
    let mut gathered = target.gather(Gathered::default())?;
    let set = &mut gathered.set;
    transform::hashes(set);
    references::update(set, &gathered.tables.references)?;
    let unused = variables::resolve(set, &gathered.variables, &gathered.tables.variables)?;
    if !unused.is_empty() {
        target.warnings.push(format!("well-defined vars that were never replaced: {}", unused.join(",")));
    }
    set.0.retain(|resource| !transform::is_local(resource));
    order::sort(&mut set.0, target.file.sort_options.as_ref())?;
    let says = |option: &str| target.file.build_metadata.iter().any(|there| there == option);
    if says("managedByLabel") {
        let label = [("app.kubernetes.io/managed-by".to_owned(), "kustomize-(devel)".to_owned())];
        let spec = FieldSpec { path: "metadata/labels".to_owned(), create: true, ..FieldSpec::default() };
        transform::entries(set, &label.into(), &[spec])?;
    }
    transform::finish(set, says("originAnnotations"), says("transformerAnnotations"));
    Ok(gathered.set)
}

/// Paths joined, without detours.
fn join(path: &str, more: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').chain(more.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl<'a> Target<'a> {
    /// Reads a folder's kustomization. `notes` are what the first one says of them; none for the first one itself.
    fn load(folder: Folder, path: String, notes: Option<bool>, warnings: &'a mut Vec<String>) -> Result<Self, String> {
        let (name, text) = folder.kustomization()?;
        let (file, told) = read(&text)?;
        warnings.extend(told);
        let mistakes = file.mistakes();
        if !mistakes.is_empty() {
            let root = folder.root.display();
            return Err(format!("Failed to read kustomization file under {root}:\n{}", mistakes.join("\n")));
        }
        let notes = notes.unwrap_or(!file.build_metadata.is_empty());
        Ok(Self { folder, file, name, path, notes, warnings })
    }

    /// Gathers what it names and transforms it; `gathered` is what a component works on.
    fn gather(&mut self, mut gathered: Gathered) -> Result<Gathered, String> {
        self.unsupported()?;
        let resources = std::mem::take(&mut self.file.resources);
        self.resources(&mut gathered, &resources).map_err(|why| format!("accumulating resources: {why}"))?;
        let mut tables = Tables::upstream();
        for path in &self.file.configurations {
            tables.merge(configuration(&self.folder, path)?)?;
        }
        gathered.tables.merge(tables)?;
        self.generate(&mut gathered.set)?;
        let components = std::mem::take(&mut self.file.components);
        for path in &components {
            let component = self.component(gathered, path);
            gathered = component.map_err(|why| format!("accumulating components: {why}"))?;
        }
        self.transform(&mut gathered)?;
        let variables = &self.file.vars;
        variables::add(&mut gathered.variables, &mut gathered.set, variables)
            .map_err(|why| format!("merging vars: {why}"))?;
        Ok(gathered)
    }

    /// Refuses what upstream's kubectl refuses as well, and what is not done here.
    fn unsupported(&self) -> Result<(), String> {
        let charts = self.file.helm_charts.iter().chain(&self.file.helm_chart_inflation_generator);
        if let Some(chart) = charts.into_iter().next() {
            return Err(format!(
                "trouble configuring builtin HelmChartInflationGenerator with config: `\n{}`: must specify --enable-helm",
                api::yaml::to_string(chart)
            ));
        }
        let lists = [
            ("generators", &self.file.generators),
            ("transformers", &self.file.transformers),
            ("validators", &self.file.validators),
            ("crds", &self.file.crds),
        ];
        let listed = lists.iter().find(|(_, list)| !list.is_empty()).map(|(name, _)| *name);
        match listed.or((!self.file.openapi.is_empty()).then_some("openapi")) {
            Some(name) => {
                Err(format!("`{name}` in {} are not supported by this kubectl", self.folder.root.join(self.name).display()))
            }
            None => Ok(()),
        }
    }

    fn resources(&mut self, gathered: &mut Gathered, paths: &[String]) -> Result<(), String> {
        for path in paths {
            let Err(why) = self.file(&mut gathered.set, path) else { continue };
            let folder = match self.folder.enter(path) {
                Ok(folder) => folder,
                Err(_) if why.contains(MALFORMED) => return Err(why),
                Err(other) => return Err(format!("accumulation err='{why}': {other}")),
            };
            self.directory(gathered, folder, path).map_err(|other| format!("accumulation err='{why}': {other}"))?;
        }
        Ok(())
    }

    fn file(&self, set: &mut Resources, path: &str) -> Result<(), String> {
        let read = self.folder.text(path).and_then(|text| {
            parse(&text).map_err(|why| if why.contains(MALFORMED) { format!("{why} in File: {path}") } else { why })
        });
        // What is wrong within a file is told apart from what others have already.
        let mut own = Resources::default();
        let read = read.and_then(|resources| own.append_all(resources));
        read.map_err(|why| format!("accumulating resources from '{path}': {why}"))?;
        let mut resources = own.0;
        if self.notes {
            let origin = format!("path: {}\n", join(&self.path, path));
            resources.iter_mut().for_each(|resource| resource.note(ORIGIN, origin.clone()));
        }
        set.append_all(resources).map_err(|why| format!("merging resources from '{path}': {why}"))
    }

    /// The kustomization of a folder below.
    fn below(&mut self, folder: Folder, path: &str) -> Result<Target<'_>, String> {
        let root = folder.root.display().to_string();
        let target = Target::load(folder, join(&self.path, path), Some(self.notes), self.warnings);
        target.map_err(|why| format!("couldn't make target for path '{root}': {why}"))
    }

    fn directory(&mut self, gathered: &mut Gathered, folder: Folder, path: &str) -> Result<(), String> {
        let root = folder.root.display().to_string();
        let mut target = self.below(folder, path)?;
        if target.file.is_component() {
            return Err(format!("expected kind != 'Component' for path '{root}'"));
        }
        let below = target.gather(Gathered::default());
        let below = below.map_err(|why| format!("recursed accumulation of path '{root}': {why}"))?;
        let merging = |why| format!("recursed merging from path '{root}': {why}");
        gathered.set.append_all(below.set.0).map_err(merging)?;
        gathered.tables.merge(below.tables).map_err(merging)?;
        variables::merge(&mut gathered.variables, &below.variables).map_err(merging)
    }

    fn component(&mut self, gathered: Gathered, path: &str) -> Result<Gathered, String> {
        let quote = api::field::go_quote;
        let folder = self.folder.enter(path).map_err(|why| format!("loader.New {}", quote(&why)))?;
        let root = folder.root.display().to_string();
        let work = |own: &mut Self| {
            let mut target = own.below(folder, path)?;
            if !target.file.is_component() {
                let kind = &target.file.kind;
                return Err(format!("expected kind 'Component' for path '{root}' but got '{kind}'"));
            }
            target.gather(gathered).map_err(|why| format!("recursed accumulation of path '{root}': {why}"))
        };
        work(self).map_err(|why: String| format!("accumulateDirectory: {}", quote(&why)))
    }

    /// A note on something built in, and where it is said.
    fn note(&self, kind: &str) -> String {
        let file = join(&self.path, self.name);
        format!("configuredIn: {file}\nconfiguredBy:\n  apiVersion: builtin\n  kind: {kind}\n")
    }

    fn generate(&self, set: &mut Resources) -> Result<(), String> {
        let kinds = [("ConfigMap", &self.file.config_map_generator), ("Secret", &self.file.secret_generator)];
        for (kind, generators) in kinds {
            for generator in generators {
                let mut made = generate::make(&self.folder, kind, generator, self.file.generator_options.as_ref())?;
                if self.notes {
                    made.note(ORIGIN, self.note(&format!("{kind}Generator")));
                }
                let merging = |why| format!("merging from generator {kind} {}: {why}", generator.name);
                set.absorb(made).map_err(merging)?;
            }
        }
        Ok(())
    }

    fn transform(&self, gathered: &mut Gathered) -> Result<(), String> {
        let (file, tables, set) = (&self.file, &gathered.tables, &mut gathered.set);
        // What is wrong with patches and replacements is told before anything is done.
        let merges = patch::read_merges(&self.folder, &file.patches_strategic_merge)?;
        let patches = read_all(&file.patches, |entry| patch::read(&self.folder, entry))?;
        let labels = read_all(&file.labels, |label| label_specs(label, tables))?;
        let json_patches = read_all(&file.patches_json6902, |entry| patch::read_json(&self.folder, entry))?;
        let replacements = self.replacements()?;

        if let Some(patch) = &merges {
            self.done("PatchStrategicMergeTransformer", set, |set| patch.apply(set))?;
        }
        for patch in &patches {
            self.done("PatchTransformer", set, |set| patch.apply(set))?;
        }
        if !file.namespace.is_empty() {
            let specs = &tables.namespace;
            self.done("NamespaceTransformer", set, |set| transform::namespace(set, &file.namespace, specs))?;
        }
        if !file.name_prefix.is_empty() {
            let affix = |set: &mut _| transform::affix(set, End::Prefix, &file.name_prefix, &tables.prefix);
            self.done("PrefixTransformer", set, affix)?;
        }
        if !file.name_suffix.is_empty() {
            let affix = |set: &mut _| transform::affix(set, End::Suffix, &file.name_suffix, &tables.suffix);
            self.done("SuffixTransformer", set, affix)?;
        }
        for (label, specs) in file.labels.iter().zip(&labels) {
            self.done("LabelTransformer", set, |set| transform::entries(set, &label.pairs, specs))?;
        }
        if !file.labels.is_empty() || !file.common_labels.is_empty() {
            let specs = &tables.common_labels;
            self.done("LabelTransformer", set, |set| transform::entries(set, &file.common_labels, specs))?;
        }
        if !file.common_annotations.is_empty() {
            let specs = &tables.annotations;
            self.done("AnnotationsTransformer", set, |set| transform::entries(set, &file.common_annotations, specs))?;
        }
        for patch in &json_patches {
            self.done("PatchJson6902Transformer", set, |set| patch.apply(set))?;
        }
        for replica in &file.replicas {
            self.done("ReplicaCountTransformer", set, |set| transform::replicas(set, replica, &tables.replicas))?;
        }
        for image in &file.images {
            self.done("ImageTagTransformer", set, |set| transform::images(set, image, &tables.images))?;
        }
        if !replacements.is_empty() {
            self.done("ReplacementTransformer", set, |set| replace::apply(set, &replacements))?;
        }
        Ok(())
    }

    /// Does something to the resources, and makes a note of it.
    fn done(
        &self,
        what: &str,
        set: &mut Resources,
        work: impl FnOnce(&mut Resources) -> Result<(), String>,
    ) -> Result<(), String> {
        work(set)?;
        if self.notes {
            let note = self.note(what);
            set.0.iter_mut().for_each(|resource| resource.note_change(&note));
        }
        Ok(())
    }

    fn replacements(&self) -> Result<Vec<Replacement>, String> {
        let mut all = Vec::new();
        for entry in &self.file.replacements {
            let Some(path) = entry["path"].as_str().filter(|path| !path.is_empty()) else {
                all.push(replacement(entry.clone())?);
                continue;
            };
            let wrong = |why: String| {
                let shown = api::yaml::to_string(&json!({"replacements": self.file.replacements}));
                format!("trouble configuring builtin ReplacementTransformer with config: `\n{shown}`: {why}")
            };
            if !entry["source"].is_null() || !entry["targets"].is_null() {
                return Err(wrong("cannot specify both path and inline replacement".to_owned()));
            }
            let text = self.folder.text(path).map_err(wrong)?;
            match api::schema::yaml::parse(text.as_bytes()).map_err(wrong)?.value {
                Value::Array(items) => {
                    for item in items {
                        all.push(replacement(item).map_err(wrong)?);
                    }
                }
                value @ Value::Object(_) => all.push(replacement(value).map_err(wrong)?),
                _ => {
                    return Err(wrong("unsupported replacement type encountered within replacement path".to_owned()));
                }
            }
        }
        Ok(all)
    }
}

fn read_all<T, R>(entries: &[T], read: impl Fn(&T) -> Result<R, String>) -> Result<Vec<R>, String> {
    entries.iter().map(read).collect()
}

/// The fields that a label is set in.
fn label_specs(label: &super::file::Label, tables: &Tables) -> Result<Vec<FieldSpec>, String> {
    let mut specs = label.specs()?;
    let failed = |why| format!("failed to merge labels: {why}");
    fields::merge(&mut specs, &tables.labels).map_err(failed)?;
    if label.include_selectors {
        fields::merge(&mut specs, &tables.common_labels).map_err(failed)?;
        return Ok(specs);
    }
    if label.include_templates {
        fields::merge(&mut specs, &tables.template_labels).map_err(failed)?;
    }
    let own = FieldSpec { path: "metadata/labels".to_owned(), create: true, ..FieldSpec::default() };
    fields::merge(&mut specs, &[own]).map_err(failed)?;
    Ok(specs)
}

fn configuration(folder: &Folder, path: &str) -> Result<Tables, String> {
    let text = folder.text(path)?;
    Tables::read(&api::schema::yaml::parse(text.as_bytes())?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_without_detours() {
        assert_eq!(join("", "a/./b"), "a/b");
        assert_eq!(join("overlay", "../base/x"), "base/x");
        assert_eq!(join("", "../base"), "../base");
    }
}
