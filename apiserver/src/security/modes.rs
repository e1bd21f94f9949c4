//! The authorizers of a server, asked one after the other as upstream asks them: the first that allows is right, and if none
//! does, all their reasons are said.

use std::sync::Arc;

use api::status::Status;
use serde_json::{Value, json};

use super::{node::NodeAuthorizer, rbac::Rbac};
use crate::{
    gate::{Authorize, Decision},
    identity::{MASTERS, User},
    request::RequestInfo,
};

/// One of upstream's `--authorization-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Kubelets have what their node needs.
    Node,
    /// Roles and bindings.
    Rbac,
}

/// The authorizers, in this order.
pub struct Modes {
    /// For kubelets.
    pub node: Option<NodeAuthorizer>,
    /// For everybody.
    pub rbac: Option<Arc<Rbac>>,
}

impl Authorize for Modes {
    fn authorize(&self, user: &User, attributes: &RequestInfo) -> Decision {
        if user.is_in(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut why = String::new();
        if let (Some(authorizer), Some(node)) = (&self.node, user.node()) {
            match authorizer.decide(node, attributes) {
                Ok(()) => return Decision::Allow(String::new()),
                Err(reason) => why = reason,
            }
        }
        let by_role = self.rbac.as_ref().map(|rbac| rbac.authorize(user, attributes));
        match by_role {
            Some(Decision::Deny(reason)) if !why.is_empty() && !reason.is_empty() => {
                Decision::Deny(format!("{why}\n{reason}"))
            }
            Some(Decision::Deny(reason)) if why.is_empty() => Decision::Deny(reason),
            Some(Decision::Allow(reason)) => Decision::Allow(reason),
            Some(Decision::Deny(_)) | None => Decision::Deny(why),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Value {
        let none = || json!({"resourceRules": [], "nonResourceRules": [], "incomplete": false});
        let mut status = self.rbac.as_ref().map_or_else(none, |rbac| rbac.rules(user, namespace));
        if self.node.is_some() && user.node().is_some() {
            let why = "node authorizer does not support user rule resolution";
            let more = status.get("evaluationError").and_then(Value::as_str).map(|error| format!("[{why}, {error}]"));
            status["incomplete"] = json!(true);
            status["evaluationError"] = json!(more.unwrap_or_else(|| why.to_owned()));
        }
        status
    }

    fn check_escalation(&self, user: &User, info: &RequestInfo, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        self.rbac.as_ref().map_or(Ok(()), |rbac| rbac.check_escalation(user, info, object, old))
    }
}
