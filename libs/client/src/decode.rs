//! Objects as Go writes them, read into our types.
//!
//! A time that is no pointer in Go is `null` on the wire while it is zero. `k8s-openapi` holds such a field as required and refuses
//! the object, and with it the whole list it stands in.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Times that are required in `k8s-openapi`'s types: of `metav1.Condition` and of `EventSeries` in `events.k8s.io`.
const REQUIRED_TIMES: &[&str] = &["lastObservedTime", "lastTransitionTime"];

/// Go's zero time.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Decodes JSON. Only where that fails is it looked at again with Go's zero time in place of `null`.
///
/// # Errors
/// If it is no JSON, or does not fit the type with those times either.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text).or_else(|error| {
        let Ok(mut value) = serde_json::from_str(text) else { return Err(error) };
        if fill_times(&mut value) { serde_json::from_value(value) } else { Err(error) }
    })
}

/// Whether there was anything to fill.
fn fill_times(value: &mut Value) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().fold(false, |any, item| fill_times(item) | any),
        Value::Object(fields) => fields.iter_mut().fold(false, |any, (name, field)| {
            if field.is_null() && REQUIRED_TIMES.contains(&name.as_str()) {
                *field = ZERO_TIME.into();
                return true;
            }
            fill_times(field) | any
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1::Service, events::v1::Event};
    use serde_json::json;

    use super::*;

    #[test]
    fn required_times_may_be_null() {
        let service = json!({"status": {"conditions": [{"type": "A", "status": "True", "lastTransitionTime": null}]}});
        let service: Service = from_json(&service.to_string()).unwrap();
        let conditions = service.status.and_then(|status| status.conditions).unwrap();
        assert_eq!(conditions[0].last_transition_time.0.to_string(), ZERO_TIME);
        let event = json!({"eventTime": null, "series": {"count": 2, "lastObservedTime": null}});
        let event: Event = from_json(&event.to_string()).unwrap();
        assert_eq!(event.series.unwrap().last_observed_time.0.to_string(), ZERO_TIME);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let told = |text: &str| from_json::<Service>(text).unwrap_err().to_string();
        assert!(told(r#"{"spec": {"ports": 1}}"#).contains("invalid type: integer `1`"));
        let both = r#"{"spec": {"ports": 1}, "status": {"conditions": [{"lastTransitionTime": null}]}}"#;
        assert!(told(both).contains("invalid type: integer `1`"));
        assert!(told("{").contains("EOF"));
    }
}
