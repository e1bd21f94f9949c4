use proptest::prelude::*;
use serde_json::json;

use super::*;

fn nodes() -> Value {
    json!({
        "kind": "List",
        "items": [
            {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1"}},
             "status": {"capacity": {"cpu": "4"}, "ready": true, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}]}},
            {"kind": "None", "metadata": {"name": "127.0.0.2", "labels": {"kubernetes.io/hostname": "127.0.0.2"}},
             "status": {"capacity": {"cpu": "8"}, "ready": false, "addresses": [
                {"type": "LegacyHostIP", "address": "127.0.0.2"}, {"type": "another", "address": "127.0.0.3"}]}}
        ],
        "users": [{"name": "myself", "user": {}}, {"name": "e2e", "user": {"username": "admin", "password": "secret"}}],
        "numbers": [1, 2, 3, 4],
        "floats": [1.0, 2.5],
        "nothing": null,
        "html": {"a": "1<2"}
    })
}

fn run(template: &str) -> Result<String, String> {
    let parsed = JsonPath::parse(template).map_err(|e| e.0)?;
    parsed.execute(&nodes()).map_err(|e| e.0)
}

#[test]
fn prints_what_kubectl_prints() {
    for (template, want) in [
        ("plain", "plain"),
        ("{range .items[*]}{.metadata.name}, {end}{.kind}", "127.0.0.1, 127.0.0.2, List"),
        ("{range .items[*]}{.metadata.name}{\"\\t\"}{end}", "127.0.0.1\t127.0.0.2\t"),
        ("{.items[*].status.addresses[*].address}", "127.0.0.1 127.0.0.2 127.0.0.3"),
        ("{range .items[*]}{range .status.addresses[*]}{.address}, {end}{end}", "127.0.0.1, 127.0.0.2, 127.0.0.3, "),
        ("{.items[*]['metadata.name', 'status.capacity']}", "127.0.0.1 127.0.0.2 {\"cpu\":\"4\"} {\"cpu\":\"8\"}"),
        (
            "{range .items[*]}[{.metadata.name}, {.status.capacity}] {end}",
            "[127.0.0.1, {\"cpu\":\"4\"}] [127.0.0.2, {\"cpu\":\"8\"}] ",
        ),
        ("{.users[?(@.name==\"e2e\")].user.password}", "secret"),
        ("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "127.0.0.1"),
        ("{.items[?(@.metadata.labels.kubernetes\\.io/hostname==\"127.0.0.1\")].kind}", "None"),
        ("{.items[?(@.status.ready==true)].metadata.name}", "127.0.0.1"),
        ("{.numbers}", "[1,2,3,4]"),
        ("{.numbers[-1]}", "4"),
        ("{.numbers[:2]}", "1 2"),
        ("{.numbers[::2]}", "1 3"),
        ("{.numbers[-2:]}", "3 4"),
        ("{.numbers[1,3]}", "2 4"),
        ("{.numbers[?(@>2)]}", "3 4"),
        ("{.floats}", "[1,2.5]"),
        ("{..password}", "secret"),
        ("{.nothing}", "null"),
        ("{.html}", "{\"a\":\"1\\u003c2\"}"),
        ("{1}{1.5}{true}{'x'}", "11.5truex"),
        ("{[\"kind\"]}", "ERR"),
    ] {
        match run(template) {
            Ok(got) => assert_eq!(got, want, "{template}"),
            Err(_) => assert_eq!("ERR", want, "{template}"),
        }
    }
}

#[test]
fn errors_are_client_gos() {
    for (template, want) in [
        ("{hello}", "unrecognized identifier hello"),
        ("{.hello}", "hello is not found"),
        ("{.html[0]}", "map[string]interface {} is not array or slice"),
        ("{.numbers[?(@<>10)]}", "unrecognized filter operator <>"),
        ("{range .items[*]}{@}{end}{end}", "not in range, nothing to end"),
        ("{.numbers[4]}", "array index out of bounds: index 4, length 4"),
        ("{.html[?(@.x)]}", "map[a:1<2] is not array or slice and cannot be filtered"),
        ("{&}", "unrecognized character in action: U+0026 '&'"),
        ("{.a", "unclosed action"),
        ("{[}", "unterminated array"),
        ("{.a[\"b\"]}", "invalid array index \"b\""),
        ("{....x}", "invalid multiple recursive descent"),
        ("{\"a}", "unterminated quoted string"),
        ("{.items[?(@.kind==1)]}", "incompatible types for comparison"),
    ] {
        assert_eq!(run(template), Err(want.to_owned()), "{template}");
    }
}

#[test]
fn missing_keys_may_be_nothing() {
    let path = JsonPath::parse("before-{.hello}after{range .none[*]}{.x}{end}").unwrap().allow_missing_keys(true);
    assert_eq!(path.execute(&nodes()).unwrap(), "before-after");
}

#[test]
fn relaxed_forms() {
    for form in ["{.kind}", "{kind}", ".kind", "kind"] {
        assert_eq!(JsonPath::parse_relaxed(form).unwrap().execute(&nodes()).unwrap(), "List", "{form}");
    }
    assert!(relaxed("{a}{b}").is_err());
}

#[test]
fn as_json() {
    let path = JsonPath::parse("{.numbers[:2]}").unwrap();
    assert_eq!(path.execute_as_json(&nodes()).unwrap(), "[\n    1,\n    2\n]\n");
    assert_eq!(go_format(&json!({"b": [1, "x"], "a": null})), "map[a:<nil> b:[1 x]]");
}

proptest! {
    #![proptest_config(crate::testing::cases(3000))]

    #[test]
    fn never_panics(template in "\\PC{0,30}|\\{[a-c.@$*\\[\\]?()<>=!'\"\\\\0-9:,-]{0,25}\\}|\\{\\.numbers\\[-?[0-9]{0,20}:?-?[0-9]{0,20}:?-?[0-9]{0,3}\\]\\}") {
        if let Ok(path) = JsonPath::parse(&template) {
            let _ = path.execute(&nodes());
        }
    }
}
