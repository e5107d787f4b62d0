//! The push: how a controller hands plans to its proxies.
//!
//! A gRPC stream over TLS. The controller sends the shards of a plan that the proxy does not have yet; the proxy
//! answers each revision with an acknowledgement or with the reason why it rejects it.
#![forbid(unsafe_code)]
