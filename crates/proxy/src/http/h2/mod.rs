//! HTTP/2 (RFC 9113): the clients' side, the backends' side, and the engine that both stand on.
//!
//! A connection has a task, which reads frames and writes what waits (`wire`); its streams are other tasks
//! of the same thread ([`server`], [`client`]). They meet in the connection's state (`mux`; what comes is in
//! `receive` and `control`, what goes out in `send`), without locks. Heads are checked while they are decoded
//! ([`hpack`], `fields`) and become the same [`Headers`](crate::http::Headers) as those of HTTP/1.1.

mod body;
pub mod client;
mod control;
mod fields;
mod frame;
pub mod hpack;
mod loans;
mod mux;
mod output;
mod receive;
mod request;
mod send;
pub mod server;
mod stream;
mod wire;

pub use frame::Reason;
pub use loans::Loans;
