//! A selector's text as the `LabelSelector` of an object.

use api::selector::{Operator, Selector};
use serde_json::{Map, Value, json};

/// `a=b,c in (d, e),f` with `=` as matchLabels and the rest as matchExpressions.
///
/// # Errors
/// What upstream says of it.
pub fn label_selector(text: &str) -> Result<Value, String> {
    let selector = Selector::parse(text)
        .map_err(|error| format!("couldn't parse the selector string {}: {}", api::field::go_quote(text), error.0))?;
    let (mut labels, mut expressions) = (Map::new(), Vec::new());
    for requirement in selector.requirements() {
        let (key, values) = (&requirement.key, &requirement.values);
        let operator = match requirement.operator {
            Operator::Equals | Operator::DoubleEquals => {
                labels.insert(key.clone(), json!(values.first()));
                continue;
            }
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::NotEquals => return Err("\"!=\" is not a valid label selector operator".to_owned()),
            Operator::GreaterThan => return Err("\"gt\" is not a valid label selector operator".to_owned()),
            Operator::LessThan => return Err("\"lt\" is not a valid label selector operator".to_owned()),
        };
        let mut expression = json!({"key": key, "operator": operator});
        if !values.is_empty() {
            expression["values"] = json!(values);
        }
        expressions.push(expression);
    }
    let mut out = Map::new();
    if !labels.is_empty() {
        out.insert("matchLabels".to_owned(), Value::Object(labels));
    }
    if !expressions.is_empty() {
        out.insert("matchExpressions".to_owned(), Value::Array(expressions));
    }
    Ok(Value::Object(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_is_labels_and_the_rest_expressions() {
        assert_eq!(
            label_selector("a=b,c in (d),!f").unwrap(),
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["d"]}, {"key": "f", "operator": "DoesNotExist"}]})
        );
        assert_eq!(
            label_selector("==").unwrap_err(),
            "couldn't parse the selector string \"==\": found '==', expected: !, identifier, or 'end of string'"
        );
    }
}
