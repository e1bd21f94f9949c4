//! core/v1 Secret.

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors, text,
};
use crate::kind::{Context, KindInfo, Resource, Subresource};

/// The type of this kind.
pub type Served = Secret;

impl Resource for Secret {
    const INFO: KindInfo = KindInfo {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        columns: &[
            NAME,
            column("Type", "string", "What the secret is for."),
            column("Data", "string", "How many keys it holds."),
            AGE,
        ],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        // `stringData` is a way to write `data` in plain text: it wins over it and is never stored.
        for (key, value) in self.string_data.take().into_iter().flatten() {
            self.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
        }
        default_to(&mut self.type_, "Opaque");
    }

    fn prepare_for_update(&mut self, old: &Self, _at: Option<Subresource>, _ctx: &Context) {
        default_to(&mut self.type_, text(old.type_.as_ref()));
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![("type", text(self.type_.as_ref()).to_owned())]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let keys = self.data.as_ref().map_or(0, |data| data.len());
        vec![cells::name(&self.metadata), text(self.type_.as_ref()).into(), keys.into(), cells::age(&self.metadata, now)]
    }
}
