//! Pods connected by Debian's CNI plugins, and what we do besides.

use std::{collections::HashSet, net::Ipv4Addr, path::Path, time::Duration};

use knarr_runtime::network::{Network, PluginSettings, Plugins};
use net::{
    netns,
    testing::{Scene, call, run, serve, wire},
};

const NOTHING: &str = "Network plugin returns error: cni plugin not initialized";

fn settings(scene: &Scene, node: &Path) -> PluginSettings {
    PluginSettings {
        wanted: true,
        conf_dir: scene.folder().join("net.d"),
        bin_dirs: vec!["/usr/lib/cni".into()],
        namespace: Some(node.to_owned()),
    }
}

fn pod(host_port: i32) -> cri::PodSandboxConfig {
    let metadata = cri::PodSandboxMetadata {
        name: "web".to_owned(),
        uid: "u-1".to_owned(),
        namespace: "default".to_owned(),
        attempt: 0,
    };
    let port =
        cri::PortMapping { protocol: cri::Protocol::Tcp.into(), container_port: 80, host_port, host_ip: String::new() };
    cri::PodSandboxConfig { metadata: Some(metadata), port_mappings: vec![port], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_no_plugin_asks_for_are_led_to_pods_by_us() {
    let mut scene = Scene::new();
    let [node, a, outside] = ["node", "a", "outside"].map(|name| scene.namespace(name));
    wire(&node, Ipv4Addr::new(172, 30, 0, 2), &outside, Ipv4Addr::new(172, 30, 0, 1)).await;
    let (settings, state) = (settings(&scene, &node), scene.folder().join("cni"));
    let plugins = Plugins::new(&state, settings.clone()).await.unwrap();

    // A configuration that comes is heard of.
    let mut news = plugins.news().unwrap();
    while !settings.conf_dir.exists() {
        news.changed().await.unwrap();
    }
    let before = plugins.ready().await;
    let list = format!(
        r#"{{"cniVersion": "0.4.0", "name": "plain", "type": "ptp",
            "ipam": {{"type": "host-local", "dataDir": "{}", "subnet": "10.89.0.0/24", "routes": [{{"dst": "0.0.0.0/0"}}]}}}}"#,
        scene.folder().join("leases").display()
    );
    news.borrow_and_update();
    std::fs::write(settings.conf_dir.join("10-plain.conf"), list).unwrap();
    let heard = async {
        while plugins.ready().await.is_err() {
            news.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard).await.expect("hear of the configuration");

    let given = plugins.setup(&a, "sandbox-a", &pod(8090)).await.unwrap();
    serve(&a, 80);
    let node_address = Ipv4Addr::new(172, 30, 0, 2);
    let seen = call(&outside, node_address, 8090).unwrap();
    assert_eq!((before, given, seen.as_str()), (Err(NOTHING.to_owned()), vec!["10.89.0.2".parse().unwrap()], "172.30.0.1"));

    // Another process takes the pod over, and lets it go when its own namespace is gone.
    drop(plugins);
    let plugins = Plugins::new(&state, settings).await.unwrap();
    plugins.retain(&HashSet::from(["sandbox-a".to_owned()])).await.unwrap();
    plugins.adopt(&a, "sandbox-a").await.unwrap();
    let still = call(&outside, node_address, 8090).map_err(|error| error.to_string());
    netns::delete(&a).unwrap();
    plugins.teardown("sandbox-a").await.unwrap();
    plugins.teardown("sandbox-a").await.unwrap();

    let rules = run(&node, "iptables-save -t nat").unwrap();
    let left: Vec<&str> = rules.lines().filter(|line| line.contains("10.89.0.")).collect();
    let files = |folder: &str| std::fs::read_dir(state.join(folder)).unwrap().count();
    assert_eq!((still, left, files("pods"), files("netns")), (Ok("172.30.0.1".to_owned()), vec![], 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_plugin_is_told_in_its_own_words() {
    let mut scene = Scene::new();
    let [node, a] = ["node", "a"].map(|name| scene.namespace(name));
    let settings = settings(&scene, &node);
    std::fs::create_dir(&settings.conf_dir).unwrap();
    let broken = r#"{"cniVersion": "0.4.0", "name": "plain", "type": "ptp", "ipam": {"type": "host-local", "subnet": "10.89.0.0/32"}}"#;
    std::fs::write(settings.conf_dir.join("10-plain.conf"), broken).unwrap();
    let plugins = Plugins::new(&scene.folder().join("cni"), settings).await.unwrap();

    let error = plugins.setup(&a, "sandbox-a", &pod(0)).await.unwrap_err();

    let text = knarr_runtime::error::chain(&error);
    let begin = "failed to setup network for sandbox \"sandbox-a\": plugin type=\"ptp\" name=\"plain\" failed (add): ";
    assert!(text.starts_with(begin) && text.contains("10.89.0.0"), "{text}");
    assert_eq!(std::fs::read_dir(scene.folder().join("cni/netns")).unwrap().count(), 0);
}
