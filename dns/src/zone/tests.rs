//! A zone made of services as they are in the API; queries and answers as text.

use serde_json::{Value, from_value, json};

use super::{Answer, Data, Entry, Kind, Row, Zone};

fn entry(service: &Value, slices: Value) -> Entry {
    let slices: Vec<k8s_openapi::api::discovery::v1::EndpointSlice> = from_value(slices).unwrap();
    Entry::of(&from_value(json!({"spec": service})).unwrap(), slices.iter())
}

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", &["10.42.0.0/16".to_owned(), "10.43.0.0/16".to_owned()]).unwrap();
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let cluster = entry(&json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": ports}), json!([]));
    zone.set_service("default", "web", Some(cluster));
    let slice = json!([{"addressType": "IPv4", "ports": [{"name": "db", "port": 5432, "protocol": "TCP"}], "endpoints": [
        {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.42.1.6"], "conditions": {}},
        {"addresses": ["10.42.1.7"], "hostname": "db-2", "conditions": {"ready": false}},
    ]}, {"addressType": "IPv4", "ports": [{"name": "db", "port": 5432, "protocol": "TCP"}], "endpoints": [
        {"addresses": ["10.42.1.6"], "conditions": {}},
    ]}]);
    zone.set_service("default", "db", Some(entry(&json!({"clusterIP": "None"}), slice)));
    zone.set_service("default", "idle", Some(entry(&json!({"clusterIP": "None"}), json!([]))));
    let external = json!({"type": "ExternalName", "externalName": "Example.com."});
    zone.set_service("default", "away", Some(entry(&external, json!([]))));
    zone
}

fn text(row: &Row) -> String {
    let data = match &row.data {
        Data::Address(address) => address.to_string(),
        Data::Service { weight, port, target } => format!("0 {weight} {port} {target}"),
        Data::Pointer(to) | Data::Alias(to) | Data::Text(to) | Data::NameServer(to) => to.clone(),
        Data::Authority => "authority".to_owned(),
    };
    format!("{} {data}", row.name)
}

fn ask(zone: &Zone, name: &str, kind: Kind) -> Vec<String> {
    match zone.answer(name, kind) {
        Answer::Rows(answers, additional) => {
            answers.iter().map(text).chain(additional.iter().map(|row| format!("+ {}", text(row)))).collect()
        }
        Answer::Alias(name, to) => vec![format!("{name} -> {to}")],
        Answer::NoData => vec!["no data".to_owned()],
        Answer::NoName => vec!["no name".to_owned()],
        Answer::Outside => vec!["outside".to_owned()],
    }
}

#[test]
fn names_stand_for_what_the_specification_says() {
    let zone = zone();
    let cases: &[(&str, Kind, &[&str])] = &[
        ("web.default.svc.cluster.local", Kind::A, &["web.default.svc.cluster.local 10.43.0.7"]),
        ("web.default.svc.cluster.local", Kind::Aaaa, &["no data"]),
        ("web.other.svc.cluster.local", Kind::A, &["no name"]),
        (
            "_http._tcp.web.default.svc.cluster.local",
            Kind::Srv,
            &[
                "_http._tcp.web.default.svc.cluster.local 0 100 80 web.default.svc.cluster.local",
                "+ web.default.svc.cluster.local 10.43.0.7",
            ],
        ),
        ("_http._udp.web.default.svc.cluster.local", Kind::Srv, &["no name"]),
        ("_http._tcp.web.default.svc.cluster.local", Kind::A, &["no data"]),
        ("_tcp.web.default.svc.cluster.local", Kind::Srv, &["no data"]),
        (
            "db.default.svc.cluster.local",
            Kind::A,
            &["db.default.svc.cluster.local 10.42.0.5", "db.default.svc.cluster.local 10.42.1.6"],
        ),
        ("db-0.db.default.svc.cluster.local", Kind::A, &["db-0.db.default.svc.cluster.local 10.42.0.5"]),
        ("db-2.db.default.svc.cluster.local", Kind::A, &["no name"]),
        ("10-42-1-6.db.default.svc.cluster.local", Kind::A, &["10-42-1-6.db.default.svc.cluster.local 10.42.1.6"]),
        (
            "_db._tcp.db.default.svc.cluster.local",
            Kind::Srv,
            &[
                "_db._tcp.db.default.svc.cluster.local 0 50 5432 db-0.db.default.svc.cluster.local",
                "_db._tcp.db.default.svc.cluster.local 0 50 5432 10-42-1-6.db.default.svc.cluster.local",
                "+ db-0.db.default.svc.cluster.local 10.42.0.5",
                "+ 10-42-1-6.db.default.svc.cluster.local 10.42.1.6",
            ],
        ),
        ("idle.default.svc.cluster.local", Kind::A, &["no name"]),
        ("away.default.svc.cluster.local", Kind::A, &["away.default.svc.cluster.local -> example.com"]),
        ("away.default.svc.cluster.local", Kind::Cname, &["away.default.svc.cluster.local example.com"]),
        ("10-42-0-5.default.pod.cluster.local", Kind::A, &["10-42-0-5.default.pod.cluster.local 10.42.0.5"]),
        ("10-42-0-5.default.pod.cluster.local", Kind::Aaaa, &["no data"]),
        ("nonsense.default.pod.cluster.local", Kind::A, &["no name"]),
        ("7.0.43.10.in-addr.arpa", Kind::Ptr, &["7.0.43.10.in-addr.arpa web.default.svc.cluster.local"]),
        ("5.0.42.10.in-addr.arpa", Kind::Ptr, &["5.0.42.10.in-addr.arpa db-0.db.default.svc.cluster.local"]),
        ("9.9.42.10.in-addr.arpa", Kind::Ptr, &["no name"]),
        ("8.8.8.8.in-addr.arpa", Kind::Ptr, &["outside"]),
        ("dns-version.cluster.local", Kind::Txt, &["dns-version.cluster.local 1.1.0"]),
        ("cluster.local", Kind::Soa, &["cluster.local authority"]),
        ("cluster.local", Kind::A, &["no data"]),
        ("default.svc.cluster.local", Kind::A, &["no data"]),
        ("other.svc.cluster.local", Kind::A, &["no name"]),
        ("mycluster.local", Kind::A, &["outside"]),
        ("example.com", Kind::A, &["outside"]),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(&ask(&zone, name, *kind), expected, "{name} {kind:?}");
    }
}

#[test]
fn a_service_that_is_gone_leaves_no_name_behind() {
    let mut zone = zone();
    zone.set_service("default", "web", None);
    zone.set_service("default", "db", None);
    let asked = [
        ask(&zone, "web.default.svc.cluster.local", Kind::A),
        ask(&zone, "7.0.43.10.in-addr.arpa", Kind::Ptr),
        ask(&zone, "db-0.db.default.svc.cluster.local", Kind::A),
        ask(&zone, "5.0.42.10.in-addr.arpa", Kind::Ptr),
        ask(&zone, "idle.default.svc.cluster.local", Kind::A),
    ];
    assert_eq!(asked, [["no name"], ["no name"], ["no name"], ["no name"], ["no name"]]);
}
