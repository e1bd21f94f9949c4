//! Short ways to write table columns.

use crate::kind::Column;

/// The object's name: first column of nearly every table.
pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "The object's name, unique in its scope.",
    priority: 0,
};

/// Time since creation.
pub const AGE: Column = column("Age", "string", "Time since the object was created.");

/// A column that is always shown.
pub const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0 }
}

/// A column that only `-o wide` shows.
pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 1 }
}

/// Wide columns of kinds with a pod template.
pub const CONTAINERS: Column = wide("Containers", "string", "Names of the template's containers.");
/// See [`CONTAINERS`].
pub const IMAGES: Column = wide("Images", "string", "Images of the template's containers.");
/// See [`CONTAINERS`].
pub const SELECTOR: Column = wide("Selector", "string", "Labels that select the pods.");
