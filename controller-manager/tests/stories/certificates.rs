//! Certificates that are asked for, approved, signed or refused.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use knarr_controller_manager::config::SigningPair;
use knarr_x509::{Contents, Key, Signer, Usage, issue, name};

use crate::*;

/// `O=system:nodes, CN=system:node:a`; the same with `DNS:a, DNS:a.example.com` and addresses.
const CLIENT: &str = include_str!("../../../libs/api/testdata/certificates/client.csr");
const SERVING: &str = include_str!("../../../libs/api/testdata/certificates/serving.csr");

fn authority() -> SigningPair {
    let key = Key::generate().expect("a key");
    let contents = Contents {
        common_name: "ca".to_owned(),
        organizations: Vec::new(),
        alt_names: Vec::new(),
        usage: Usage::Authority,
        not_before: time::OffsetDateTime::now_utc() - time::Duration::hours(1),
        not_after: time::OffsetDateTime::now_utc() + time::Duration::hours(100),
    };
    let subject = name("ca", &[]);
    let der = issue(&contents, &key, &Signer { name: &subject, key: &key }).expect("a certificate");
    SigningPair { certificate: api::pem::encode("CERTIFICATE", &der), key: api::pem::encode("PRIVATE KEY", &key.pkcs8) }
}

/// By name: the conditions, and whom the certificate is for.
fn outcome(requests: &[Arc<CertificateSigningRequest>]) -> BTreeMap<String, (Vec<String>, Option<String>)> {
    let tell = |request: &Arc<CertificateSigningRequest>| {
        let status = request.status.clone().unwrap_or_default();
        let conditions = status.conditions.into_iter().flatten().map(|condition| condition.type_).collect();
        let certificate = status.certificate.and_then(|pem| {
            let block = api::pem::blocks(&pem.0).into_iter().next()?;
            let facts = knarr_x509::read(&block.data).ok()?;
            Some(format!("{} of {}", facts.common_name, facts.organizations.join(",")))
        });
        (request.metadata.name.clone().unwrap_or_default(), (conditions, certificate))
    };
    requests.iter().map(tell).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_approved_where_it_is_clear_and_signed_where_they_are_approved() {
    let cluster = Cluster::start(|config| {
        config.signing = Some(authority());
        config.approve_kubelet_serving_certificates = true;
    })
    .await;
    let requests: Api<CertificateSigningRequest> = Api::all(cluster.client.clone());
    let ask = async |name: &str, signer: &str, pem: &str, usages: [&str; 2]| {
        let spec = json!({"signerName": format!("kubernetes.io/{signer}"), "usages": usages, "expirationSeconds": 3600,
            "request": k8s_openapi::ByteString(pem.as_bytes().to_vec())});
        let object = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a request");
        requests.create(&PostParams::default(), &object).await.expect("created");
    };
    ask("node", "kube-apiserver-client-kubelet", CLIENT, ["digital signature", "client auth"]).await;
    // Nobody's but the node's own request for a serving certificate is approved, and this one is a test's.
    ask("serving", "kubelet-serving", SERVING, ["digital signature", "server auth"]).await;
    ask("other", "kube-apiserver-client", CLIENT, ["digital signature", "server auth"]).await;
    let mut other = requests.get("other").await.expect("the request");
    let approved = json!([{"type": "Approved", "status": "True", "reason": "Test", "message": "test"}]);
    other.status.get_or_insert_default().conditions = Some(serde_json::from_value(approved).expect("conditions"));
    requests.replace_subresource("approval", "other", &PostParams::default(), &other).await.expect("approved");
    let wanted = [
        ("node", vec!["Approved"], Some("system:node:a of system:nodes")),
        ("other", vec!["Approved", "Failed"], None),
        ("serving", vec![], None),
    ];
    let wanted = wanted.map(|(name, conditions, certificate)| {
        let conditions = conditions.into_iter().map(str::to_owned).collect();
        (name.to_owned(), (conditions, certificate.map(str::to_owned)))
    });
    cluster.until_global::<CertificateSigningRequest, _>(outcome, wanted.into()).await;
}
