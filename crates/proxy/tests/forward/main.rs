//! The forwarding of requests, over real sockets: origins of our own behind, raw clients in front.

mod balance;
mod gateway;
mod grpc;
mod hostile;
mod origins;
mod retries;
mod streaming;
mod timeouts;
