//! Publishes the certificates that verify the API server as ConfigMap `kube-root-ca.crt` in every namespace, where pods find them.
//!
//! Watches namespaces and ConfigMaps of that name. Safe to run twice: it writes only what differs. Without certificates in the
//! configuration it does not run.

use std::{collections::BTreeMap, sync::Arc};

use client::{Error, Informer, Key, Next, Options, Queue, Step, is_already_exists, is_conflict, is_not_found};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::PostParams;

use crate::{Config, config::ConfigError, context::Context, replicas::namespace_is_terminating, serviceaccount::is_active};

const NAME: &str = "root-ca-cert-publisher";
const MAP: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service \
     IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

struct Controller {
    ctx: Context,
    certificates: String,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
}

/// The certificates to publish, if there are any.
pub fn certificates(config: &Config) -> Result<Option<String>, ConfigError> {
    match (&config.root_ca, &config.root_ca_file) {
        (Some(text), _) => Ok(Some(text.clone())),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map(Some).map_err(|e| ConfigError::RootCa(format!("{}: {e}", file.display())))
        }
        (None, None) => Ok(None),
    }
}

/// The map as it should be, if it is not: what is there (someone's annotations, say) is kept.
fn decide(namespace: &str, current: Option<&ConfigMap>, certificates: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(FILE.to_owned(), certificates.to_owned())]);
    let described = |m: &ConfigMap| {
        m.metadata.annotations.as_ref().is_some_and(|a| a.get(DESCRIPTION.0).is_some_and(|d| d == DESCRIPTION.1))
    };
    if current.is_some_and(|map| map.data.as_ref() == Some(&data) && described(map)) {
        return None;
    }
    let mut map = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta { name: Some(MAP.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    });
    map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned());
    map.data = Some(data);
    Some(map)
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let certificates = match certificates(&ctx.config) {
        Ok(Some(certificates)) => certificates,
        Ok(None) => return,
        Err(error) => {
            return tracing::error!(
                error = &error as &dyn std::error::Error,
                "the cluster's certificates are not published"
            );
        }
    };
    let queue = Queue::new(NAME);
    let maps = ctx.informers.get_with(&(), Options::fields(format!("metadata.name={MAP}")));
    let this = Arc::new(Controller { certificates, namespaces: ctx.informer(), maps, ctx: ctx.clone() });
    if ctx.until_stopped(futures::future::join(this.namespaces.synced(), this.maps.synced())).await.is_none() {
        return;
    }
    this.namespaces.wake(&queue, |change| change.present().map(|n| Key::of(&n.metadata)));
    this.maps.wake(&queue, |change| change.object().metadata.namespace.as_deref().map(Key::cluster));
    client::controller::run(NAME, queue, 1, ctx.shutdown.clone(), move |key| this.clone().reconcile(key)).await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        if !self.namespaces.get(&key).is_some_and(|n| is_active(&n)) {
            return Ok(Next::Done);
        }
        let current = self.maps.get(&Key::new(&key.name, MAP));
        let Some(map) = decide(&key.name, current.as_deref(), &self.certificates) else { return Ok(Next::Done) };
        let api = self.ctx.api::<ConfigMap>(&key.name);
        let written = match current {
            Some(_) => api.replace(MAP, &PostParams::default(), &map).await,
            None => api.create(&PostParams::default(), &map).await,
        };
        match written {
            Ok(map) => self.maps.ensure_seen(&map).await.map(|()| Next::Done),
            Err(error) if is_conflict(&error) || is_already_exists(&error) => Ok(Next::Again),
            Err(error) if is_not_found(&error) || namespace_is_terminating(&error) => Ok(Next::Done),
            Err(error) => Err(error).step("writing kube-root-ca.crt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_restored_and_the_rest_is_kept() {
        let fresh = decide("ns", None, "CA").expect("a change");
        let again = decide("ns", Some(&fresh), "CA");
        let mut edited = fresh.clone();
        edited.data.get_or_insert_default().insert("more".into(), "x".into());
        edited.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        let restored = decide("ns", Some(&edited), "CA").expect("a change");
        assert_eq!((again, restored.data, restored.metadata.labels), (None, fresh.data, edited.metadata.labels));
    }
}
