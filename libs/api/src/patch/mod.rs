//! Patches: JSON patch, JSON merge patch, strategic merge patch; applying them (the server) and making them (kubectl).

mod directives;
mod json_merge;
mod operations;
mod strategic;
mod strategic_diff;

use serde_json::{Map, Value};

pub use self::{
    json_merge::{three_way_json_merge, two_way_json_merge},
    operations::Operation,
    strategic::apply as apply_strategic,
    strategic_diff::{three_way as three_way_strategic, two_way as two_way_strategic},
};
use crate::{
    schema::{
        Type, TypeId,
        body::{identified, in_order},
        check, go, json,
    },
    status::Status,
};

/// A JSON patch may hold this many operations.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

const NO_MERGE_PATCH: &str = "Invalid JSON Patch";

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
    Json(Vec<Operation>),
    /// JSON merge patch.
    Merge(Value),
    /// Strategic merge patch.
    Strategic(Map<String, Value>),
}

impl Patch {
    /// Parses a request's body. The second part is what strict validation complains of: keys given twice, and fields that
    /// operations don't have. [`PatchType::Apply`] is not a patch of this kind and is refused.
    pub fn parse(kind: PatchType, body: &[u8]) -> Result<(Self, Vec<String>), PatchError> {
        Self::read(kind, body, false)
    }

    /// [`Self::parse`] where nobody asks for what is unknown or twice (`fieldValidation=Ignore`): the words of refusals differ.
    pub fn parse_ignoring(kind: PatchType, body: &[u8]) -> Result<Self, PatchError> {
        Self::read(kind, body, true).map(|(patch, _)| patch)
    }

    fn read(kind: PatchType, body: &[u8], ignoring: bool) -> Result<(Self, Vec<String>), PatchError> {
        let bad = |why: String| {
            PatchError::Malformed(match kind {
                PatchType::Merge if ignoring => NO_MERGE_PATCH.to_owned(),
                PatchType::Json | PatchType::Merge if !ignoring => format!("error decoding patch: {why}"),
                _ => why,
            })
        };
        let parsed = json::parse_to_check(body).map_err(|e| bad(e.0))?;
        let problem = |path: &String| format!("duplicate field {}", crate::field::go_quote(path));
        let mut problems: Vec<String> = parsed.duplicates.iter().map(problem).collect();
        let patch = match (kind, parsed.value) {
            (PatchType::Json, Value::Null) => Self::Json(Vec::new()),
            (PatchType::Json, Value::Array(operations)) => {
                if operations.len() > MAX_JSON_PATCH_OPERATIONS {
                    return Err(PatchError::TooManyOperations(operations.len()));
                }
                let (operations, unknown) = operations::read(operations, ignoring).map_err(|e| bad(e.to_string()))?;
                problems.extend(unknown);
                in_order(&mut problems, body);
                problems = problems.into_iter().map(|problem| format!("json patch {problem}")).collect();
                Self::Json(operations)
            }
            (PatchType::Json, other) => {
                let ty = if ignoring { "jsonpatch.Patch" } else { "[]handlers.jsonPatchOp" };
                return Err(bad(cannot_read(&other, ty)));
            }
            (PatchType::Merge, value @ Value::Object(_)) => Self::Merge(value),
            (PatchType::Merge, Value::Null) => return Err(PatchError::Malformed(NO_MERGE_PATCH.to_owned())),
            (PatchType::Strategic, Value::Object(map)) => Self::Strategic(map),
            (PatchType::Strategic, Value::Null) => Self::Strategic(Map::new()),
            (PatchType::Merge | PatchType::Strategic, other) => {
                return Err(bad(cannot_read(&other, "map[string]interface {}")));
            }
            (PatchType::Apply, _) => return Err(PatchError::Malformed("not a patch: an applied configuration".to_owned())),
        };
        Ok((patch, problems))
    }

    /// How a refusal shows what `patched` was to be.
    pub fn refused(&self, patched: &Value) -> String {
        match self {
            Self::Strategic(patch) => directives::go_map_text(patch),
            Self::Json(_) | Self::Merge(_) => patched.to_string(),
        }
    }

    /// What the patch made of an object against its type, in place ([`check::check`]): strategic patches are applied to decoded
    /// objects, which are converted.
    pub fn check(&self, patched: &mut Value, ty: TypeId) -> Result<Vec<String>, String> {
        match self {
            Self::Strategic(_) => check::convert(patched, ty),
            Self::Json(_) | Self::Merge(_) => check::check(patched, ty),
        }
    }

    /// What the patch made of `current`, with its kind and apiVersion told: a strategic patch may name others without effect,
    /// so they are `current`'s; what others leave is read like a body, and may have none. The error is the reason of a
    /// refusal: one of them is no text, or is no version.
    pub fn identified(&self, mut patched: Value, current: &Value) -> Result<Value, String> {
        if !matches!(self, Self::Strategic(_)) {
            return identified(patched).map_err(|error| error.to_string());
        }
        for field in ["kind", "apiVersion"] {
            match &patched[field] {
                Value::Null | Value::String(_) => patched[field] = current[field].clone(),
                other => return Err(go::unconvertible(other, &Type::String, "string")),
            }
        }
        Ok(patched)
    }

    /// The object with the patch applied. Strategic patches need the object's type.
    pub fn apply(&self, object: &Value, ty: Option<TypeId>) -> Result<Value, PatchError> {
        match self {
            Self::Json(patch) => operations::apply(object.clone(), patch),
            Self::Merge(patch) => {
                let mut object = object.clone();
                json_merge::apply(&mut object, patch);
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

fn cannot_read(value: &Value, ty: &str) -> String {
    go::cannot_unmarshal(go::kind(value), ty)
}

#[cfg(test)]
mod tests;
