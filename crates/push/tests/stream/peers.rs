//! Several controllers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use portway_push::{PeerOptions, ServiceAccount};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{Controller, Proxy, plan};

/// Of the controllers.
fn controllers() -> ServiceAccount {
    ServiceAccount::new("portway-system", "portway")
}

fn token_file(controller: &Controller, token: &str) -> PathBuf {
    controller.options(token).token_file
}

/// Has a controller listen to others, of which it is one, with that token.
fn listen(to: &Controller, others: &[&Controller], token: &str) -> JoinHandle<()> {
    let all = others.iter().chain([&to]);
    let pem: String = all.clone().map(|it| std::fs::read_to_string(it.ca_file()).unwrap()).collect();
    let addresses: BTreeSet<_> = all.map(|it| it.address).collect();
    let options = PeerOptions { server_name: "push.example".to_owned(), token_file: token_file(to, token) };
    let server = to.server.clone();
    let (peers, authorities) = (watch::channel(addresses).1, watch::channel(pem).1);
    tokio::spawn(async move { server.follow_peers(peers, authorities, options).await })
}

async fn start() -> Controller {
    let controller = Controller::start().await;
    controller.tokens.give("ours", controllers(), "portway-1");
    controller
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_of_another_controller_serves_is_told_by_ones_own_revisions() {
    let (here, there) = (start().await, start().await);
    listen(&there, &[&here], "ours");
    listen(&here, &[&there], "ours");
    here.publish(&plan(20, 1));
    let second = here.publish(&plan(20, 2));
    there.publish(&plan(20, 2));
    let mut proxy = Proxy::start(there.options("token"));
    proxy.take().await;
    let told = here.acknowledged(second).await;
    assert_eq!((second, told.replicas.len()), (2, 1));
    assert!(told.replicas[0].connected);
    assert_eq!(&*told.replicas[0].pod.name, "one");

    // The other one is faster.
    there.publish(&plan(20, 3));
    proxy.take().await;
    here.until(|state| state.replicas[0].acknowledged == 0).await;
    let third = here.publish(&plan(20, 3));
    here.acknowledged(third).await;

    // And now slower.
    let fourth = here.publish(&plan(20, 4));
    there.publish(&plan(20, 4));
    proxy.say(Err("no room".to_owned())).await;
    let told = here.until(|state| state.replicas[0].rejected.is_some()).await;
    let rejected = told.replicas[0].rejected.as_ref().unwrap();
    assert_eq!((rejected.revision, &*rejected.reason), (fourth, "no room"));
    assert_eq!(told.replicas[0].acknowledged, third);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_controller_ends_its_proxies_still_serve_what_they_did() {
    let (here, mut there) = (start().await, start().await);
    listen(&there, &[], "ours");
    listen(&here, &[&there], "ours");
    let revision = here.publish(&plan(20, 1));
    there.publish(&plan(20, 1));
    let mut proxy = Proxy::start(there.options("token"));
    proxy.take().await;
    here.acknowledged(revision).await;
    there.end().await;
    let told = here.until(|state| !state.replicas[0].connected).await;
    assert_eq!(told.replicas[0].acknowledged, revision);
    // It comes here, where it is the same replica.
    let mut proxy = Proxy::start(here.options("token"));
    proxy.take().await;
    let told = here.until(|state| state.replicas[0].connected).await;
    assert_eq!(told.replicas.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_shown_a_controllers_token_may_listen_for_long() {
    let (here, there) = (start().await, start().await);
    listen(&there, &[], "ours");
    listen(&here, &[&there], "ours");
    let revision = here.publish(&plan(20, 1));
    there.publish(&plan(20, 1));
    let mut proxy = Proxy::start(there.options("token"));
    proxy.take().await;
    here.acknowledged(revision).await;
    // Connections that prove nothing are cut after 10 s.
    let cut = here.until(|state| !state.replicas[0].connected);
    assert!(tokio::time::timeout(Duration::from_secs(12), cut).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_controllers_are_told() {
    let (here, there, stranger) = (start().await, start().await, start().await);
    listen(&there, &[], "ours");
    listen(&stranger, &[&there], "token");
    listen(&here, &[&there], "ours");
    let revision = here.publish(&plan(20, 1));
    there.publish(&plan(20, 1));
    stranger.publish(&plan(20, 1));
    let mut proxy = Proxy::start(there.options("token"));
    proxy.take().await;
    here.acknowledged(revision).await;
    let known = stranger.server.state(&crate::harness::gateway()).unwrap();
    assert_eq!(known.replicas, []);
}
