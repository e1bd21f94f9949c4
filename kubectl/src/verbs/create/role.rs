//! `kubectl create role` and `kubectl create clusterrole`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
    write::unresolved,
};

const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCE_VERBS: &[&str] = &[
    "*",
    "get",
    "delete",
    "list",
    "create",
    "update",
    "patch",
    "watch",
    "proxy",
    "deletecollection",
    "use",
    "bind",
    "escalate",
    "impersonate",
];
const URL_VERBS: &[&str] = &["*", "get", "post", "put", "delete", "patch", "head", "options"];

/// Verbs that go with certain resources only: (resource, group).
fn special(verb: &str) -> Option<&'static [(&'static str, &'static str)]> {
    Some(match verb {
        "use" => &[("podsecuritypolicies", "policy"), ("podsecuritypolicies", "extensions")],
        "bind" | "escalate" => &[("roles", GROUP), ("clusterroles", GROUP)],
        "impersonate" => &[("users", ""), ("serviceaccounts", ""), ("groups", ""), ("userextras", "authentication.k8s.io")],
        _ => return None,
    })
}

/// What a rule allows.
#[derive(clap::Args, Debug, Default)]
pub struct Rule {
    /// Verb that applies to the resources
    #[arg(long = "verb", value_delimiter = ',')]
    verbs: Vec<String>,
    /// Resource that the rule applies to: RESOURCE[.GROUP][/SUBRESOURCE]
    #[arg(long = "resource", value_delimiter = ',')]
    resources: Vec<String>,
    /// Name of an object that the rule applies to; may be given several times
    #[arg(long = "resource-name")]
    resource_names: Vec<String>,
}

/// Arguments of `create role`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    #[command(flatten)]
    rule: Rule,
    /// Name of the role
    names: Vec<String>,
}

/// Arguments of `create clusterrole`.
#[derive(clap::Args, Debug)]
pub struct ClusterArgs {
    #[command(flatten)]
    made: Made,
    #[command(flatten)]
    rule: Rule,
    /// Path that the rule applies to
    #[arg(long = "non-resource-url", value_delimiter = ',')]
    non_resource_urls: Vec<String>,
    /// Labels of the ClusterRoles that this one is made of
    #[arg(long, value_parser = crate::cli::pairs)]
    aggregation_rule: Vec<BTreeMap<String, String>>,
    /// Name of the role
    names: Vec<String>,
}

/// A resource as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resource {
    name: String,
    group: String,
    subresource: String,
}

/// Runs `create role`.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "role", &args.names)?;
    let name = making.name;
    if name.is_empty() {
        return Err(plain("name must be specified"));
    }
    let verbs = verbs(&args.rule.verbs);
    if verbs.is_empty() {
        return Err(plain("at least one verb must be specified"));
    }
    warn(&verbs);
    let resources = resources(&args.rule.resources);
    if resources.is_empty() {
        return Err(plain("at least one resource must be specified"));
    }
    let found = look_up(cx, &resources).await?;
    check(&resources, &found, &verbs)?;
    let rules = rules(&verbs, &resources, &found, &distinct(&args.rule.resource_names), &[]);
    let object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": {"name": name}, "rules": rules});
    making.create(cx, Generated { object: with_namespace(object, cx), failing: "" }).await
}

/// Runs `create clusterrole`.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run_cluster(args: ClusterArgs, cx: &Context) -> Result<(), Failure> {
    let labels: BTreeMap<&String, &String> = args.aggregation_rule.iter().flatten().collect();
    let making = args.made.begin(cx, "clusterrole", &args.names)?;
    let name = making.name;
    if name.is_empty() {
        return Err(plain("name must be specified"));
    }
    let (verbs, resources) = (verbs(&args.rule.verbs), resources(&args.rule.resources));
    let (urls, names) = (distinct(&args.non_resource_urls), distinct(&args.rule.resource_names));
    let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": {"name": name}});
    if labels.is_empty() {
        if verbs.is_empty() {
            return Err(plain("at least one verb must be specified"));
        }
        if resources.is_empty() && urls.is_empty() {
            return Err(plain("one of resource or nonResourceURL must be specified"));
        }
        let mut found = Vec::new();
        if !resources.is_empty() {
            warn(&verbs);
            found = look_up(cx, &resources).await?;
            check(&resources, &found, &verbs)?;
        }
        check_urls(&urls, &verbs)?;
        object["rules"] = rules(&verbs, &resources, &found, &names, &urls);
    } else {
        if ![&urls, &verbs, &names].iter().all(|list| list.is_empty()) || !resources.is_empty() {
            return Err(plain(
                "aggregation rule must be specified without nonResourceURLs, verbs, resources or resourceNames",
            ));
        }
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
    }
    making.create(cx, Generated { object, failing: "" }).await
}

fn distinct(list: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for item in list {
        if !out.contains(item) {
            out.push(item.clone());
        }
    }
    out
}

fn verbs(list: &[String]) -> Vec<String> {
    if list.iter().any(|v| v == "*") { vec!["*".to_owned()] } else { distinct(list) }
}

