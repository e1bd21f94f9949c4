//! core/v1 Event. events.k8s.io/v1 Events (`events_event`) are stored in this kind's form.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{column, wide},
    default_to, metadata_accessors, text,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{Column, KindInfo, MetadataRules, NameRule, Resource},
    names,
};

/// The type of this kind.
pub type Served = Event;

/// Columns of both kinds of events.
pub const COLUMNS: &[Column] = &[
    column("Last Seen", "string", "Time since it last happened."),
    column("Type", "string", "Normal or Warning."),
    column("Reason", "string", "What happened, in a word."),
    column("Object", "string", "What it happened to."),
    wide("Subobject", "string", "The part of the object."),
    wide("Source", "string", "Who reports it."),
    column("Message", "string", "What happened, in a sentence."),
    wide("First Seen", "string", "Time since it first happened."),
    wide("Count", "string", "How often it happened."),
    Column { name: "Name", kind: "string", format: "name", description: "The event's name.", priority: 1 },
];

impl Resource for Event {
    const INFO: KindInfo = KindInfo {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        // As upstream: only the newer kind's names have a grammar.
        name_rule: NameRule::AnySegment,
        columns: COLUMNS,
        ttl_seconds: Some(3600),
        relaxed_durability: true,
        create_on_update: true,
        garbage_collected: false,
        fields: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        metadata_rules: MetadataRules { on_create: false, as_new: 0, against_old: 0, known_finalizers: false },
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        self.source.get_or_insert_default();
        self.type_ = self.type_.take().filter(|kind| !kind.is_empty());
        default_to(&mut self.reporting_component, "");
        default_to(&mut self.reporting_instance, "");
    }

    fn validate(&self, errors: &mut FieldErrors) {
        rules(self, "reportingComponent", errors);
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let object = &self.involved_object;
        let source = text(self.source.as_ref().and_then(|source| source.component.as_ref()));
        let reporter = text(self.reporting_component.as_ref());
        let own = |field: &Option<String>| field.clone().unwrap_or_default();
        vec![
            ("involvedObject.kind", own(&object.kind)),
            ("involvedObject.namespace", own(&object.namespace)),
            ("involvedObject.name", own(&object.name)),
            ("involvedObject.uid", own(&object.uid)),
            ("involvedObject.apiVersion", own(&object.api_version)),
            ("involvedObject.resourceVersion", own(&object.resource_version)),
            ("involvedObject.fieldPath", own(&object.field_path)),
            ("reason", own(&self.reason)),
            ("reportingComponent", reporter.to_owned()),
            ("source", if source.is_empty() { reporter } else { source }.to_owned()),
            ("type", own(&self.type_)),
        ]
    }

    fn fields_of(bytes: &[u8]) -> Vec<(&'static str, String)> {
        serde_json::from_slice::<Self>(bytes).map(|event| event.fields()).unwrap_or_default()
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let first = match &self.first_timestamp {
            Some(time) => cells::since(Some(time), now),
            None => cells::since_micro(self.event_time.as_ref(), now),
        };
        let mut last = match &self.last_timestamp {
            Some(time) => cells::since(Some(time), now),
            None => first.clone(),
        };
        // A single event of the newer kind has no count.
        let mut count = self.count.filter(|count| *count != 0).unwrap_or(1);
        if let Some(series) = &self.series {
            last = cells::since_micro(series.last_observed_time.as_ref(), now);
            count = series.count.unwrap_or(0);
        }
        let object = &self.involved_object;
        let kind = text(object.kind.as_ref()).to_lowercase();
        let target = match text(object.name.as_ref()) {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        vec![
            last.into(),
            text(self.type_.as_ref()).into(),
            text(self.reason.as_ref()).into(),
            target.into(),
            text(object.field_path.as_ref()).into(),
            source(self).into(),
            text(self.message.as_ref()).trim().into(),
            first.into(),
            count.into(),
            cells::name(&self.metadata),
        ]
    }
}

fn source(event: &Event) -> String {
    let or = |first: Option<&String>, second: &Option<String>| match text(first) {
        "" => text(second.as_ref()).to_owned(),
        first => first.to_owned(),
    };
    let source = event.source.as_ref();
    let component = or(source.and_then(|s| s.component.as_ref()), &event.reporting_component);
    let instance = or(source.and_then(|s| s.host.as_ref()), &event.reporting_instance);
    if instance.is_empty() { component } else { format!("{component}, {instance}") }
}

/// Rules that both kinds of events share. Events with an `eventTime` are of the newer kind, whoever sends them.
pub(super) fn rules(event: &Event, reporter_field: &str, errors: &mut FieldErrors) {
    let own = text(event.metadata.namespace.as_ref());
    let of_object = text(event.involved_object.namespace.as_ref());
    let cluster_scoped = of_object.is_empty();
    let newer = event.event_time.is_some();
    let fits = match (newer, cluster_scoped) {
        (false, true) => matches!(own, "" | "default"),
        (false, false) => own == of_object,
        (true, true) => matches!(own, "default" | "kube-system"),
        (true, false) => true,
    };
    if !fits {
        errors.invalid("involvedObject.namespace", &of_object, "does not match event.namespace");
    }
    if newer {
        let path = Path::root(reporter_field);
        let reporter = text(event.reporting_component.as_ref());
        errors.non_empty(&path, reporter);
        errors.each(&path, reporter, names::qualified_name(reporter));
        for (field, value, max) in [
            ("reportingInstance", &event.reporting_instance, 128),
            ("action", &event.action, 128),
            ("reason", &event.reason, 128),
        ] {
            let value = text(value.as_ref());
            errors.non_empty(&Path::root(field), value);
            too_long(field, value, max, errors);
        }
        too_long("message", text(event.message.as_ref()), 1024, errors);
    }
    errors.each(&Path::root("namespace"), own, names::dns1123_subdomain(own));
}

fn too_long(field: &str, value: &str, max: usize, errors: &mut FieldErrors) {
    if value.len() > max {
        errors.invalid(field, &"", format!("can have at most {max} characters"));
    }
}
