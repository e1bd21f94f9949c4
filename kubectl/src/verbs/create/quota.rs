//! `kubectl create quota`.

use serde_json::{Map, Value, json};

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
};

/// Arguments of `create quota`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// RESOURCE=QUANTITY pairs that may not be exceeded, separated by commas
    #[arg(long, default_value = "", hide_default_value = true)]
    hard: String,
    /// Scopes that objects must fit all to be counted, separated by commas
    #[arg(long, default_value = "", hide_default_value = true)]
    scopes: String,
    /// Name of the quota
    names: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "quota", &args.names)?;
    let name = making.name;
    if name.is_empty() {
        return Err(plain("name must be specified"));
    }
    let object = quota(name, &args.hard, &args.scopes).map_err(plain)?;
    making.create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create quota: " }).await
}

fn quota(name: &str, hard: &str, scopes: &str) -> Result<Value, String> {
    let mut spec = Map::new();
    let hard = resource_list(hard)?;
    if !hard.is_empty() {
        spec.insert("hard".to_owned(), Value::Object(hard));
    }
    if !scopes.is_empty() {
        let scopes: Vec<&str> = scopes.split(',').collect();
        if scopes.contains(&"") {
            return Err("invalid resource quota scope \"\"".to_owned());
        }
        spec.insert("scopes".to_owned(), json!(scopes));
    }
    Ok(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec}))
}

/// `cpu=1,memory=1Gi` with canonical quantities.
///
/// # Errors
/// What upstream says of it.
pub fn resource_list(text: &str) -> Result<Map<String, Value>, String> {
    let mut list = Map::new();
    for statement in text.split(',').filter(|_| !text.is_empty()) {
        let [resource, quantity] = statement.split('=').collect::<Vec<_>>()[..] else {
            return Err(format!("Invalid argument syntax {statement}, expected <resource>=<value>"));
        };
        let quantity = api::quantity::canonical(quantity).map_err(|error| error.to_string())?;
        list.insert(resource.to_owned(), Value::String(quantity));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_canonical() {
        assert_eq!(
            quota("q", "cpu=1000m,memory=1Gi", "BestEffort").unwrap(),
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
                "spec": {"hard": {"cpu": "1", "memory": "1Gi"}, "scopes": ["BestEffort"]}})
        );
        assert_eq!(resource_list("a").unwrap_err(), "Invalid argument syntax a, expected <resource>=<value>");
        assert_eq!(
            resource_list("a=x").unwrap_err(),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        );
    }
}
