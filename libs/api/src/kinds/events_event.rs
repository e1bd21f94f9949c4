//! events.k8s.io/v1 Event: the core Event with other field names, stored in the core form.

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Event as Core, events::v1::Event};
use serde_json::Value;

use super::{
    event::{self, COLUMNS},
    shared::{default_to, metadata_accessors, text},
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{KindInfo, MetadataRules, Resource, Subresource},
    quoted,
};

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
        fields: &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        metadata_rules: MetadataRules::CHANGES,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        self.deprecated_source.get_or_insert_default();
        self.type_ = self.type_.take().filter(|kind| !kind.is_empty());
        default_to(&mut self.reporting_controller, "");
        default_to(&mut self.reporting_instance, "");
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let core = as_core(self);
        event::rules(&core, "reportingController", errors);
        check_series(&core, errors);
        if core.event_time.is_none() {
            errors.required("eventTime", "");
        }
        let kind = text(core.type_.as_ref());
        if !matches!(kind, "Normal" | "Warning") {
            errors.invalid("type", &"", format!("has invalid value: {kind}"));
        }
        let source = core.source.clone().unwrap_or_default();
        for (field, set) in [
            ("firstTimestamp", core.first_timestamp.is_some()),
            ("lastTimestamp", core.last_timestamp.is_some()),
            ("count", core.count.is_some_and(|count| count != 0)),
            ("source", source.component.is_some() || source.host.is_some()),
        ] {
            if set {
                errors.invalid(field, &"", "needs to be unset");
            }
        }
    }

    fn validate_update(&self, old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        let (new, old) = (as_core(self), as_core(old));
        event::rules(&new, "reportingController", errors);
        if new.series != old.series {
            check_series(&new, errors);
        }
        unchanged(&new, &old, errors);
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
        let stored = serde_json::from_slice(bytes).map(|stored| {
            let mut event = Self::from_stored(stored);
            Self::complete(&mut event);
            event
        });
        stored.and_then(serde_json::from_value::<Self>).map(|event| event.fields()).unwrap_or_default()
    }

    /// Of the stored form.
    fn cells_of(bytes: &[u8], now: Timestamp) -> Vec<Value> {
        Core::cells_of(bytes, now)
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        as_core(self).cells(now)
    }

    fn complete(object: &mut Value) {
        if let Some(series) = object.get_mut("series").and_then(Value::as_object_mut) {
            series.entry("count").or_insert_with(|| 0.into());
            let at = series.entry("lastObservedTime").or_insert(Value::Null);
            if at.is_null() {
                *at = NEVER.into();
            }
        }
    }

    fn to_stored(object: Value) -> Value {
        rename(object, "v1", NAMES.iter().map(|(here, core)| (*here, *core)))
    }

    fn from_stored(object: Value) -> Value {
        let mut object = rename(object, "events.k8s.io/v1", NAMES.iter().map(|(here, core)| (*core, *here)));
        if let Value::Object(fields) = &mut object {
            // What the other kind always says is said here if there is something to say.
            for name in ["reportingController", "reportingInstance"] {
                if fields.get(name).is_some_and(|value| value == "") {
                    fields.remove(name);
                }
            }
        }
        object
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

fn as_core(event: &Event) -> Core {
    let event = event.clone();
    Core {
        action: event.action,
        count: event.deprecated_count,
        event_time: event.event_time,
        first_timestamp: event.deprecated_first_timestamp,
        involved_object: event.regarding.unwrap_or_default(),
        last_timestamp: event.deprecated_last_timestamp,
        message: event.note,
        metadata: event.metadata,
        reason: event.reason,
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event.series.map(|series| k8s_openapi::api::core::v1::EventSeries {
            count: Some(series.count),
            last_observed_time: Some(series.last_observed_time),
        }),
        source: event.deprecated_source,
        type_: event.type_,
    }
}

/// Stands for a time that is not told where there has to be one.
const NEVER: &str = "0001-01-01T00:00:00.000000Z";

fn never() -> Option<Timestamp> {
    NEVER.parse().ok()
}

fn check_series(event: &Core, errors: &mut FieldErrors) {
    let Some(series) = &event.series else { return };
    if series.count.unwrap_or(0) < 2 {
        errors.invalid("series.count", &"", "should be at least 2");
    }
    if series.last_observed_time.as_ref().is_none_or(|at| Some(at.0) == never()) {
        errors.required("series.lastObservedTime", "");
    }
}

/// An event of the newer kind changes in nothing but its series.
fn unchanged(new: &Core, old: &Core, errors: &mut FieldErrors) {
    let at = Path::root;
    let (object, source) = (&quoted::OBJECT_REFERENCE, &quoted::EVENT_SOURCE);
    errors.immutable_object(&at("involvedObject"), Some(&new.involved_object), Some(&old.involved_object), object);
    errors.immutable(&at("reason"), &text(new.reason.as_ref()), &text(old.reason.as_ref()));
    errors.immutable(&at("message"), &text(new.message.as_ref()), &text(old.message.as_ref()));
    let of = |event: &Core| event.source.clone().unwrap_or_default();
    errors.immutable_object(&at("source"), Some(&of(new)), Some(&of(old)), source);
    errors.immutable(&at("firstTimestamp"), &new.first_timestamp, &old.first_timestamp);
    errors.immutable(&at("lastTimestamp"), &new.last_timestamp, &old.last_timestamp);
    errors.immutable(&at("count"), &new.count.unwrap_or(0), &old.count.unwrap_or(0));
    errors.immutable(&at("reason"), &text(new.reason.as_ref()), &text(old.reason.as_ref()));
    errors.immutable(&at("type"), &text(new.type_.as_ref()), &text(old.type_.as_ref()));
    errors.immutable(&at("eventTime"), &new.event_time, &old.event_time);
    errors.immutable(&at("action"), &text(new.action.as_ref()), &text(old.action.as_ref()));
    errors.immutable_object(&at("related"), new.related.as_ref(), old.related.as_ref(), object);
    errors.immutable(
        &at("reportingController"),
        &text(new.reporting_component.as_ref()),
        &text(old.reporting_component.as_ref()),
    );
    errors.immutable(
        &at("reportingInstance"),
        &text(new.reporting_instance.as_ref()),
        &text(old.reporting_instance.as_ref()),
    );
}
