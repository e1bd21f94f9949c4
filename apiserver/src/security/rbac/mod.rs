//! Role-based access control: who may do what, decided from roles and bindings held in memory.
//!
//! [`index`] holds them by subject so that a decision looks only at what is bound to the user; [`rule`] says what a rule
//! allows; [`escalation`] keeps people from granting more than they have; [`policy`] is what a cluster starts with and
//! [`aggregate`] keeps aggregated roles up to date. Feeding the index is the caller's: [`Rbac::apply`] takes one changed
//! object at a time.

pub mod aggregate;
pub mod escalation;
pub mod follow;
pub mod index;
pub mod policy;
pub mod rule;

use api::status::Status;
use parking_lot::RwLock;
use serde_json::{Value, json};

use self::index::{Index, Source};
use crate::{
    gate::{Authorize, Decision},
    identity::{MASTERS, User},
    request::RequestInfo,
};

/// The group of the API.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The authorizer.
#[derive(Debug, Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

impl Rbac {
    /// Takes note of a role or binding as it is now (`None`: deleted).
    pub fn apply(&self, source: Source, namespace: &str, name: &str, object: Option<&Value>) {
        self.index.write().apply(source, namespace, name, object);
    }
}

impl Authorize for Rbac {
    fn authorize(&self, user: &User, attributes: &RequestInfo) -> Decision {
        if user.is_in(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut allowed = None;
        let mut missing = Vec::new();
        self.index.read().visit(user, &attributes.namespace, &mut missing, |binding, rules| {
            if rules.iter().any(|rule| rule.allows(attributes)) {
                allowed = Some(format!("RBAC: allowed by {binding}"));
            }
            allowed.is_none()
        });
        match (allowed, missing.as_slice()) {
            (Some(reason), _) => Decision::Allow(reason),
            (None, []) => Decision::Deny(String::new()),
            (None, [one]) => Decision::Deny(format!("RBAC: {one}")),
            (None, many) => Decision::Deny(format!("RBAC: [{}]", many.join(", "))),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Value {
        let (mut resource, mut other) = (Vec::new(), Vec::new());
        let mut missing = Vec::new();
        self.index.read().visit(user, namespace, &mut missing, |_, rules| {
            for rule in rules {
                if !rule.resources.is_empty() {
                    let mut shown = json!({
                        "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources,
                    });
                    if !rule.resource_names.is_empty() {
                        shown["resourceNames"] = json!(rule.resource_names);
                    }
                    resource.push(shown);
                }
                if !rule.non_resource_urls.is_empty() {
                    other.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
                }
            }
            true
        });
        let mut status = json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": false});
        if !missing.is_empty() {
            status["evaluationError"] = json!(missing.join(", "));
        }
        status
    }

    fn check_escalation(&self, user: &User, info: &RequestInfo, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        escalation::check(self, user, info, object, old)
    }
}
