//! Cluster DNS, asked from inside pods.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use harness::eventually;

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
