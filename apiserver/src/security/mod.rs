//! Who may come in: keys and certificates, the TLS listener, authentication, authorization (nodes, RBAC and its
//! bootstrap policy), tokens.
//!
//! The registry knows none of this; it calls the seams in [`crate::gate`], which [`setup::Security`] fills.

pub mod authn;
pub mod bootstrap_token;
pub mod guard;
pub mod impersonation;
pub mod jwt;
pub mod kubeconfig;
pub mod lookup;
pub mod modes;
pub mod node;
pub mod pki;
pub mod rbac;
mod refusal;
pub mod reviews;
pub mod setup;
mod socket;
pub mod tls;
pub mod tokens;

pub use knarr_x509 as x509;
pub use setup::{Config, Security};
