//! HTTP/2 (RFC 9113), on the `h2` crate: the clients' side, the backends' side and what they share.

pub mod body;
pub mod client;
pub mod fields;
mod request;
pub mod server;
mod wire;
