//! events.k8s.io/v1 Event: the core Event with other field names, stored in the core form.

use jiff::Timestamp;
use k8s_openapi::api::{core, events::v1::Event};
use serde_json::Value;

use super::{
    event::COLUMNS,
    shared::{default_to, metadata_accessors},
};
use crate::kind::{KindInfo, Resource};

/// The type of this kind.
pub type Served = Event;

/// Field names here and in core/v1.
const NAMES: [(&str, &str); 7] = [
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];

impl Resource for Event {
    const INFO: KindInfo = KindInfo {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        columns: COLUMNS,
        ttl_seconds: Some(3600),
        relaxed_durability: true,
        create_on_update: true,
        stored_as: Some(("", "v1", "Event")),
        garbage_collected: false,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        self.deprecated_source.get_or_insert_default();
        default_to(&mut self.reporting_controller, "");
        default_to(&mut self.reporting_instance, "");
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let object = self.regarding.clone().unwrap_or_default();
        [
            ("regarding.kind", object.kind),
            ("regarding.namespace", object.namespace),
            ("regarding.name", object.name),
            ("regarding.uid", object.uid),
            ("regarding.apiVersion", object.api_version),
            ("regarding.resourceVersion", object.resource_version),
            ("regarding.fieldPath", object.field_path),
            ("reason", self.reason.clone()),
            ("reportingController", self.reporting_controller.clone()),
            ("type", self.type_.clone()),
        ]
        .map(|(name, value)| (name, value.unwrap_or_default()))
        .to_vec()
    }

    /// Of the stored form.
    fn fields_of(bytes: &[u8]) -> Vec<(&'static str, String)> {
        let stored = serde_json::from_slice(bytes).map(Self::from_stored);
        stored.and_then(serde_json::from_value::<Self>).map(|event| event.fields()).unwrap_or_default()
    }

    /// Of the stored form.
    fn cells_of(bytes: &[u8], now: Timestamp) -> Vec<Value> {
        core::v1::Event::cells_of(bytes, now)
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let stored = serde_json::to_value(self).map(Self::to_stored);
        stored.and_then(serde_json::from_value::<core::v1::Event>).map(|event| event.cells(now)).unwrap_or_default()
    }

    fn to_stored(object: Value) -> Value {
        rename(object, "v1", NAMES.iter().map(|(here, core)| (*here, *core)))
    }

    fn from_stored(object: Value) -> Value {
        rename(object, "events.k8s.io/v1", NAMES.iter().map(|(here, core)| (*core, *here)))
    }
}

fn rename(mut object: Value, api_version: &str, names: impl Iterator<Item = (&'static str, &'static str)>) -> Value {
    if let Some(fields) = object.as_object_mut() {
        for (from, to) in names {
            if let Some(value) = fields.remove(from) {
                fields.insert(to.to_owned(), value);
            }
        }
        fields.insert("apiVersion".to_owned(), api_version.into());
    }
    object
}
