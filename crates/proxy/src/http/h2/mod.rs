//! HTTP/2 (RFC 9113), on the `h2` crate: what both sides share, and the backends' side.

pub mod body;
pub mod client;
pub mod fields;
