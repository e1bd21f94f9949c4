//! Services are published as EndpointSlices and Endpoints.

use crate::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_follows_its_pods() {
    let cluster = Cluster::start(|_| {}).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
    cluster.create::<Service>(service).await;
    let ready = |slices: &[Arc<EndpointSlice>]| {
        let endpoints = slices.iter().flat_map(|s| &s.endpoints);
        endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count()
    };
    cluster.until::<EndpointSlice, _>(|s| (s.len(), ready(s)), (1, 0)).await;
    cluster.create::<Deployment>(web(3, "v1")).await;
    cluster.until::<EndpointSlice, _>(|s| (s.len(), ready(s)), (1, 3)).await;
    let addresses = |endpoints: &[Arc<Endpoints>]| {
        let subsets = endpoints.iter().flat_map(|e| e.subsets.iter().flatten());
        subsets.map(|s| s.addresses.as_ref().map_or(0, Vec::len)).sum::<usize>()
    };
    cluster.until::<Endpoints, _>(addresses, 3).await;
    let victim = cluster.list::<Pod>().await.remove(0).metadata.name.unwrap_or_default();
    cluster.delete::<Pod>(&victim, DeleteParams::default()).await;
    let serves = |slices: &[Arc<EndpointSlice>], name: &str| {
        slices.iter().flat_map(|s| &s.endpoints).any(|e| e.target_ref.as_ref().and_then(|t| t.name.as_deref()) == Some(name))
    };
    cluster.until::<EndpointSlice, _>(|s| (ready(s), serves(s, &victim)), (3, false)).await;
    cluster.delete::<Service>("web", DeleteParams::default()).await;
    cluster.until::<EndpointSlice, _>(count, 0).await;
    cluster.until::<Endpoints, _>(count, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_written_endpoints_are_mirrored() {
    let cluster = Cluster::start(|_| {}).await;
    let service = json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.8"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{"port": 5432, "protocol": "TCP"}]}});
    cluster.create::<Service>(service).await;
    let addresses = |slices: &[Arc<EndpointSlice>]| {
        slices.iter().flat_map(|s| &s.endpoints).flat_map(|e| e.addresses.clone()).collect::<Vec<_>>()
    };
    cluster.create::<Endpoints>(json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}]})).await;
    cluster.until::<EndpointSlice, _>(addresses, vec!["192.0.2.1".to_owned()]).await;
    cluster
        .merge::<Endpoints>("db", json!({"subsets": [{"addresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]}]}))
        .await;
    cluster.until::<EndpointSlice, _>(addresses, vec!["192.0.2.2".to_owned()]).await;
    cluster.delete::<Endpoints>("db", DeleteParams::default()).await;
    cluster.until::<EndpointSlice, _>(count, 0).await;
}

/// A pod that the test runs itself.
fn manual(name: &str, port: i32) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [
        {"name": "c", "image": "manual", "ports": [{"name": "http", "containerPort": port}]}]}})
}

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    json_patch(&mut service["spec"], spec);
    service
}

