//! Stories of whole clusters, as a user lives them. They need root and run one after another.

mod backup;
mod cni;
mod disk;
mod helm;
mod join;
mod life;
mod loss;
mod names;
mod policies;
mod services;
mod standalone;
mod streams;
mod virtual_address;
