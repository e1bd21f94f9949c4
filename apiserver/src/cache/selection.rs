//! Which objects of a resource a request is about: namespace, name, labels and fields.

use std::sync::Arc;

use api::{
    kind::{Hooks, Kind},
    selector::{FieldSelector, Selector},
};

use super::object::{Object, Selectable};

/// Whether only name and namespace are asked for, which the key tells.
fn by_name_only(fields: &FieldSelector) -> bool {
    fields.terms().iter().all(|t| matches!(t.field.as_str(), "metadata.name" | "metadata.namespace"))
}

/// Conditions that all must hold.
#[derive(Clone, Default)]
pub struct Selection {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only this name.
    pub name: Option<String>,
    /// The label selector.
    pub labels: Option<Selector>,
    /// The field selector.
    pub fields: Option<FieldSelector>,
    /// Set where fields are named as another kind than the stored one names them: nothing decoded earlier can be used.
    pub foreign: Option<Arc<Kind>>,
}

impl Selection {
    /// Whether everything in the namespace is selected.
    pub fn is_plain(&self) -> bool {
        self.name.is_none() && self.labels.is_none() && self.fields.is_none()
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Object, hooks: &dyn Hooks) -> bool {
        if self.namespace.as_deref().is_some_and(|n| n != object.namespace()) {
            return false;
        }
        if self.name.as_deref().is_some_and(|n| n != object.name()) {
            return false;
        }
        if self.fields.is_none() && self.labels.is_none() {
            return true;
        }
        if let Some(kind) = &self.foreign {
            return self.accepts(object, &Selectable::of(object.json(), &*kind.hooks));
        }
        if self.labels.is_none() && self.fields.as_ref().is_some_and(by_name_only) {
            return self.accepts(object, &Selectable::default());
        }
        self.accepts(object, object.selectable(hooks))
    }

    fn accepts(&self, object: &Object, selectable: &Selectable) -> bool {
        let field = |field: &str| match field {
            "metadata.name" => Some(object.name()),
            "metadata.namespace" => Some(object.namespace()),
            field => selectable.field(field),
        };
        self.fields.as_ref().is_none_or(|fields| fields.matches_with(field))
            && self.labels.as_ref().is_none_or(|labels| labels.matches_with(|key| selectable.label(key)))
    }

    /// The value that an indexed field must have.
    pub fn required_field(&self, field: &str) -> Option<&str> {
        self.fields.as_ref().and_then(|f| f.requires(field))
    }
}
