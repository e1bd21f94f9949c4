//! Service account tokens bound to pods, asked for through TokenRequest and renewed at 80% of their life.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest as ApiRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::api::PostParams;
use parking_lot::Mutex;

use crate::{
    pod::spec,
    volume::payload::{TokenRequest, token_requests},
};

struct Issued {
    token: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// Tokens in use on this node.
pub struct Tokens {
    client: kube::Client,
    issued: Mutex<HashMap<(String, TokenRequest), Issued>>,
}

impl Tokens {
    /// Asks `client`.
    pub fn new(client: kube::Client) -> Self {
        Self { client, issued: Mutex::default() }
    }

    /// Every token that the pod's volumes ask for, and when the first of them wants renewal.
    pub async fn of(&self, pod: &Pod) -> Result<(HashMap<TokenRequest, String>, Option<Timestamp>), String> {
        let (mut tokens, mut renew) = (HashMap::new(), None::<Timestamp>);
        for request in token_requests(pod) {
            let (token, renew_at) = self.one(pod, &request).await?;
            renew = Some(renew.map_or(renew_at, |r| r.min(renew_at)));
            tokens.insert(request, token);
        }
        Ok((tokens, renew))
    }

    async fn one(&self, pod: &Pod, request: &TokenRequest) -> Result<(String, Timestamp), String> {
        let key = (spec::uid(pod), request.clone());
        let now = Timestamp::now();
        if let Some(issued) = self.issued.lock().get(&key).filter(|i| now < i.renew_at) {
            return Ok((issued.token.clone(), issued.renew_at));
        }
        match self.ask(pod, request).await {
            Ok(issued) => {
                let answer = (issued.token.clone(), issued.renew_at);
                self.issued.lock().insert(key, issued);
                Ok(answer)
            }
            Err(error) => {
                // A token that still holds is better than none; try again soon.
                let issued = self.issued.lock();
                let old = issued.get(&key).filter(|i| now < i.expires_at);
                old.map(|i| (i.token.clone(), now + SignedDuration::from_secs(30))).ok_or(error)
            }
        }
    }

    async fn ask(&self, pod: &Pod, request: &TokenRequest) -> Result<Issued, String> {
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).filter(|n| !n.is_empty());
        let account = account.unwrap_or("default".to_owned());
        let asked = Timestamp::now();
        let body = ApiRequest {
            spec: TokenRequestSpec {
                audiences: if request.audience.is_empty() { Vec::new() } else { vec![request.audience.clone()] },
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
                expiration_seconds: Some(request.seconds),
            },
            ..ApiRequest::default()
        };
        let api: kube::Api<ServiceAccount> = kube::Api::namespaced(self.client.clone(), spec::namespace(pod));
        let answer = api.create_token_request(&account, &PostParams::default(), &body).await;
        let failed = |e: String| format!("failed to fetch token: {e}");
        let status = answer
            .map_err(|e| failed(client::status_of(&e).map_or_else(|| e.to_string(), |s| s.message.clone())))?
            .status
            .ok_or_else(|| failed("the answer holds none".to_owned()))?;
        let expires_at = status.expiration_timestamp.0;
        Ok(Issued { token: status.token, renew_at: renew_at(asked, expires_at), expires_at })
    }

    /// Forgets a pod's tokens.
    pub fn forget(&self, uid: &str) {
        self.issued.lock().retain(|(pod, _), _| pod != uid);
    }
}

/// After 80% of the life, and after a day at most.
fn renew_at(asked: Timestamp, expires_at: Timestamp) -> Timestamp {
    let life = expires_at.duration_since(asked);
    asked + (life * 4 / 5).min(SignedDuration::from_hours(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_after_four_fifths_of_their_life_or_a_day() {
        let asked = Timestamp::from_second(1_000_000).unwrap();
        let renewed = |hours: i64| renew_at(asked, asked + SignedDuration::from_hours(hours)).duration_since(asked);
        let minutes = [1, 10, 30, 31, 24 * 365].map(|hours| renewed(hours).as_mins());
        assert_eq!(minutes, [48, 480, 1440, 1440, 1440]);
    }
}