fn json_patch(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

/// Per endpoint of a Service: pod, port, (ready, serving, terminating).
fn endpoints(slices: &[Arc<EndpointSlice>], service: &str) -> Vec<(String, i32, [bool; 3])> {
    let of =
        |s: &&Arc<EndpointSlice>| s.metadata.labels.as_ref().is_some_and(|l| l["kubernetes.io/service-name"] == service);
    let mut rows: Vec<_> = slices
        .iter()
        .filter(of)
        .flat_map(|slice| {
            let port = slice.ports.iter().flatten().next().and_then(|p| p.port).unwrap_or(0);
            slice.endpoints.iter().map(move |e| {
                let c = e.conditions.clone().unwrap_or_default();
                let states = [c.ready, c.serving, c.terminating].map(|state| state.unwrap_or(false));
                (e.target_ref.as_ref().and_then(|t| t.name.clone()).unwrap_or_default(), port, states)
            })
        })
        .collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_say_how_their_pods_are() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<Service>(service("plain", &json!({}))).await;
    cluster.create::<Service>(service("early", &json!({"publishNotReadyAddresses": true}))).await;
    for (n, (name, port, ready)) in
        [("well", 8080, true), ("sick", 8080, false), ("going", 9090, true)].into_iter().enumerate()
    {
        cluster.create::<Pod>(manual(name, port)).await;
        cluster.run_pod(name, "node-9", n as u32, ready).await;
    }
    // Nobody is there to end it: it stays, marked.
    cluster.delete::<Pod>("going", DeleteParams::default()).await;
    let row = |name: &str, port, states| (name.to_owned(), port, states);
    let plain = vec![
        row("going", 9090, [false, true, true]),
        row("sick", 8080, [false, false, false]),
        row("well", 8080, [true, true, false]),
    ];
    cluster.until::<EndpointSlice, _>(|s| endpoints(s, "plain"), plain).await;
    let early = vec![
        row("going", 9090, [true, true, true]),
        row("sick", 8080, [true, false, false]),
        row("well", 8080, [true, true, false]),
    ];
    cluster.until::<EndpointSlice, _>(|s| endpoints(s, "early"), early).await;
    // Endpoints know ready and not ready, and nothing of pods that go.
    let subsets = |all: &[Arc<Endpoints>]| {
        let plain = all.iter().find(|e| e.metadata.name.as_deref() == Some("plain"));
        let subsets = plain.iter().flat_map(|e| e.subsets.iter().flatten());
        let names = |list: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| {
            list.iter().flatten().filter_map(|a| a.target_ref.as_ref()?.name.clone()).collect::<Vec<_>>().join(",")
        };
        subsets.map(|s| (names(&s.addresses), names(&s.not_ready_addresses))).collect::<Vec<_>>()
    };
    cluster.until::<Endpoints, _>(subsets, vec![("well".to_owned(), "sick".to_owned())]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_hold_a_hundred_endpoints() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<ReplicaSet>(web(205, "v1")).await;
    let ready = |sets: &[Arc<ReplicaSet>]| sets.first().and_then(|s| s.status.as_ref()?.ready_replicas);
    cluster.until::<ReplicaSet, _>(ready, Some(205)).await;
    cluster.create::<Service>(service("web", &json!({"ports": [{"port": 80}]}))).await;
    let sizes = |slices: &[Arc<EndpointSlice>]| {
        let mut sizes: Vec<_> = slices.iter().map(|s| s.endpoints.len()).collect();
        sizes.sort_unstable();
        sizes
    };
    cluster.until::<EndpointSlice, _>(sizes, vec![5, 100, 100]).await;
    // One gone and another come: only one slice of each need change.
    let victim = cluster.list::<Pod>().await.remove(0).metadata.name.unwrap_or_default();
    cluster.delete::<Pod>(&victim, DeleteParams::default()).await;
    let served = |slices: &[Arc<EndpointSlice>]| {
        let rows = endpoints(slices, "web");
        (rows.iter().filter(|r| r.2[0]).count(), rows.iter().any(|r| r.0 == victim))
    };
    cluster.until::<EndpointSlice, _>(served, (205, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headless_services_are_labelled_and_name_their_pods() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create::<Service>(service("db", &json!({"clusterIP": "None"}))).await;
    cluster.create::<Service>(json!({"metadata": {"name": "outside"}, "spec": {"ports": [{"port": 80}]}})).await;
    let mut pod = manual("db-0", 5432);
    json_patch(&mut pod["spec"], &json!({"hostname": "first", "subdomain": "db"}));
    cluster.create::<Pod>(pod).await;
    cluster.run_pod("db-0", "node-1", 1, true).await;
    // The Service without a selector has no slices: nobody has written Endpoints for it.
    let facts = |slices: &[Arc<EndpointSlice>]| {
        let tell = |s: &Arc<EndpointSlice>| {
            let labels = s.metadata.labels.clone().unwrap_or_default();
            (
                labels.contains_key("service.kubernetes.io/headless"),
                labels.get("kubernetes.io/service-name").cloned(),
                s.endpoints.iter().filter_map(|e| e.hostname.clone()).collect::<Vec<_>>(),
            )
        };
        slices.iter().map(tell).collect::<Vec<_>>()
    };
    cluster.until::<EndpointSlice, _>(facts, vec![(true, Some("db".to_owned()), vec!["first".to_owned()])]).await;
    // The selector goes: upstream leaves what it published as it is.
    cluster.merge::<Service>("db", json!({"spec": {"ports": [{"port": 81, "targetPort": "none"}]}})).await;
    cluster.until::<EndpointSlice, _>(|s| endpoints(s, "db").iter().map(|r| r.1).collect::<Vec<_>>(), vec![0]).await;
}
