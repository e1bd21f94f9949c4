//! The server as clients see it: status codes, headers, bodies. A story a test, each on a server of its own.

mod ask;
mod bodies;
mod deletion;
mod dry_run;
mod lists;
mod parts;
mod paths;
mod pressure;
mod protobuf;
mod services;
mod stores;
mod watches;
mod writes;