fn resources(list: &[String]) -> Vec<Resource> {
    let mut out = Vec::new();
    for text in list {
        let (main, subresource) = text.split_once('/').map_or((text.as_str(), None), |(main, sub)| (main, Some(sub)));
        let (name, group) = main.split_once('.').map_or((main, None), |(name, group)| (name, Some(group)));
        let everything = name == "*" && group.is_none() && subresource.is_none();
        let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
        let resource = Resource { name: name.to_owned(), group: text(group), subresource: text(subresource) };
        if everything {
            return vec![resource];
        }
        out.push(resource);
    }
    out
}

fn warn(verbs: &[String]) {
    for verb in verbs.iter().filter(|v| !RESOURCE_VERBS.contains(&v.as_str())) {
        eprintln!("Warning: '{verb}' is not a standard resource verb");
    }
}

/// Name and group that the server knows each resource by, or why it knows none.
async fn look_up(cx: &Context, resources: &[Resource]) -> Result<Vec<Result<(String, String), Failure>>, Failure> {
    let discovery = cx.discovery()?;
    let mut out = Vec::new();
    for Resource { name, group, .. } in resources {
        let found = discovery.find(|catalog| catalog.resource(group, "", name).cloned()).await?;
        let missing = || Failure::NoResource(name.clone(), group.clone(), String::new());
        out.push(found.map(|m| (m.resource.clone(), m.group.clone())).ok_or_else(missing));
    }
    Ok(out)
}

fn known<'a>(resource: &'a Resource, found: &'a Result<(String, String), Failure>) -> (&'a str, &'a str) {
    found.as_ref().map_or((&resource.name, &resource.group), |(name, group)| (name, group))
}

fn check(resources: &[Resource], found: &[Result<(String, String), Failure>], verbs: &[String]) -> Result<(), Failure> {
    for (resource, found) in resources.iter().zip(found) {
        if resource.name.is_empty() {
            return Err(plain("resource must be specified if apiGroup/subresource specified"));
        }
        if resource.name == "*" {
            return Ok(());
        }
        let (name, group) = known(resource, found);
        let mut special_match = false;
        for verb in verbs {
            let Some(allowed) = special(verb) else { continue };
            if !allowed.contains(&(name, group)) {
                return Err(plain(format!("can not perform '{verb}' on '{name}' in group '{group}'")));
            }
            special_match = true;
        }
        if let (Err(failure), false) = (found, special_match) {
            return Err(unresolved(failure.clone()));
        }
    }
    Ok(())
}

fn check_urls(urls: &[String], verbs: &[String]) -> Result<(), Failure> {
    if urls.is_empty() {
        return Ok(());
    }
    if let Some(verb) = verbs.iter().find(|v| !URL_VERBS.contains(&v.as_str())) {
        return Err(plain(format!("invalid verb: '{verb}' for nonResourceURL")));
    }
    for url in urls.iter().filter(|url| *url != "*") {
        if !url.starts_with('/') {
            return Err(plain("nonResourceURL should start with /"));
        }
        if url.strip_suffix('*').unwrap_or(url).contains('*') {
            return Err(plain("nonResourceURL only supports wildcard matches when '*' is at the end"));
        }
    }
    Ok(())
}

/// One rule for each group, then one for paths.
fn rules(
    verbs: &[String],
    resources: &[Resource],
    found: &[Result<(String, String), Failure>],
    names: &[String],
    urls: &[String],
) -> Value {
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (resource, found) in resources.iter().zip(found) {
        let (name, group) = known(resource, found);
        let name =
            if resource.subresource.is_empty() { name.to_owned() } else { format!("{name}/{}", resource.subresource) };
        let list = groups.entry(group).or_default();
        if !list.contains(&name) {
            list.push(name);
        }
    }
    let mut rules = Vec::new();
    for (group, resources) in groups {
        let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rules.push(rule);
    }
    if !urls.is_empty() {
        rules.push(json!({"verbs": verbs, "nonResourceURLs": urls}));
    }
    Value::Array(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resources_are_grouped() {
        let resources = resources(&strings(&["pods/log", "deploy.apps", "pods/log"]));
        let found = vec![
            Ok(("pods".to_owned(), String::new())),
            Ok(("deployments".to_owned(), "apps".to_owned())),
            Ok(("pods".to_owned(), String::new())),
        ];
        assert_eq!(
            rules(&strings(&["get"]), &resources, &found, &strings(&["n"]), &strings(&["/x"])),
            json!([
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"], "resourceNames": ["n"]},
                {"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["n"]},
                {"verbs": ["get"], "nonResourceURLs": ["/x"]},
            ])
        );
    }

    #[test]
    fn a_star_swallows_the_rest() {
        assert_eq!(resources(&strings(&["pods", "*", "x"])), [Resource { name: "*".to_owned(), ..Resource::default() }]);
        assert_eq!(verbs(&strings(&["get", "*"])), ["*"]);
    }

    #[test]
    fn special_verbs_go_with_their_resources() {
        let refused = check(&resources(&strings(&["pods"])), &[Ok(("pods".to_owned(), String::new()))], &strings(&["bind"]));
        assert_eq!(refused.unwrap_err().to_string(), "error: can not perform 'bind' on 'pods' in group ''");
        let unknown = Err(Failure::NoResource("users".to_owned(), String::new(), String::new()));
        assert!(check(&resources(&strings(&["users"])), &[unknown], &strings(&["impersonate"])).is_ok());
    }
}
