//! The proxy as its clients meet it: sockets, TLS, plans that change, shutdown, and what is observed.

mod admin;
mod apply;
mod hostile;
mod observe;
mod plans;
mod shutdown;
mod tickets;
mod tls;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use portway_plan::Plan;
use portway_proxy::{BindMode, Options, Proxy};
use portway_testkit::soon;

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

/// The value of a metric, by its name and labels as they are exposed.
fn metric(proxy: &Proxy, series: &str) -> Option<f64> {
    let text = proxy.metrics().expose();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.parse().expect("a number"))
}

/// Waits until a metric has that value.
async fn until(proxy: &Proxy, series: &str, value: f64) -> anyhow::Result<()> {
    let reached = async {
        while metric(proxy, series) != Some(value) {
            tokio::task::yield_now().await;
        }
    };
    soon(&format!("{series} {value}"), reached).await
}
