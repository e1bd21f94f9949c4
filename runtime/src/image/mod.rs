//! Images: their records, their layers, and how they get here.
//!
//! An image is a record (configuration digest, names, chain of layers); a layer is a directory that is unpacked once and used
//! as a lower directory of overlayfs by every image and container whose chain of layers begins alike. Layers are named by
//! small numbers, which keeps overlayfs's option string short; `chains/` says which chain ID a number stands for, and is
//! written last, so a layer without an entry there is rubbish of an interrupted import. Compressed layers are not kept:
//! nothing here pushes images.

mod archive;
mod config;
mod distribution;
mod name;
mod pull;
mod store;
mod unpack;

pub use config::{ImageConfig, ImageUser, RunConfig};
pub use name::normalize;
pub use pull::{Credentials, Registry, pull};
pub use store::{ImageRecord, ImageStore};
