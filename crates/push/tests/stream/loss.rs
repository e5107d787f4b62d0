//! The controller, or the network, goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portway_plan::{Plan, Shards};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Controller, Proxy, plan, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_serves_on_and_gets_nothing_twice() {
    let mut controller = Controller::start().await;
    let revision = controller.publish(&plan(20, 1));
    let mut proxy = Proxy::start(controller.options("token"));
    proxy.take().await;
    controller.acknowledged(revision).await;
    proxy.until(|state| state.connected).await;

    controller.end().await;
    proxy.until(|state| !state.connected && state.error.is_some()).await;
    assert!(!proxy.has_plan(), "what is served stays");
    let told = controller.until(|state| !state.replicas[0].connected).await;
    assert_eq!(told.replicas[0].acknowledged, revision, "it still serves it");

    let before = controller.server.counters();
    // With another authority, which the proxy reads from the file again.
    controller.serve().await;
    proxy.take().await;
    let state =
        controller.until(|state| state.replicas[0].connected && state.replicas[0].acknowledged > 0).await;
    assert_eq!(state.replicas[0].acknowledged, revision);
    assert_eq!(controller.server.counters().shards, before.shards, "it has all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_without_a_controller_serves_what_was_kept() {
    let mut controller = Controller::start().await;
    let kept = tempfile::tempdir().unwrap();
    let mut options = controller.options("token");
    options.state_dir = Some(kept.path().to_owned());
    controller.publish(&plan(20, 1));
    let mut proxy = Proxy::start(options.clone());
    proxy.take().await;
    controller.acknowledged(1).await;
    controller.end().await;
    // It is kept at the end of the stream at the latest.
    proxy.until(|state| !state.connected && state.error.is_some()).await;
    proxy.stop().await;

    let file = std::fs::read(kept.path().join("plan")).unwrap();
    assert!(!file.windows(5).any(|window| window == b"a key"), "a key is on disk");

    let mut proxy = Proxy::start(options.clone());
    let (restored, complete) = proxy.say(Ok(portway_push::Outcome::default())).await;
    assert_eq!(*restored, Plan { certificates: Shards::default(), ..plan(20, 1) });
    assert!(!complete, "the certificate is missing");
    proxy.until(|state| state.from_disk).await;

    let before = controller.server.counters();
    controller.serve().await;
    let (whole, complete) = proxy.say(Ok(portway_push::Outcome::default())).await;
    assert_eq!(*whole, plan(20, 1));
    assert!(complete);
    controller.acknowledged(1).await;
    assert_eq!(controller.server.counters().shards, before.shards + 1, "the certificate");
    proxy.stop().await;

    // A file that is cut, or of another Gateway, is none.
    std::fs::write(kept.path().join("plan"), &file[..file.len() - 3]).unwrap();
    let mut proxy = Proxy::start(options);
    assert_eq!(*proxy.take().await, plan(20, 1));
    assert!(!proxy.state.borrow().from_disk);
}

/// A network between them that may swallow everything.
async fn network(to: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = Arc::clone(&cut);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near_in, far_out), (far_in, near_out)] {
                let cut = Arc::clone(&is_cut);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 16 * 1024];
                    while let Ok(read @ 1..) = from.read(&mut buffer).await {
                        if !cut.load(Ordering::Relaxed) && to.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    (address, cut)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_notice_within_seconds_that_the_other_is_gone() {
    let controller = Controller::start().await;
    let revision = controller.publish(&plan(1, 1));
    let (address, cut) = network(controller.address).await;
    let mut options = controller.options("token");
    options.controller = address.to_string();
    let mut proxy = Proxy::start(options);
    proxy.take().await;
    controller.acknowledged(revision).await;
    cut.store(true, Ordering::Relaxed);
    let noticed = async {
        proxy.until(|state| !state.connected).await;
        controller.until(|state| !state.replicas[0].connected).await;
    };
    tokio::time::timeout(Duration::from_secs(15), noticed).await.expect("nobody notices");
    cut.store(false, Ordering::Relaxed);
    soon(proxy.take()).await;
    controller.until(|state| state.replicas[0].connected).await;
}
