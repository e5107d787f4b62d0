//! The HTTP/1.1 engine over real sockets: what a client and a backend see of it.

mod client;
mod differential;
mod exchange;
mod fuzzed;
mod harness;
mod hostile;
mod limits;
mod property;
mod responses;
mod serving;
mod through;
