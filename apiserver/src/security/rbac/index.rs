//! Roles and bindings in memory, bindings found by the subject they name.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use super::rule::Rule;
use crate::identity::User;

/// Which kind of object an index entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `clusterroles`
    ClusterRole,
    /// `roles`
    Role,
    /// `clusterrolebindings`
    ClusterRoleBinding,
    /// `rolebindings`
    RoleBinding,
}

impl Source {
    /// All four, roles first.
    pub const ALL: [Self; 4] = [Self::ClusterRole, Self::Role, Self::ClusterRoleBinding, Self::RoleBinding];

    /// `clusterroles`: in paths and in the store's keys.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ClusterRole => "clusterroles",
            Self::Role => "roles",
            Self::ClusterRoleBinding => "clusterrolebindings",
            Self::RoleBinding => "rolebindings",
        }
    }

    /// `ClusterRole`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::ClusterRole => "ClusterRole",
            Self::Role => "Role",
            Self::ClusterRoleBinding => "ClusterRoleBinding",
            Self::RoleBinding => "RoleBinding",
        }
    }
}

/// Which role a binding grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RoleRef {
    /// `ClusterRole` or `Role`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

/// A grant of a role to one subject.
#[derive(Clone, Debug)]
pub struct Grant {
    namespace: String,
    name: String,
    role: RoleRef,
    subject: Subject,
}

impl fmt::Display for Grant {
    /// As SubjectAccessReview's reason reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding {:?}", self.name)?,
            namespace => write!(f, "RoleBinding {:?}", format!("{}/{namespace}", self.name))?,
        }
        write!(f, " of {} {:?} to {} ", self.role.kind, self.role.name, self.subject.kind)?;
        if self.subject.kind == "ServiceAccount" {
            write!(f, "{:?}", format!("{}/{}", self.subject.name, self.subject.namespace))
        } else {
            write!(f, "{:?}", self.subject.name)
        }
    }
}

/// Grants of one scope (the cluster or a namespace) by subject.
#[derive(Debug, Default)]
struct Scope {
    users: HashMap<String, Vec<Arc<Grant>>>,
    groups: HashMap<String, Vec<Arc<Grant>>>,
    /// What each binding has put into the maps: (is a group, subject).
    of: HashMap<String, Vec<(bool, String)>>,
}

impl Scope {
    fn table(&mut self, group: bool) -> &mut HashMap<String, Vec<Arc<Grant>>> {
        if group { &mut self.groups } else { &mut self.users }
    }

    fn remove(&mut self, binding: &str) {
        for (group, subject) in self.of.remove(binding).unwrap_or_default() {
            let table = self.table(group);
            if let Some(grants) = table.get_mut(&subject) {
                grants.retain(|grant| grant.name != binding);
                if grants.is_empty() {
                    table.remove(&subject);
                }
            }
        }
    }

    fn add(&mut self, grant: Grant) {
        let (group, subject) = match grant.subject.kind.as_str() {
            "User" => (false, grant.subject.name.clone()),
            "Group" => (true, grant.subject.name.clone()),
            "ServiceAccount" if grant.subject.namespace.is_empty() => return,
            "ServiceAccount" => (false, format!("system:serviceaccount:{}:{}", grant.subject.namespace, grant.subject.name)),
            _ => return,
        };
        self.of.entry(grant.name.clone()).or_default().push((group, subject.clone()));
        self.table(group).entry(subject).or_default().push(Arc::new(grant));
    }

    /// Visits the user's grants until `visit` says no; whether it never did.
    fn each(&self, user: &User, visit: &mut impl FnMut(&Grant) -> bool) -> bool {
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group));
        self.users.get(&user.name).into_iter().chain(groups).flatten().all(|grant| visit(grant))
    }
}

/// A role's rules, shared by whoever looks at them.
pub type Rules = Arc<[Rule]>;

/// Every role and binding.
#[derive(Debug, Default)]
pub struct Index {
    cluster_roles: BTreeMap<String, Rules>,
    roles: HashMap<String, HashMap<String, Rules>>,
    cluster: Scope,
    namespaces: HashMap<String, Scope>,
}

