//! The served kinds, one a file: facts, defaults, preparation, validation, fields and table cells, as upstream v1.35 has them.
//!
//! `build.rs` lists the files of this folder, so a new kind is a new file and nothing else. The file implements
//! [`Resource`] for its type and names the type `Served`; its golden object in `testdata/kinds` is asked for by a test.
//! What several kinds need (pod specs above all) is in [`shared`].

use crate::kind::{Kind, KindInfo, Resource};

pub mod shared;

include!(concat!(env!("OUT_DIR"), "/kinds.rs"));

/// The facts of a kind by group, version and kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static KindInfo> {
    INFOS.iter().find(|info| info.group == group && info.version == version && info.kind == kind)
}

/// The facts of a kind by group, version and plural resource name.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    INFOS.iter().find(|info| info.group == group && info.version == version && info.plural == plural)
}

#[cfg(test)]
#[path = "shared/golden.rs"]
mod golden;

#[cfg(test)]
#[path = "shared/validation.rs"]
mod validation;

#[cfg(test)]
#[path = "shared/properties.rs"]
mod properties;
