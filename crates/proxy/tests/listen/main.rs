//! The proxy as its clients meet it: sockets, TLS, plans that change, shutdown, and what is observed.

mod plans;
mod tls;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use portway_plan::Plan;
use portway_proxy::{BindMode, Options, Proxy};

/// Options for a proxy on free ports with that many workers.
fn options(workers: usize) -> Options {
    Options { workers: NonZeroUsize::new(workers), bind: BindMode::Ephemeral, ..Options::default() }
}

/// A proxy that serves this plan, and the address of its first port.
fn serving(options: Options, plan: Plan) -> (Proxy, SocketAddr) {
    let proxy = Proxy::start(options).expect("a proxy");
    let applied = proxy.apply(Arc::new(plan));
    assert!(applied.is_complete(), "{applied:?}");
    let address = applied.ports[0].bound.clone().expect("bound");
    (proxy, address)
}
