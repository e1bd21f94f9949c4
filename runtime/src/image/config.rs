//! The parts of an image's configuration that matter for running it.

use serde::{Deserialize, Deserializer, Serialize};

/// Null as the default value: encoders in the wild write it for empty lists and objects.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// "amd64", ...
    #[serde(default)]
    pub architecture: String,
    /// "linux".
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default, deserialize_with = "nullable")]
    pub config: RunConfig,
    /// Its layers.
    pub rootfs: RootFs,
}

/// Layers by the digests of their uncompressed archives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

/// How an image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The command.
    #[serde(deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// Its arguments.
    #[serde(deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Where it starts.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// "SIGQUIT", "QUIT" or "3".
    #[serde(deserialize_with = "nullable")]
    pub stop_signal: String,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: std::collections::BTreeMap<String, String>,
}

/// An image's user as CRI tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// A number.
    Uid(i64),
    /// A name; empty when the image names none (root).
    Name(String),
}

impl RunConfig {
    /// The user without its group.
    pub fn image_user(&self) -> ImageUser {
        let user = self.user.split(':').next().unwrap_or("");
        match user.parse() {
            Ok(uid) => ImageUser::Uid(uid),
            // No user is root: kubelets read this for runAsNonRoot.
            Err(_) if user.is_empty() => ImageUser::Uid(0),
            Err(_) => ImageUser::Name(user.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_users() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"User":"app:staff","Env":null,"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(
            (config.config.cmd.clone(), config.config.image_user()),
            (vec!["sh".into()], ImageUser::Name("app".into()))
        );
        assert_eq!(RunConfig { user: "12:3".into(), ..Default::default() }.image_user(), ImageUser::Uid(12));
        assert_eq!(RunConfig::default().image_user(), ImageUser::Uid(0));
    }
}
