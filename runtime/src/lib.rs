//! The container runtime.

pub mod cgroup;
pub mod disk;
pub mod error;
pub mod image;
pub mod seccomp;
