//! Lists of plugins: Debian's own with real packets, and scripts that tell what they were told.

use std::{
    collections::HashSet,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use knarr_cni::{List, Outcome, Plugins, Pod, Result, Settings};
use net::{
    netns,
    testing::{Scene, call, run, serve, wire},
};
use serde_json::{Value, json};

/// Where Debian's package has its plugins.
const DEBIAN: &str = "/usr/lib/cni";

fn settings(folder: &Path, bin_dir: &Path) -> Settings {
    Settings {
        conf_dir: folder.join("net.d"),
        bin_dirs: vec!["/nowhere".into(), bin_dir.to_owned()],
        state: folder.join("pods"),
        namespace: None,
        patience: Duration::from_secs(60),
    }
}

fn pod(id: &str, namespace: &Path) -> Pod {
    Pod {
        id: id.to_owned(),
        namespace: namespace.to_owned(),
        arguments: vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "web".into())],
        ..Pod::default()
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_plugins_connect_pods_and_leave_nothing() {
    let mut scene = Scene::new();
    let [node, a, b, outside] = ["node", "a", "b", "outside"].map(|name| scene.namespace(name));
    wire(&node, Ipv4Addr::new(172, 30, 0, 2), &outside, Ipv4Addr::new(172, 30, 0, 1)).await;
    let settings = Settings { namespace: Some(node.clone()), ..settings(scene.folder(), Path::new(DEBIAN)) };
    let leases = scene.folder().join("leases");
    fs::create_dir(&settings.conf_dir).unwrap();
    let list = json!({"cniVersion": "1.0.0", "name": "debian", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "capabilities": {"ipRanges": true},
         "ipam": {"type": "host-local", "dataDir": leases, "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "loopback"}]});
    fs::write(settings.conf_dir.join("10-debian.conflist"), list.to_string()).unwrap();
    let plugins = Plugins::new(settings.clone());
    let list = plugins.list().unwrap().unwrap();
    let told = |host_port: Option<u16>| {
        let mut told = json!({"ipRanges": [[{"subnet": "10.88.0.0/24"}]]});
        if let Some(port) = host_port {
            told["portMappings"] = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        }
        told.as_object().unwrap().clone()
    };
    let mut connected = Vec::new();
    for (id, namespace, port) in [("a", &a, None), ("b", &b, Some(8088))] {
        let pod = Pod { capabilities: told(port), ..pod(id, namespace) };
        connected.extend(plugins.add(&list, pod).await.unwrap().addresses);
    }
    // Debian's portmap finds no fault with pods without ports only.
    plugins.check("a", &a).await.unwrap();
    serve(&b, 80);
    serve(&outside, 81);
    let (b_address, node_address) = (Ipv4Addr::new(10, 88, 0, 3), Ipv4Addr::new(172, 30, 0, 2));
    let seen = (
        connected.iter().map(ToString::to_string).collect::<Vec<_>>(),
        call(&a, b_address, 80).unwrap(),
        call(&node, b_address, 80).unwrap(),
        // Masqueraded.
        call(&a, Ipv4Addr::new(172, 30, 0, 1), 81).unwrap(),
        call(&outside, node_address, 8088).unwrap(),
        call(&a, node_address, 8088).is_ok(),
    );
    let text = str::to_owned;
    let expected = (
        vec![text("10.88.0.2"), text("10.88.0.3")],
        text("10.88.0.2"),
        text("10.88.0.1"),
        text("172.30.0.2"),
        text("172.30.0.1"),
        true,
    );
    assert_eq!(seen, expected);

    // Another process, another configuration: what there was is undone as it was done. One pod's processes have all ended.
    fs::remove_file(settings.conf_dir.join("10-debian.conflist")).unwrap();
    let plugins = Plugins::new(settings);
    run(&a, "ip route del default").unwrap();
    assert!(plugins.check("a", &a).await.is_err());
    plugins.delete("a", Some(&a)).await.unwrap();
    plugins.delete("b", None).await.unwrap();
    plugins.delete("b", None).await.unwrap();

    let rules = run(&node, "iptables-save -t nat").unwrap();
    let left: Vec<&str> = rules.lines().filter(|line| line.contains("10.88.0.") || line.contains("8088")).collect();
    // The masquerading of a pod is undone in its namespace, which "b" had lost.
    let of_b = left.iter().all(|line| line.contains("10.88.0.3") || line.contains("name: \\\"debian\\\" id: \\\"b\\\""));
    let addresses: Vec<String> =
        entries(&leases.join("debian")).into_iter().filter(|name| name.starts_with("10.")).collect();
    assert_eq!(
        (run(&a, "ip -o link show eth0").is_err(), of_b, addresses, plugins.pods()),
        (true, true, vec![], vec![]),
        "{left:?}"
    );
}

/// Plugins that are scripts: each call is a line in `log`, its answer the file `NAME.VERB`, its failure `NAME.VERB.fails`.
struct Scripts {
    folder: tempfile::TempDir,
}

const SCRIPT: &str = r#"#!/bin/sh
at=$(dirname "$0") me=$(basename "$0")
read -r input
printf '%s %s %s %s %s\n' "$me" "$CNI_COMMAND" "${CNI_NETNS:--}" "${CNI_ARGS:--}" "$input" >> "$at/log"
[ -e "$at/$me.$CNI_COMMAND.hangs" ] && { echo $$ > "$at/pid"; sleep 1000; }
[ -e "$at/$me.$CNI_COMMAND" ] && cat "$at/$me.$CNI_COMMAND"
[ -e "$at/$me.$CNI_COMMAND.fails" ] && exit 1
exit 0
"#;

impl Scripts {
    fn new(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::write(&path, SCRIPT).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    fn answer(&self, call: &str, answer: &Value) {
        fs::write(self.folder.path().join(call), answer.to_string()).unwrap();
    }

    fn plugins(&self) -> Plugins {
        Plugins::new(settings(self.folder.path(), self.folder.path()))
    }

    /// Who was called for what, with which namespace, and what he read.
    fn calls(&self) -> Vec<(String, String, String, Value)> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let _ = fs::remove_file(self.folder.path().join("log"));
        let read = |line: &str| {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            let input = serde_json::from_str(words[4]).unwrap();
            (words[0].to_owned(), words[1].to_owned(), words[2].to_owned(), input)
        };
        log.lines().map(read).collect()
    }

    /// [`Scripts::calls`] without namespaces and what was read.
    fn verbs(&self) -> Vec<String> {
        self.calls().into_iter().map(|(who, verb, ..)| format!("{who} {verb}")).collect()
    }
}

fn list(version: &str, names: &[&str]) -> List {
    let plugins: Vec<Value> = names.iter().map(|name| json!({"type": name, "capabilities": {"dns": true}})).collect();
    List::read(json!({"cniVersion": version, "name": "net", "plugins": plugins})).unwrap()
}

fn message(outcome: Result<Outcome>) -> String {
    outcome.unwrap_err().to_string()
}

#[tokio::test]
async fn a_chain_hands_results_on_and_is_undone_backwards() {
    let scripts = Scripts::new(&["first", "second"]);
    let [one, two] = ["10.0.0.1/24", "10.0.0.2/24"].map(|ip| json!({"cniVersion": "0.4.0", "ips": [{"address": ip}]}));
    scripts.answer("first.ADD", &one);
    scripts.answer("second.ADD", &two);
    let told = json!({"dns": {"servers": []}, "bandwidth": {}}).as_object().unwrap().clone();
    let namespace = PathBuf::from("/run/ns");

    let list = list("0.4.0", &["first", "second"]);
    let given = scripts.plugins().add(&list, Pod { capabilities: told, ..pod("p", &namespace) }).await.unwrap();
    // By another process.
    scripts.plugins().check("p", &namespace).await.unwrap();
    scripts.plugins().delete("p", None).await.unwrap();

    let input = |who: &str, previous: Option<&Value>| {
        let mut input =
            json!({"type": who, "name": "net", "cniVersion": "0.4.0", "runtimeConfig": {"dns": {"servers": []}}});
        if let Some(previous) = previous {
            input["prevResult"] = previous.clone();
        }
        input
    };
    let call = |who: &str, verb: &str, namespace: &str, previous: Option<&Value>| {
        (who.to_owned(), verb.to_owned(), namespace.to_owned(), input(who, previous))
    };
    let expected = [
        call("first", "ADD", "/run/ns", None),
        call("second", "ADD", "/run/ns", Some(&one)),
        call("first", "CHECK", "/run/ns", Some(&two)),
        call("second", "CHECK", "/run/ns", Some(&two)),
        call("second", "DEL", "-", Some(&two)),
        call("first", "DEL", "-", Some(&two)),
    ];
    assert_eq!((given.raw, scripts.calls()), (two, expected.to_vec()));
    assert_eq!(scripts.plugins().pods(), Vec::<String>::new());
}

#[tokio::test]
async fn a_failing_plugin_says_why_and_what_was_done_is_undone() {
    let scripts = Scripts::new(&["first", "second"]);
    scripts.answer("first.ADD", &json!({"ips": [{"address": "10.0.0.1/24"}]}));
    scripts.answer("second.ADD", &json!({"code": 7, "msg": "no room", "details": "for p"}));
    scripts.answer("second.ADD.fails", &json!(null));
    let plugins = scripts.plugins();
    let namespace = Path::new("/run/ns");

    let failed = message(plugins.add(&list("0.3.1", &["first", "second"]), pod("p", namespace)).await);
    let (calls, pods) = (scripts.verbs(), plugins.pods());
    let missing = message(plugins.add(&list("0.3.1", &["first", "absent"]), pod("p", namespace)).await);
    let untouched = scripts.verbs();
    let without = message(plugins.add(&list("0.3.1", &["second", "first"]), pod("../p", namespace)).await);

    assert_eq!(failed, "plugin type=\"second\" failed (add): no room; for p");
    assert_eq!(calls, ["first ADD", "second ADD", "second DEL", "first DEL"]);
    let folder = scripts.folder.path().display();
    assert_eq!(
        missing,
        format!(
            "plugin type=\"absent\" failed (add): failed to find plugin \"absent\" in path [\"/nowhere\", \"{folder}\"]"
        )
    );
    assert_eq!(without, "\"../p\" is no container's ID");
    assert_eq!((pods, untouched), (vec![], vec![]));
}

#[tokio::test]
async fn a_plugin_that_hangs_is_ended() {
    let scripts = Scripts::new(&["slow"]);
    scripts.answer("slow.ADD.hangs", &json!(null));
    let patience = Duration::from_secs(2);
    let plugins = Plugins::new(Settings { patience, ..settings(scripts.folder.path(), scripts.folder.path()) });

    let failed = message(plugins.add(&list("1.0.0", &["slow"]), pod("p", Path::new("/run/ns"))).await);

    assert_eq!(failed, "plugin type=\"slow\" failed (add): no answer within 2 s");
    let pid = fs::read_to_string(scripts.folder.path().join("pid")).unwrap();
    let sleeps = || {
        let command = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
        command.contains("slow")
    };
    let ended = async {
        while sleeps() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("see the plugin end");
}

#[tokio::test]
async fn pods_that_are_gone_are_disconnected_and_the_others_named() {
    let scripts = Scripts::new(&["one"]);
    let folder = scripts.folder.path();
    scripts.answer("one.ADD", &json!({"ips": [{"address": "10.0.0.1/24"}]}));
    scripts.answer("one.ADD.fails", &json!(null));
    scripts.answer("one.DEL.fails", &json!(null));
    let (plugins, namespace) = (scripts.plugins(), Path::new("/run/ns"));
    let list = list("1.1.0", &["one"]);
    // Neither connected nor disconnected: what a crash leaves.
    assert!(plugins.add(&list, pod("broken", namespace)).await.is_err());
    for fails in ["one.ADD.fails", "one.DEL.fails"] {
        fs::remove_file(folder.join(fails)).unwrap();
    }
    for id in ["gone", "kept"] {
        plugins.add(&list, pod(id, namespace)).await.unwrap();
    }
    // What a power cut leaves.
    fs::write(folder.join("pods/torn.json"), "{").unwrap();
    fs::create_dir(folder.join("net.d")).unwrap();
    fs::write(folder.join("net.d/net.conflist"), list.source.to_string()).unwrap();
    assert_eq!((scripts.calls().len(), plugins.pods().len()), (4, 4));

    plugins.retain(&HashSet::from(["kept".to_owned()])).await.unwrap();

    let calls = scripts.calls();
    let told: Vec<(&str, bool)> =
        calls.iter().map(|(_, verb, _, input)| (verb.as_str(), input["prevResult"].is_object())).collect();
    assert_eq!(told, [("DEL", false), ("DEL", true), ("DEL", false), ("GC", false)]);
    assert_eq!(calls[3].3["cni.dev/valid-attachments"], json!([{"containerID": "kept", "ifname": "eth0"}]));
    assert_eq!(plugins.pods(), ["kept"]);
}

#[tokio::test]
async fn only_plugins_that_know_the_question_are_asked_for_their_status() {
    let scripts = Scripts::new(&["one"]);
    scripts.answer("one.STATUS", &json!({"code": 50, "msg": "the daemon is down"}));
    scripts.answer("one.STATUS.fails", &json!(null));
    let plugins = scripts.plugins();
    let old = plugins.status(&list("1.0.0", &["one"])).await.is_ok();
    let new = plugins.status(&list("1.1.0", &["one"])).await.unwrap_err().to_string();
    assert_eq!((old, new.as_str()), (true, "plugin type=\"one\" failed (status): the daemon is down"));
}

#[test]
fn namespaces_outlive_their_processes_when_they_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("kept/second"));
    netns::create(&first).unwrap();
    netns::keep(&first, &second).unwrap();
    netns::delete(&first).unwrap();
    let lives = run(&second, "ip -o link show lo").is_ok();
    netns::delete(&second).unwrap();
    assert_eq!((lives, second.exists()), (true, false));
}
