//! Hostile input for everything that reads what clients send: bodies in JSON, YAML and protobuf, patches, selectors,
//! quantities, templates, and each kind's decisions. Nothing may panic, and what was understood must mean the same when it is
//! written and read again.
//!
//! Inputs are mutations of a corpus (the golden objects), by bytes and by structure. A run is bounded by
//! `KNARR_FUZZ_SECONDS` (default 4); every case follows from `KNARR_FUZZ_SEED` and its number. What panics is made smaller as
//! long as it still does, and left in a file whose name the failure tells.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    time::{Duration, Instant},
};

use knarr_api::{
    duration, jsonpath,
    kind::{Context, Requester},
    kinds,
    patch::{Patch, PatchType},
    protobuf,
    quantity::{self, Quantity},
    schema::{FieldValidation, MediaType, body, check, table},
    selector::{FieldSelector, Selector},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

type Check = Box<dyn Fn(&[u8])>;

/// Something that reads bytes: its name, what its inputs are made of, and what must hold for any bytes.
struct Target {
    name: &'static str,
    corpus: Vec<Vec<u8>>,
    /// Whether the corpus is JSON, to be mutated by structure too.
    structured: bool,
    run: Check,
}

fn golden() -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/kinds");
    let read = |file: &&str| {
        let text = std::fs::read_to_string(format!("{folder}/{file}.json")).expect("a golden object");
        let golden: Value = serde_json::from_str(&text).expect("JSON");
        let mut stored = golden["stored"].clone();
        if let Some(status) = golden.get("status") {
            stored["status"] = status.clone();
        }
        [golden["input"].clone(), stored]
    };
    kinds::FILES.iter().flat_map(read).collect()
}

