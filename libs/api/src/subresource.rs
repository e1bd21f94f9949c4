//! Names, verbs and objects of subresources, as paths and discovery have them.

use crate::kind::{KindInfo, Subresource};

const CHANGE: &[&str] = &["get", "patch", "update"];
const STREAM: &[&str] = &["create", "get"];
const RELAY: &[&str] = &["create", "delete", "get", "patch", "update"];

impl Subresource {
    /// Every subresource, by name.
    pub const ALL: [Self; 14] = [
        Self::Approval,
        Self::Attach,
        Self::Binding,
        Self::EphemeralContainers,
        Self::Eviction,
        Self::Exec,
        Self::Finalize,
        Self::Log,
        Self::PortForward,
        Self::Proxy,
        Self::Resize,
        Self::Scale,
        Self::Status,
        Self::Token,
    ];

    /// The last segment of its path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Approval => "approval",
            Self::Attach => "attach",
            Self::Binding => "binding",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Eviction => "eviction",
            Self::Exec => "exec",
            Self::Finalize => "finalize",
            Self::Log => "log",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::Resize => "resize",
            Self::Scale => "scale",
            Self::Status => "status",
            Self::Token => "token",
        }
    }

    /// The inverse of [`Subresource::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subresource| subresource.name() == name)
    }

    /// The verbs discovery announces.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Approval | Self::EphemeralContainers | Self::Resize | Self::Scale | Self::Status => CHANGE,
            Self::Attach | Self::Exec | Self::PortForward => STREAM,
            Self::Proxy => RELAY,
            Self::Binding | Self::Eviction | Self::Token => &["create"],
            Self::Finalize => &["update"],
            Self::Log => &["get"],
        }
    }

    /// Group, version and kind of what it takes and gives, below objects of `parent`.
    pub fn object(self, parent: &KindInfo) -> (&'static str, &'static str, &'static str) {
        let own = |kind| (parent.group, parent.version, kind);
        match self {
            Self::Attach => own("PodAttachOptions"),
            Self::Binding => own("Binding"),
            Self::Eviction => ("policy", "v1", "Eviction"),
            Self::Exec => own("PodExecOptions"),
            Self::PortForward => own("PodPortForwardOptions"),
            Self::Proxy if parent.kind == "Node" => own("NodeProxyOptions"),
            Self::Proxy if parent.kind == "Service" => own("ServiceProxyOptions"),
            Self::Proxy => own("PodProxyOptions"),
            Self::Scale => ("autoscaling", "v1", "Scale"),
            Self::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
            Self::Approval | Self::EphemeralContainers | Self::Finalize | Self::Log | Self::Resize | Self::Status => {
                own(parent.kind)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn names_are_told_apart_and_sorted() {
        assert_eq!(Subresource::ALL.map(|s| Subresource::parse(s.name())), Subresource::ALL.map(Some));
        assert!(Subresource::ALL.map(Subresource::name).is_sorted());
        for info in kinds::INFOS {
            let names: Vec<_> = info.subresources.iter().map(|s| s.name()).collect();
            assert!(names.is_sorted(), "{}: {names:?}", info.kind);
        }
    }

    #[test]
    fn discovery_knows_their_objects() {
        let object = |plural: &str, name: &str| {
            let info = kinds::by_resource("", "v1", plural).unwrap();
            Subresource::parse(name).unwrap().object(info)
        };
        let got = [
            object("pods", "eviction"),
            object("pods", "status"),
            object("services", "proxy"),
            object("replicationcontrollers", "scale"),
        ];
        let want = [
            ("policy", "v1", "Eviction"),
            ("", "v1", "Pod"),
            ("", "v1", "ServiceProxyOptions"),
            ("autoscaling", "v1", "Scale"),
        ];
        assert_eq!(got, want);
    }
}
