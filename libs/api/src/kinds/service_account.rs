//! core/v1 ServiceAccount.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    metadata_accessors,
};
use crate::kind::{Context, KindInfo, Resource, Subresource};

/// The type of this kind.
pub type Served = ServiceAccount;

impl Resource for ServiceAccount {
    const INFO: KindInfo = KindInfo {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[Subresource::Token],
        columns: &[NAME, column("Secrets", "string", "How many secrets it lists."), AGE],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn prepare_for_create(&mut self, _ctx: &Context) {
        clean_secret_references(self);
    }

    fn prepare_for_update(&mut self, _old: &Self, _at: Option<Subresource>, _ctx: &Context) {
        clean_secret_references(self);
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let secrets = self.secrets.as_ref().map_or(0, Vec::len);
        vec![cells::name(&self.metadata), secrets.into(), cells::age(&self.metadata, now)]
    }
}

/// References to secrets carry nothing but the name.
fn clean_secret_references(account: &mut ServiceAccount) {
    for reference in account.secrets.iter_mut().flatten() {
        let name = reference.name.take();
        *reference = k8s_openapi::api::core::v1::ObjectReference { name, ..Default::default() };
    }
}
