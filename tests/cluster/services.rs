//! Kinds of services, by the real proxy on a real cluster.

use std::time::Duration;

use anyhow::Result;
use harness::{Cluster, eventually, succeeded};

use crate::life::{both_replicas, with_example};

const SECONDS_30: Duration = Duration::from_secs(30);

fn cluster_ip(cluster: &Cluster, service: &str) -> Result<String> {
    cluster.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
}

#[test]
fn services_of_every_kind_answer_and_rules_come_back() -> Result<()> {
    let cluster = with_example(&[])?;
    cluster.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {app: hello}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: hello}, ports: [{port: 80}]}
"#,
    )?;
    let node = cluster.address(1)?;
    let url = |ip: &str| format!("http://{ip}/");
    both_replicas(&cluster, "1", &url(&cluster_ip(&cluster, "hello")?))?;

    let sticky = url(&cluster_ip(&cluster, "sticky")?);
    let first = eventually("reach the sticky service", SECONDS_30, || cluster.fetch("1", &sticky).map(Some))?;
    for _ in 0..8 {
        assert_eq!(cluster.fetch("1", &sticky)?, first);
    }
    let refused = eventually("be refused", SECONDS_30, || {
        let error = cluster.fetch("1", &url(&cluster_ip(&cluster, "nobody")?)).err();
        Ok(error.map(|e| e.to_string()).filter(|e| e.contains("refused")))
    })?;
    assert!(refused.contains("refused"));

    // Somebody clears the node's rules: they come back by themselves.
    let namespace = format!("--net=/run/netns/{}-1", cluster.name);
    succeeded(std::process::Command::new("nsenter").args([&namespace, "iptables", "-t", "nat", "-F"]))?;
    both_replicas(&cluster, "outside", &format!("http://{node}:30080/"))?;

    cluster.kubectl(&["delete", "service", "hello"])?;
    eventually("see the node port closed", SECONDS_30, || {
        Ok(cluster.fetch("outside", &format!("http://{node}:30080/")).is_err().then_some(()))
    })
}
