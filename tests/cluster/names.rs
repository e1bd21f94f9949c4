//! Cluster DNS, asked from inside pods.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use harness::{Cluster, eventually};

use crate::life::with_example;

const SECONDS_30: Duration = Duration::from_secs(30);

#[test]
fn pods_of_every_node_find_services_by_name() -> Result<()> {
    let cluster = with_example(&["--nodes", "2"])?;
    cluster.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: hello}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: hello.default.svc.cluster.local}
"#,
    )?;
    let pods = cluster.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=hello",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}",
    ])?;
    let pods: Vec<(&str, &str)> = pods.lines().filter_map(|line| line.split_once(' ')).collect();
    let addresses: BTreeSet<String> = pods.iter().map(|(_, address)| (*address).to_owned()).collect();
    assert_eq!(addresses.len(), 2);
    for (pod, _) in &pods {
        let run = |arguments: &[&str]| cluster.kubectl(&[&["exec", pod, "--"], arguments].concat());
        for name in ["hello", "hello.default", "hello.default.svc.cluster.local", "alias"] {
            let page = eventually("fetch a page by name", SECONDS_30, || {
                Ok(run(&["timeout", "5", "busybox", "wget", "-q", "-O", "-", &format!("http://{name}/")]).ok())
            })?;
            assert!(page.contains("Hello from hello-"), "{pod} asked {name} and got {page}");
        }
        let found = eventually("see all peers", SECONDS_30, || {
            let text = run(&["busybox", "nslookup", "-type=a", "peers.default.svc.cluster.local"])?;
            let answers = text.lines().filter_map(|line| line.strip_prefix("Address: ")).map(str::to_owned);
            let answers: BTreeSet<String> = answers.collect();
            Ok((answers.len() == 2).then_some(answers))
        })?;
        assert_eq!(found, addresses);
        let refused = run(&["busybox", "nslookup", "-type=a", "nobody.default.svc.cluster.local"]);
        assert!(refused.is_err_and(|error| error.to_string().contains("NXDOMAIN")));
    }
    Ok(())
}

/// Pods that ask for resolvers of their own, and one with a name.
const ASKING: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: family}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: named}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: named, labels: {app: named}}
spec:
  hostname: host
  subdomain: family
  terminationGracePeriodSeconds: 0
  dnsConfig: {searches: [b.test], options: [{name: ndots, value: "2"}, {name: edns0}]}
  containers:
  - {name: main, image: "localhost/hello:1", imagePullPolicy: Never, command: [sleep, "1000"], readinessProbe: {exec: {command: ["false"]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: none}
spec:
  terminationGracePeriodSeconds: 0
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.1], searches: [a.test], options: [{name: ndots, value: "3"}]}
  containers: [{name: main, image: "localhost/hello:1", imagePullPolicy: Never, command: [sleep, "1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: on-host}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  containers: [{name: main, image: "localhost/hello:1", imagePullPolicy: Never, command: [sleep, "1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: default}
spec:
  terminationGracePeriodSeconds: 0
  dnsPolicy: Default
  containers: [{name: main, image: "localhost/hello:1", imagePullPolicy: Never, command: [sleep, "1000"]}]
"#;

#[test]
fn pods_get_the_resolvers_that_they_ask_for_and_the_names_that_they_have() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.load_example_image()?;
    cluster.apply(ASKING)?;
    let resolver = |pod: &str| {
        eventually("read a pod's resolv.conf", SECONDS_30, || {
            let text = cluster.kubectl(&["exec", pod, "--", "cat", "/etc/resolv.conf"])?;
            let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            Ok(Some(lines.filter(|line| !line.is_empty()).collect::<BTreeSet<_>>()))
        })
    };
    let (named, on_host) = (resolver("named")?, resolver("on-host")?);
    let starts = "search default.svc.cluster.local svc.cluster.local cluster.local";
    for lines in [&named, &on_host] {
        assert!(lines.contains("nameserver 10.43.0.10") && lines.iter().any(|l| l.starts_with(starts)), "{lines:?}");
    }
    assert!(named.iter().any(|l| l.ends_with(" b.test")) && named.contains("options ndots:2 edns0"), "{named:?}");
    assert!(on_host.contains("options ndots:5"), "{on_host:?}");
    let own = ["search a.test", "nameserver 192.0.2.1", "options ndots:3"].map(str::to_owned);
    assert_eq!(resolver("none")?, BTreeSet::from(own));
    assert!(!resolver("default")?.contains("nameserver 10.43.0.10"));

    // By its own name, though it is not ready: the service publishes such, too.
    let address = cluster.kubectl(&["get", "pod", "named", "-o", "jsonpath={.status.podIP}"])?;
    let ask = |arguments: &[&str]| cluster.kubectl(&[&["exec", "named", "--", "busybox", "nslookup"], arguments].concat());
    eventually("be known by name", SECONDS_30, || {
        let text = ask(&["-type=a", "host.family.default.svc.cluster.local"])?;
        Ok(text.lines().any(|line| line == format!("Address: {address}")).then_some(()))
    })?;
    let mut reversed: Vec<&str> = address.split('.').collect();
    reversed.reverse();
    let pointer = ask(&["-type=ptr", &format!("{}.in-addr.arpa", reversed.join("."))])?;
    assert!(pointer.contains("name = host.family.default.svc.cluster.local"), "{pointer}");
    let ports = ask(&["-type=srv", "_http._tcp.family.default.svc.cluster.local"])?;
    assert!(ports.contains("8080 host.family.default.svc.cluster.local"), "{ports}");
    Ok(())
}
