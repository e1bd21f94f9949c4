//! Which Kubernetes this behaves as, and what it runs on, in Go's words.

/// Kubernetes' version, with ours behind it.
pub const VERSION: &str = "v1.35.0+knarr1";
/// Its first number.
pub const MAJOR: &str = "1";
/// Its second.
pub const MINOR: &str = "35";

/// The machine's architecture (`amd64`).
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// `linux/amd64`.
pub fn platform() -> String {
    format!("linux/{}", architecture())
}
