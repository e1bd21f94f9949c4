//! Who may come in: keys and certificates, the TLS listener, authentication, RBAC and its bootstrap policy, tokens.
//!
//! The registry knows none of this; it calls the seams in [`crate::gate`].

pub mod kubeconfig;
pub mod pki;
pub mod rbac;
pub mod tls;
pub mod x509;
