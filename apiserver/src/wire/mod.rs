//! The wire: options in queries and bodies, content negotiation, bodies in and out. Knows no kinds and no store.

pub mod body;
pub mod compress;
pub mod negotiate;
pub mod options;