fn bytes(values: &[Value]) -> Vec<Vec<u8>> {
    values.iter().map(|v| v.to_string().into_bytes()).collect()
}

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().map(|l| l.as_bytes().to_vec()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn type_of(object: &Value) -> Option<table::TypeId> {
    let part = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = part("apiVersion").split_once('/').unwrap_or(("", part("apiVersion")));
    table::table().by_kind(group, version, part("kind"))
}

fn bodies(media: MediaType) -> impl Fn(&[u8]) {
    let pod = table::table().by_kind("", "v1", "Pod").expect("pods");
    move |input| {
        let Ok((value, repeated)) = body::parse(input, media, None) else { return };
        let ty = type_of(&value).unwrap_or(pod);
        let Ok(decoded) = body::conform(value, repeated, ty, FieldValidation::Warn) else { return };
        let again = body::decode(decoded.object.to_string().as_bytes(), MediaType::Json, ty, FieldValidation::Strict);
        assert_eq!(again.map(|d| d.object), Ok(decoded.object), "what was accepted is accepted again");
    }
}

fn patches(kind: PatchType, objects: Vec<Value>) -> impl Fn(&[u8]) {
    move |input| {
        let Ok((patch, _)) = Patch::parse(kind, input) else { return };
        for object in &objects {
            if let Ok(mut patched) = patch.apply(object, type_of(object)) {
                let _ = type_of(object).map(|ty| check::check(&mut patched, ty));
            }
        }
    }
}

fn decisions() -> impl Fn(&[u8]) {
    let kinds = kinds::all();
    let old: Vec<Value> = golden().into_iter().skip(1).step_by(2).collect();
    move |input| {
        let context =
            Context { now: "2026-01-02T03:04:05Z".parse().expect("a time"), user: "fuzz", requester: Requester::UNKNOWN };
        let Ok((value, _)) = body::parse(input, MediaType::Json, None) else { return };
        let named = value.get("kind").cloned().unwrap_or_default();
        for (kind, old) in kinds.iter().zip(&old).filter(|(k, _)| named == k.info.kind) {
            let Some(ty) = type_of(old) else { continue };
            let Ok(decoded) = body::conform(value.clone(), Vec::new(), ty, FieldValidation::Ignore) else { continue };
            if let Ok(made) = kind.hooks.create(decoded.object.clone(), &context) {
                let bytes = made.object.to_string();
                kind.hooks.cells_from_bytes(bytes.as_bytes(), context.now);
                kind.hooks.fields_from_bytes(bytes.as_bytes());
                let again = kind.hooks.default(made.object.clone()).expect("what was admitted can be read");
                assert_eq!(again, made.object, "defaults are set once");
            }
            for at in [None, Some(knarr_api::kind::Subresource::Status)] {
                let _ = kind.hooks.update(decoded.object.clone(), old, at, &context);
            }
        }
    }
}

fn quantities(input: &[u8]) {
    if let Ok(canonical) = quantity::canonical(&text(input)) {
        assert_eq!(quantity::canonical(&canonical), Ok(canonical.clone()));
        let read: Quantity = canonical.parse().expect("canonical quantities parse");
        let _ = (read.value(), read.milli_value(), read.scaled_value(-3), read.as_f64(), read.negated());
    }
    let _ = duration::parse_go(&text(input)).map(|d| (duration::human(d), duration::go_string(d)));
}

fn selectors(input: &[u8]) {
    let input = text(input);
    if let Ok(selector) = Selector::parse(&input) {
        let printed = selector.to_string();
        assert_eq!(Selector::parse(&printed).map(|s| s.to_string()), Ok(printed));
        selector.matches_with(|key| (key.len() % 2 == 0).then_some("1"));
    }
    if let Ok(selector) = FieldSelector::parse(&input) {
        selector.matches_with(|_| Some("x"));
    }
}

fn templates(object: Value) -> impl Fn(&[u8]) {
    move |input| {
        let input = text(input);
        for parsed in [jsonpath::JsonPath::parse(&input), jsonpath::JsonPath::parse_relaxed(&input)].into_iter().flatten() {
            let _ = (parsed.execute(&object), parsed.execute_as_json(&object));
        }
    }
}

fn protobufs(input: &[u8]) {
    if let Ok(object) = protobuf::decode(input, None)
        && let Ok(written) = protobuf::encode(&object)
    {
        assert_eq!(protobuf::decode(&written, None), Ok(object), "protobuf is read as it was written");
    }
    let _ = protobuf::read_watch_frame(input);
}

fn targets() -> Vec<Target> {
    let golden = golden();
    let json = bytes(&golden);
    let target =
        |name, corpus: &[Vec<u8>], structured, run: Check| Target { name, corpus: corpus.to_vec(), structured, run };
    let yaml = lines(
        "a: {b: [1, ~, 0644, 'x']}\n- &a {k: v}\n? x\n{metadata: {name: a, labels: {a: b, a: c}}}\n\"\\u00e9\": !!str 1\n--- |\n<<: *a\n1e3: .inf",
    );
    let yaml: Vec<_> = yaml.into_iter().chain(json.iter().take(12).cloned()).collect();
    let written: Vec<_> = golden.iter().filter_map(|o| protobuf::encode(o).ok()).collect();
    let merge = bytes(&[
        json!({"metadata": {"labels": {"a": null}}, "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}}),
        json!({"data": {"k": "v"}, "$patch": "replace", "spec": {"ports": [{"port": 80, "$patch": "delete"}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "$retainKeys": ["name"]}], "$deleteFromPrimitiveList/finalizers": ["x"]}}),
        golden[0].clone(),
    ]);
    let operations = bytes(&[
        json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": 1}, {"op": "remove", "path": "/spec/ports/0"}]),
        json!([{"op": "move", "from": "/a", "path": "/b/-"}, {"op": "test", "path": "", "value": {}}, {"op": "copy", "from": "/spec", "path": "/spec/x"}]),
        json!([{"op": "replace", "path": "/spec/ports/0/port", "value": {"a": [1]}}]),
    ]);
    let some: Vec<Value> = golden.iter().skip(1).step_by(6).cloned().collect();
    let pod = golden.iter().rfind(|o| o["kind"] == "Pod").cloned().unwrap_or_default();
    vec![
        target("json", &json, true, Box::new(bodies(MediaType::Json))),
        target("yaml", &yaml, false, Box::new(bodies(MediaType::Yaml))),
        target("protobuf", &written, false, Box::new(protobufs)),
        target("merge-patch", &merge, true, Box::new(patches(PatchType::Merge, some.clone()))),
        target("strategic-patch", &merge, true, Box::new(patches(PatchType::Strategic, some.clone()))),
        target("json-patch", &operations, true, Box::new(patches(PatchType::Json, some))),
        target("kinds", &json, true, Box::new(decisions())),
        target(
            "quantities",
            &lines("1\n0.5\n100m\n1Gi\n-3.25e3\n9223372036854775807\n1E\n.5Ki\n1h2m3.5s\n-5ms\n0n"),
            false,
            Box::new(quantities),
        ),
        target(
            "selectors",
            &lines("a=b,c!=d\na in (x,y),!b\nx notin (),y\nn>3,m<2\nspec.nodeName=a\\,b,c==d\na.b/c exists"),
            false,
            Box::new(selectors),
        ),
        target(
            "templates",
            &lines(
                "{.items[*].metadata.name}\n{range .spec.containers[?(@.name==\"c\")]}{.image}{\"\\n\"}{end}\n{..name}\n.spec[0:2:1]\n{.a['b','c']}\n{.x[-1:]}\n{@}",
            ),
            false,
            Box::new(templates(pod)),
        ),
    ]
}

const ODD: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "1e400",
    "9223372036854775808",
    "-9223372036854775808",
    "2147483648",
    "0.1",
    "\"\"",
    "\"\\u0000\"",
    "\"a/b/c\"",
    "\"-\"",
    "\"1Gi\"",
    "\"2026-13-01T00:00:00Z\"",
    "\"9999-12-31T23:59:59Z\"",
    "\"0001-01-01T00:00:00Z\"",
    "[]",
    "{}",
    "[null]",
    "{\"\":null}",
    "\"=\"",
    "\"é\"",
    "\"255.255.255.255/33\"",
    "\"::1\"",
    "\"100%\"",
    "\"-5%\"",
];

fn odd(rng: &mut StdRng) -> Value {
    let text = ODD.choose(rng).copied().unwrap_or("null");
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Changes one thing somewhere in a value.
fn change(value: &mut Value, rng: &mut StdRng) {
    match value {
        Value::Object(map) if !map.is_empty() && rng.random_bool(0.85) => {
            let key = map.keys().nth(rng.random_range(0..map.len())).cloned().unwrap_or_default();
            match rng.random_range(0..10) {
                0 => {
                    map.remove(&key);
                }
                1 => {
                    let taken = map.remove(&key).unwrap_or_default();
                    map.insert(format!("{key}x"), taken);
                }
                _ => change(&mut map[&key], rng),
            }
        }
        Value::Array(items) if !items.is_empty() && rng.random_bool(0.85) => {
            let at = rng.random_range(0..items.len());
            match rng.random_range(0..8) {
                0 => {
                    items.remove(at);
                }
                1 => items.push(items[at].clone()),
                _ => change(&mut items[at], rng),
            }
        }
        other => {
            *other = match rng.random_range(0..6) {
                0 => Value::Array(vec![other.take()]),
                1 => Value::Object(Map::from_iter([("name".to_owned(), other.take())])),
                _ => odd(rng),
            }
        }
    }
}

/// Changes some bytes, with pieces of `other` among them.
fn scramble(input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        let end = rng.random_range(at..=input.len().min(at + 12));
        match rng.random_range(0..6) {
            0 => {
                input.drain(at..end);
            }
            1 => input.insert(at, rng.random()),
            2 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            3 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            4 if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                let piece = other[from..other.len().min(from + rng.random_range(1..40))].to_vec();
                input.splice(at..end, piece);
            }
            _ => {
                let piece = ODD.choose(rng).copied().unwrap_or_default();
                input.splice(at..end, piece.bytes());
            }
        }
    }
}

