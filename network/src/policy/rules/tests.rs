//! Decisions as text: what a policy makes of a node with three pods.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::*;

fn pod(namespace: &str, name: &str, address: &str, local: bool) -> Pod {
    Pod {
        namespace: namespace.into(),
        name: name.into(),
        labels: [("pod".to_owned(), name.to_owned())].into(),
        address: address.parse().unwrap(),
        local,
        ports: vec![("web".into(), Protocol::Tcp, 8080)],
    }
}

fn view(specs: &[Value]) -> View {
    let policy = |spec: &Value| {
        let policy = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": spec});
        Arc::new(serde_json::from_value::<NetworkPolicy>(policy).unwrap())
    };
    let labels = |name: &str| (name.to_owned(), [("ns".to_owned(), name.to_owned())].into());
    View {
        policies: specs.iter().map(policy).collect(),
        pods: vec![pod("x", "a", "10.42.0.2", true), pod("x", "b", "10.42.1.2", false), pod("y", "a", "10.42.0.3", true)],
        namespaces: [labels("x"), labels("y")].into(),
        own: "10.42.0.0/24".parse().ok(),
    }
}

/// The rules of the chain of x/a, with other chains' rules in place of jumps to them.
fn of_a(specs: &[Value], letter: &str) -> Vec<String> {
    let chains = rules(&view(specs));
    let name = format!("KNARR-{letter}-{:016x}", net::hash("x/a"));
    let Some(chain) = chains.get(&name) else { return vec!["no chain".into()] };
    let inner = &chain.then[2..chain.then.len() - 2];
    let open = |rule: &String| match rule.split_once("-j KNARR-") {
        None => rule.clone(),
        Some((text, target)) => {
            let target = &chains[&format!("KNARR-{target}")];
            let inside: Vec<&str> = target.set.iter().chain(&target.then).map(String::as_str).collect();
            format!("{text}[{}]", inside.join(", ").replace(&format!(" {MARK}"), ""))
        }
    };
    inner.iter().map(open).collect()
}

#[test]
fn no_policies_no_rules() {
    assert_eq!(rules(&view(&[])), Chains::new());
}

#[test]
fn the_pods_of_other_namespaces_stay_free_and_strangers_wait() {
    let chains = rules(&view(&[json!({"podSelector": {}, "policyTypes": ["Ingress"]})]));
    let chain = format!("KNARR-I-{:016x}", net::hash("x/a"));
    let expected = Chain {
        set: [format!("-d 10.42.0.2/32 -g {chain}"), "-d 10.42.0.3/32 -j RETURN".to_owned()].into(),
        then: vec!["-d 10.42.0.0/24 -j DROP".to_owned()],
    };
    assert_eq!(chains[INGRESS], expected);
    let denied = ["-s 10.42.0.2/32 -j RETURN", UNMARK, MARKED, "-j DROP"].map(str::to_owned).to_vec();
    assert_eq!(chains[&chain], Chain { then: denied, ..Chain::default() });
    assert!(!chains.keys().any(|name| name.starts_with("KNARR-E-")));
}

#[test]
fn types_are_defaulted_from_what_is_there() {
    let none = ["no chain".to_owned()];
    assert_eq!(of_a(&[json!({"podSelector": {}})], "E"), none);
    assert_eq!(of_a(&[json!({"podSelector": {}})], "I"), Vec::<String>::new());
    assert_eq!(of_a(&[json!({"podSelector": {}, "egress": [{}]})], "E"), ["-j RETURN"]);
    assert_eq!(of_a(&[json!({"podSelector": {"matchLabels": {"pod": "b"}}})], "I"), none);
}

#[test]
fn peers_are_pods_namespaces_both_or_ranges() {
    let from = |peer: Value| of_a(&[json!({"podSelector": {}, "ingress": [{"from": [peer]}]})], "I");
    assert_eq!(from(json!({"podSelector": {"matchLabels": {"pod": "b"}}})), ["[-s 10.42.1.2/32]"]);
    assert_eq!(from(json!({"namespaceSelector": {"matchLabels": {"ns": "y"}}})), ["[-s 10.42.0.3/32]"]);
    let both = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "a"}}});
    assert_eq!(from(both), ["[-s 10.42.0.2/32, -s 10.42.0.3/32]"]);
    assert_eq!(from(json!({"ipBlock": {"cidr": "10.1.2.3/8"}})), ["-s 10.0.0.0/8 -j RETURN"]);
    let holes = json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.42.1.0/24"]}});
    // What is left is marked.
    assert_eq!(from(holes), ["[-s 10.42.1.0/24 -j RETURN,]"]);
    assert_eq!(from(json!({"ipBlock": {"cidr": "fd00::/8"}})), Vec::<String>::new());
}

#[test]
fn ports_have_numbers_names_ranges_and_protocols() {
    let ports = |direction: &str, letter: &str, ports: Value| {
        of_a(&[json!({"podSelector": {}, direction: [{"ports": ports}]})], letter)
    };
    let tcp = |rest: &str| format!("-p tcp -m tcp --dport {rest} -j RETURN");
    let numbers = json!([{"port": 80}, {"port": 81, "endPort": 90}, {"protocol": "UDP", "port": 53}, {"protocol": "SCTP"}]);
    let expected = [tcp("80"), tcp("81:90"), "-p udp -m udp --dport 53 -j RETURN".into(), "-p sctp -j RETURN".into()];
    assert_eq!(ports("ingress", "I", numbers), expected);
    // The pod's own port, and nothing at all for names that it does not have.
    assert_eq!(ports("ingress", "I", json!([{"port": "web"}])), [tcp("8080")]);
    assert_eq!(ports("ingress", "I", json!([{"port": "other"}])), Vec::<String>::new());
    // Everybody's port of that name.
    let all = ["10.42.0.2", "10.42.0.3", "10.42.1.2"].map(|ip| format!("-d {ip}/32 -p tcp -m tcp --dport 8080"));
    assert_eq!(ports("egress", "E", json!([{"port": "web"}])), [format!("[{}]", all.join(", "))]);
}

#[test]
fn policies_unite_and_a_new_label_is_one_line() {
    let allow =
        |from: &str| json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": from}}}]}]});
    let specs = [json!({"podSelector": {}}), allow("b"), allow("c")];
    assert_eq!(of_a(&specs, "I"), ["[-s 10.42.1.2/32]", "[]"]);
    let before = rules(&view(&specs));
    let mut later = view(&specs);
    later.pods[1].labels.insert("pod".into(), "c".into());
    let change = crate::policy::table::change(&before, &rules(&later)).unwrap();
    let lines: Vec<&str> = change.lines().filter(|line| line.starts_with('-')).collect();
    let words: Vec<String> = lines
        .iter()
        .map(|line| line.split(' ').enumerate().filter(|(n, _)| *n != 1).map(|(_, w)| w).collect::<Vec<_>>().join(" "))
        .collect();
    let mark = format!("-s 10.42.1.2/32 {MARK}");
    let mut expected = vec![format!("-D {mark}"), format!("-I {mark}")];
    let mut words = words;
    words.sort();
    expected.sort();
    assert_eq!((words, change.lines().count()), (expected, 4));
}
