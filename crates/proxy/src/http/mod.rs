//! HTTP as the proxy sees it, the same for every version on the wire: [`Request`] in, [`Response`] out.
//!
//! The engines (`h1`, `h2`) turn bytes into these types and back; routing, filters and forwarding know
//! nothing else, so each filter is written once.

pub mod body;
pub mod filters;
mod forward;
pub mod h1;
pub mod h2;
pub mod headers;
mod inbound;
pub mod message;
mod mirror;
pub mod path;
pub mod reply;
mod retry;
pub mod route;
pub mod service;
mod session;
mod taken;

pub use body::{Body, BodySource, Frame};
pub use headers::Headers;
pub use message::{
    Authority, Connection, Handler, Informational, InvalidAuthority, Request, RequestHead, Response,
    ResponseHead, Scheme, Target, TlsInfo, Tunnel, Version,
};
pub use session::Session;
pub use taken::{Counted, Taken};