fn input(target: &Target, rng: &mut StdRng) -> Vec<u8> {
    let mut input = target.corpus.choose(rng).cloned().unwrap_or_default();
    if target.structured && rng.random_bool(0.8) {
        let mut value: Value = serde_json::from_slice(&input).unwrap_or_default();
        for _ in 0..rng.random_range(1..8) {
            change(&mut value, rng);
        }
        return value.to_string().into_bytes();
    }
    let other = target.corpus.choose(rng).cloned().unwrap_or_default();
    scramble(&mut input, &other, rng);
    input
}

thread_local! {
    /// What the last panic said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

fn panics(target: &Target, input: &[u8]) -> bool {
    panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err()
}

/// The input with as much taken out as leaves it panicking.
fn shrink(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let until = Instant::now() + Duration::from_secs(10);
    let mut size = input.len() / 2;
    while size > 0 && Instant::now() < until {
        let mut at = 0;
        while at < input.len() && Instant::now() < until {
            let mut smaller = input.clone();
            smaller.drain(at..(at + size).min(input.len()));
            if panics(target, &smaller) {
                input = smaller;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    input
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_that_clients_send_is_too_much() {
    let (seed, seconds) = (setting("KNARR_FUZZ_SEED", 0x6b6e), setting("KNARR_FUZZ_SECONDS", 4));
    println!("KNARR_FUZZ_SEED={seed} KNARR_FUZZ_SECONDS={seconds}");
    panic::set_hook(Box::new(|info| SAID.with(|said| *said.borrow_mut() = info.to_string())));
    let targets = targets();
    let started = Instant::now();
    let mut found = None;
    let mut cases = 0u64;
    'run: while started.elapsed() < Duration::from_secs(seconds) {
        for (at, target) in targets.iter().enumerate() {
            let mut rng = StdRng::seed_from_u64(seed ^ (cases << 8) ^ at as u64);
            let input = input(target, &mut rng);
            if panics(target, &input) {
                found = Some((target, shrink(target, input)));
                break 'run;
            }
        }
        cases += 1;
    }
    if let Some((target, input)) = &found {
        // Says of the smallest input what it does.
        panics(target, input);
    }
    let _ = panic::take_hook();
    println!("{cases} cases of each of {} targets", targets.len());
    if let Some((target, input)) = found {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}-{seed}-{cases}", target.name));
        std::fs::write(&file, &input).expect("the file can be written");
        let said = SAID.with(|said| said.borrow().clone());
        panic!("{}: case {cases} of seed {seed}, kept in {}: {:?}\n{said}", target.name, file.display(), text(&input));
    }
}
