//! `kubectl api-resources`.

use std::sync::Arc;

use crate::{
    context::Context,
    discovery::{Catalog, Mapping},
    failure::{Failure, plain, usage},
    output::table::TabWriter,
};

/// What `api-resources` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Nothing.
    #[arg(hide = true)]
    pub args: Vec<String>,
    /// wide or name.
    #[arg(long, short, default_value = "")]
    pub output: String,
    /// No headers.
    #[arg(long)]
    pub no_headers: bool,
    /// Only resources of this group.
    #[arg(long)]
    pub api_group: Option<String>,
    /// Only resources that live in namespaces, or with =false only others.
    #[arg(long)]
    pub namespaced: Option<bool>,
    /// Only resources with all of these verbs.
    #[arg(long, value_delimiter = ',')]
    pub verbs: Vec<String>,
    /// Only resources in all of these categories.
    #[arg(long, value_delimiter = ',')]
    pub categories: Vec<String>,
    /// name or kind.
    #[arg(long, default_value = "")]
    pub sort_by: String,
    /// What is known already is good enough.
    #[arg(long)]
    pub cached: bool,
}

/// Prints the server's resources.
///
/// # Errors
/// If the server cannot be asked.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    if !args.args.is_empty() {
        return Err(usage("api-resources", format!("unexpected arguments: [{}]", args.args.join(" "))));
    }
    let discovery = cx.discovery()?;
    if !["", "wide", "name"].contains(&args.output.as_str()) {
        return Err(plain(format!("--output {} is not available", args.output)));
    }
    if !["", "name", "kind"].contains(&args.sort_by.as_str()) {
        return Err(plain("--sort-by accepts only name or kind"));
    }
    let catalog = if args.cached { discovery.catalog().await } else { discovery.refresh().await };
    match catalog {
        Ok(catalog) => print!("{}", table(&args, &catalog)),
        Err(failure) => {
            print!("{}", table(&args, &Catalog::default()));
            return Err(failure);
        }
    }
    Ok(())
}

/// Each resource in the version that its group prefers, or the first that has it.
fn preferred(catalog: &Catalog) -> Vec<&Arc<Mapping>> {
    let mut found: Vec<&Arc<Mapping>> = Vec::new();
    for mapping in &catalog.mappings {
        match found.iter_mut().find(|f| f.group == mapping.group && f.resource == mapping.resource) {
            Some(other) if mapping.preferred && !other.preferred => *other = mapping,
            Some(_) => {}
            None => found.push(mapping),
        }
    }
    found
}

/// The resources that know a verb, as `--output name` prints them.
pub fn names(catalog: &Catalog, verb: &str) -> Vec<String> {
    let mut found = preferred(catalog);
    found.retain(|mapping| mapping.can(verb));
    found.sort_by(|a, b| a.group.cmp(&b.group).then_with(|| a.resource.cmp(&b.resource)));
    found.iter().map(|mapping| mapping.group_resource()).collect()
}

fn table(args: &Args, catalog: &Catalog) -> String {
    let all = |wanted: &[String], has: &[String]| wanted.iter().all(|w| has.contains(w));
    let mut found = preferred(catalog);
    found.retain(|m| {
        !m.verbs.is_empty()
            && args.api_group.as_ref().is_none_or(|group| *group == m.group)
            && args.namespaced.is_none_or(|namespaced| namespaced == m.namespaced)
            && all(&args.verbs, &m.verbs)
            && all(&args.categories, &m.categories)
    });
    let key = |m: &Mapping| match args.sort_by.as_str() {
        "name" => m.resource.clone(),
        "kind" => m.kind.clone(),
        _ => m.group.clone(),
    };
    found.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| a.resource.cmp(&b.resource)));
    if args.output == "name" {
        return found.iter().map(|m| format!("{}\n", m.group_resource())).collect();
    }
    let wide = args.output == "wide";
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !args.no_headers {
        let headers = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "VERBS", "CATEGORIES"];
        rows.push(headers[..if wide { 7 } else { 5 }].iter().map(|h| (*h).to_owned()).collect());
    }
    for m in found {
        let mut row =
            vec![m.resource.clone(), m.short_names.join(","), m.api_version(), m.namespaced.to_string(), m.kind.clone()];
        if wide {
            row.extend([m.verbs.join(","), m.categories.join(",")]);
        }
        rows.push(row);
    }
    TabWriter::default().lines(&rows)
}
