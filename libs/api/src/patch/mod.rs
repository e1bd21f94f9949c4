//! Patches: JSON patch, JSON merge patch, strategic merge patch; applying them (the server) and making them (kubectl).

mod directives;
mod json_merge;
mod json_patch_apply;
mod strategic;
mod strategic_diff;

use serde_json::{Map, Value};

pub use self::{
    json_merge::{three_way_json_merge, two_way_json_merge},
    strategic::apply as apply_strategic,
    strategic_diff::{three_way as three_way_strategic, two_way as two_way_strategic},
};
use crate::{
    schema::{TypeId, check::go_kind, json},
    status::Status,
};

/// A JSON patch may hold this many operations.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// What a patch's content type names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json` (RFC 6902)
    Json,
    /// `application/merge-patch+json` (RFC 7396)
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
    /// `application/apply-patch+yaml`
    Apply,
}

impl PatchType {
    /// From a `Content-Type` header, parameters aside.
    pub fn from_content_type(header: &str) -> Option<Self> {
        match header.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }

    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// Why a patch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed (400).
    #[error("{0}")]
    Malformed(String),
    /// More operations than allowed (413).
    #[error("The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// The patch does not fit the object (422); the server's answer hides the reason, as upstream's.
    #[error("{0}")]
    DoesNotApply(String),
    /// Upstream answers these with 500.
    #[error("{0}")]
    Internal(String),
    /// Three-way: what the patch wants to change was changed by somebody else.
    #[error("patch:\n{patch}\nconflicts with changes made from original to current:\n{changed}\n")]
    Conflict {
        /// The patch, as JSON.
        patch: String,
        /// The other changes, as JSON.
        changed: String,
    },
    /// A precondition (an immutable key) would not hold.
    #[error("precondition failed for: {0}")]
    Precondition(String),
}

impl PatchError {
    /// The server's answer.
    pub fn to_status(&self) -> Status {
        match self {
            Self::Malformed(why) => Status::bad_request(why.clone()),
            Self::TooManyOperations(_) => Status::request_entity_too_large(&self.to_string()),
            Self::DoesNotApply(_) => Status::unprocessable(),
            _ => Status::unexpected(self.to_string()),
        }
    }
}

/// A patch as parsed from a request, ready to be applied (again and again, on conflicts).
#[derive(Clone, Debug)]
pub enum Patch {
    /// JSON patch.
    Json(json_patch::Patch),
    /// JSON merge patch.
    Merge(Value),
    /// Strategic merge patch.
    Strategic(Map<String, Value>),
}

impl Patch {
    /// Parses a request's body. The second part is what strict validation complains of: keys given twice.
    /// [`PatchType::Apply`] is not a patch of this kind and is refused.
    pub fn parse(kind: PatchType, body: &[u8]) -> Result<(Self, Vec<String>), PatchError> {
        let bad = |why: String| PatchError::Malformed(format!("error decoding patch: {why}"));
        let parsed = json::parse(body).map_err(|e| match kind {
            PatchType::Strategic => PatchError::Malformed(e.0),
            _ => bad(e.0),
        })?;
        let problem = |path: &String| format!("duplicate field {}", crate::field::go_quote(path));
        let duplicates: Vec<String> = parsed.duplicates.iter().map(problem).collect();
        let cannot =
            |value: &Value, ty: &str| format!("json: cannot unmarshal {} into Go value of type {ty}", go_kind(value));
        let patch = match (kind, parsed.value) {
            (PatchType::Json, Value::Array(operations)) => {
                if operations.len() > MAX_JSON_PATCH_OPERATIONS {
                    return Err(PatchError::TooManyOperations(operations.len()));
                }
                // Operations that are none are found when they are applied.
                let operations = serde_json::from_value(Value::Array(operations));
                Self::Json(operations.map_err(|e| PatchError::DoesNotApply(e.to_string()))?)
            }
            (PatchType::Json, other) => return Err(bad(cannot(&other, "[]handlers.jsonPatchOp"))),
            (PatchType::Merge, value @ Value::Object(_)) => Self::Merge(value),
            (PatchType::Merge, other) => return Err(bad(cannot(&other, "map[string]interface {}"))),
            (PatchType::Strategic, Value::Object(map)) => Self::Strategic(map),
            (PatchType::Strategic, other) => {
                return Err(PatchError::Malformed(cannot(&other, "map[string]interface {}")));
            }
            (PatchType::Apply, _) => return Err(PatchError::Malformed("not a patch: an applied configuration".to_owned())),
        };
        let duplicates = match &patch {
            Self::Json(_) => duplicates.into_iter().map(|d| format!("json patch {d}")).collect(),
            _ => duplicates,
        };
        Ok((patch, duplicates))
    }

    /// The object with the patch applied. Strategic patches need the object's type.
    pub fn apply(&self, object: &Value, ty: Option<TypeId>) -> Result<Value, PatchError> {
        match self {
            Self::Json(patch) => json_patch_apply::apply(object.clone(), patch),
            Self::Merge(patch) => {
                let mut object = object.clone();
                json_patch::merge(&mut object, patch);
                Ok(object)
            }
            Self::Strategic(patch) => {
                let ty =
                    ty.ok_or_else(|| PatchError::Malformed("strategic merge patch format is not supported".to_owned()))?;
                let Value::Object(map) = object else {
                    return Err(PatchError::Internal("the object is none".to_owned()));
                };
                apply_strategic(map.clone(), patch.clone(), ty).map(Value::Object)
            }
        }
    }
}

#[cfg(test)]
mod tests;
