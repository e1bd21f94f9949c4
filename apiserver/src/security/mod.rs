//! Who may come in: keys and certificates, the TLS listener, authentication, RBAC and its bootstrap policy, tokens.
//!
//! The registry knows none of this; it calls the seams in [`crate::gate`].

pub mod authn;
pub mod impersonation;
pub mod jwt;
pub mod kubeconfig;
pub mod lookup;
pub mod pki;
pub mod rbac;
pub mod tls;
pub mod tokens;
pub mod x509;
