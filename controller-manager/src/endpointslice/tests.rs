use serde_json::{Value, json};

use super::*;

fn of<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

fn pod(name: &str, address: &str, ready: &str, port: i32) -> Arc<Pod> {
    of(json!({"metadata": {"namespace": "ns", "name": name, "uid": name},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2024-01-01T00:00:05Z"}]}}))
}

#[test]
fn pods_become_endpoints_grouped_by_their_ports() {
    let service = of(json!({"metadata": {"namespace": "ns", "name": "svc", "uid": "s", "labels": {"l": "1"}},
        "spec": {"clusterIP": "10.43.0.7", "ipFamilies": ["IPv4"], "trafficDistribution": "PreferClose", "selector": {"a": "b"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}}));
    let node: Arc<Node> = of(json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}}));
    let mut going = (*pod("c", "10.42.0.3", "True", 8080)).clone();
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let pods = [pod("a", "10.42.0.1", "True", 8080), pod("b", "10.42.0.2", "False", 9090), Arc::new(going)];
    let pods = pods.into_iter().map(|p| (p, Some(node.clone()))).collect();
    let actions = decide(&Observed { service, pods, slices: vec![], most: 100 });
    let slices: Vec<_> = actions
        .iter()
        .map(|a| if let Action::Create(s) = a { serde_json::to_value(s).expect("encodes") } else { json!(null) })
        .collect();
    let slice = |port: i32, endpoints: Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"generateName": "svc-", "namespace": "ns", "annotations": {TRIGGER: "2024-01-01T00:00:05Z"},
                "labels": {"l": "1", SERVICE_NAME: "svc", MANAGED_BY: MANAGER},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "svc", "uid": "s", "controller": true, "blockOwnerDeletion": true}]},
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}], "endpoints": endpoints})
    };
    let endpoint = |name: &str, address: &str, (ready, serving, terminating): (bool, bool, bool)| {
        let mut endpoint = json!({"addresses": [address], "nodeName": "n", "zone": "z",
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "targetRef": {"kind": "Pod", "namespace": "ns", "name": name, "uid": name}});
        if ready {
            endpoint["hints"] = json!({"forZones": [{"name": "z"}]});
        }
        endpoint
    };
    assert_eq!(
        slices,
        [
            slice(
                8080,
                json!([endpoint("a", "10.42.0.1", (true, true, false)), endpoint("c", "10.42.0.3", (false, true, true))])
            ),
            slice(9090, json!([endpoint("b", "10.42.0.2", (false, false, false))])),
        ]
    );
}
