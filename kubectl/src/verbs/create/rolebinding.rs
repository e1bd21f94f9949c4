//! `kubectl create rolebinding` and `kubectl create clusterrolebinding`.

use serde_json::{Value, json};

use super::generator::{Generated, Made, with_namespace};
use crate::{
    context::Context,
    failure::{Failure, plain},
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Who is bound.
#[derive(clap::Args, Debug, Default)]
pub struct Subjects {
    /// User to bind; may be given several times
    #[arg(long = "local-user")]
    users: Vec<String>,
    /// Group to bind; may be given several times
    #[arg(long = "group")]
    groups: Vec<String>,
    /// Service account to bind, as NAMESPACE:NAME; may be given several times
    #[arg(long = "serviceaccount")]
    service_accounts: Vec<String>,
}

/// Arguments of `create rolebinding`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    made: Made,
    /// The ClusterRole to bind to
    #[arg(long, default_value = "", hide_default_value = true)]
    clusterrole: String,
    /// The Role to bind to
    #[arg(long, default_value = "", hide_default_value = true)]
    role: String,
    #[command(flatten)]
    subjects: Subjects,
    /// Name of the binding
    names: Vec<String>,
}

/// Arguments of `create clusterrolebinding`.
#[derive(clap::Args, Debug)]
pub struct ClusterArgs {
    #[command(flatten)]
    made: Made,
    /// The ClusterRole to bind to
    #[arg(long)]
    clusterrole: String,
    #[command(flatten)]
    subjects: Subjects,
    /// Name of the binding
    names: Vec<String>,
}

/// Runs `create rolebinding`.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "rolebinding", &args.names)?;
    let name = making.name;
    if name.is_empty() {
        return Err(plain("name must be specified"));
    }
    let role = match (args.role.as_str(), args.clusterrole.as_str()) {
        (role, "") if !role.is_empty() => ("Role", role),
        ("", role) if !role.is_empty() => ("ClusterRole", role),
        _ => return Err(plain("exactly one of clusterrole or role must be specified")),
    };
    let object = binding("RoleBinding", name, role, &args.subjects)?;
    making.create(cx, Generated { object: with_namespace(object, cx), failing: "failed to create rolebinding: " }).await
}

/// Runs `create clusterrolebinding`.
///
/// # Errors
/// Bad arguments, or the server's refusal.
pub async fn run_cluster(args: ClusterArgs, cx: &Context) -> Result<(), Failure> {
    let making = args.made.begin(cx, "clusterrolebinding", &args.names)?;
    let name = making.name;
    let role = ("ClusterRole", args.clusterrole.as_str());
    let object = binding("ClusterRoleBinding", name, role, &args.subjects)?;
    making.create(cx, Generated { object, failing: "failed to create clusterrolebinding: " }).await
}

fn binding(kind: &str, name: &str, (role_kind, role): (&str, &str), subjects: &Subjects) -> Result<Value, Failure> {
    let mut list = Vec::new();
    for (kind, names) in [("User", &subjects.users), ("Group", &subjects.groups)] {
        list.extend(names.iter().map(|name| json!({"kind": kind, "apiGroup": GROUP, "name": name})));
    }
    for account in &subjects.service_accounts {
        match account.split(':').collect::<Vec<_>>()[..] {
            [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                list.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}));
            }
            _ => return Err(plain("serviceaccount must be <namespace>:<name>")),
        }
    }
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
    });
    if !list.is_empty() {
        object["subjects"] = Value::Array(list);
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::create::tests::written;

    #[test]
    fn subjects_come_by_kind() {
        let one = |text: &str| vec![text.to_owned()];
        let subjects = Subjects { users: one("u"), groups: one("g"), service_accounts: one("a:b") };
        assert_eq!(
            written(binding("RoleBinding", "r", ("ClusterRole", "c"), &subjects).unwrap()),
            concat!(
                r#"{"kind":"RoleBinding","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"r","creationTimestamp":null},"#,
                r#""subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"u"},"#,
                r#"{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"g"},{"kind":"ServiceAccount","name":"b","namespace":"a"}],"#,
                r#""roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"c"}}"#
            )
        );
    }
}
