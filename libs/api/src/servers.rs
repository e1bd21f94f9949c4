//! By which names and addresses API servers are reached, as they tell each other in a ConfigMap of `kube-system`.

/// The ConfigMap's name.
pub const CONFIG_MAP: &str = "knarr-apiserver-names";
/// The entry in its data: every name and address that a server was ever started with, a line each.
pub const ENTRY: &str = "names";