const CONTROLLERS: &str = "system:controller:";

/// The one user whose rights come from no binding: one process runs all controllers under one identity, so that identity
/// has what upstream gives to its controllers' service accounts.
fn runs_controllers(user: &User) -> bool {
    user.name == "system:kube-controller-manager"
}

impl Index {
    /// Takes note of an object as it is now (`None`: deleted).
    pub fn apply(&mut self, source: Source, namespace: &str, name: &str, object: Option<&Value>) {
        match source {
            Source::ClusterRole => match object {
                Some(object) => drop(self.cluster_roles.insert(name.to_owned(), rules(object))),
                None => drop(self.cluster_roles.remove(name)),
            },
            Source::Role => {
                let roles = self.roles.entry(namespace.to_owned()).or_default();
                match object {
                    Some(object) => drop(roles.insert(name.to_owned(), rules(object))),
                    None => drop(roles.remove(name)),
                }
                if roles.is_empty() {
                    self.roles.remove(namespace);
                }
            }
            Source::ClusterRoleBinding => bind(&mut self.cluster, "", name, object),
            Source::RoleBinding => {
                let scope = self.namespaces.entry(namespace.to_owned()).or_default();
                bind(scope, namespace, name, object);
                if scope.of.is_empty() {
                    self.namespaces.remove(namespace);
                }
            }
        }
    }

    /// The rules of a role that a binding in `namespace` refers to; `Err` says that there is none, as upstream does.
    pub fn resolve(&self, namespace: &str, role: &RoleRef) -> Result<Rules, String> {
        let found = match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.name),
            "Role" => self.roles.get(namespace).and_then(|roles| roles.get(&role.name)),
            kind => return Err(format!("unsupported role reference kind: {kind:?}")),
        };
        found
            .cloned()
            .ok_or_else(|| format!("{}.{} {:?} not found", role.kind.to_ascii_lowercase(), super::GROUP, role.name))
    }

    /// Visits what is granted to a user in a namespace (`""`: only what holds in the whole cluster), with the rules, until
    /// `visit` says no. Bindings of roles that do not exist add to `missing`.
    pub fn visit(
        &self,
        user: &User,
        namespace: &str,
        missing: &mut Vec<String>,
        mut visit: impl FnMut(&dyn fmt::Display, &[Rule]) -> bool,
    ) {
        let mut grant = |grant: &Grant| match self.resolve(&grant.namespace, &grant.role) {
            Ok(rules) => visit(grant, &rules),
            Err(error) => {
                missing.push(error);
                true
            }
        };
        if !self.cluster.each(user, &mut grant) {
            return;
        }
        if let Some(scope) = self.namespaces.get(namespace)
            && !scope.each(user, &mut grant)
        {
            return;
        }
        if !runs_controllers(user) {
            return;
        }
        let roles = self.cluster_roles.range(CONTROLLERS.to_owned()..).take_while(|(name, _)| name.starts_with(CONTROLLERS));
        for (name, rules) in roles {
            if !visit(&format_args!("built-in right of {:?} to ClusterRole {name:?}", user.name), rules) {
                return;
            }
        }
    }
}

fn rules(object: &Value) -> Rules {
    let rules = object.get("rules").cloned().unwrap_or_default();
    serde_json::from_value::<Option<Vec<Rule>>>(rules).ok().flatten().unwrap_or_default().into()
}

fn bind(scope: &mut Scope, namespace: &str, name: &str, object: Option<&Value>) {
    scope.remove(name);
    let Some(object) = object else { return };
    let part = |field: &str| object.get(field).cloned().unwrap_or_default();
    let role: RoleRef = serde_json::from_value(part("roleRef")).unwrap_or_default();
    let subjects: Option<Vec<Subject>> = serde_json::from_value(part("subjects")).unwrap_or_default();
    for mut subject in subjects.unwrap_or_default() {
        if subject.kind == "ServiceAccount" && subject.namespace.is_empty() {
            namespace.clone_into(&mut subject.namespace);
        }
        scope.add(Grant { namespace: namespace.to_owned(), name: name.to_owned(), role: role.clone(), subject });
    }
}
