//! What is sent when something changes, and what comes back.

use portway_plan::Transport;
use portway_push::{Outcome, UnavailablePort};

use crate::harness::{Controller, Proxy, plan};

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_sent() {
    let controller = Controller::start().await;
    let first = controller.publish(&plan(50, 1));
    let mut proxy = Proxy::start(controller.options("token"));
    assert_eq!(*proxy.take().await, plan(50, 1));
    controller.acknowledged(first).await;
    // 50 hosts, 50 rules, a listener, a port, a certificate.
    assert_eq!(controller.server.counters().shards, 103);

    let second = controller.publish(&plan(50, 2));
    assert_eq!(second, first + 1);
    assert_eq!(*proxy.take().await, plan(50, 2));
    controller.acknowledged(second).await;
    assert_eq!(controller.server.counters().shards, 105, "the rule and its host");

    assert_eq!(controller.publish(&plan(50, 2)), second, "nothing has changed");
    assert!(!proxy.has_plan());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_proxy_gets_the_newest() {
    let controller = Controller::start().await;
    controller.publish(&plan(3, 1));
    let mut proxy = Proxy::start(controller.options("token"));
    let (_, slow) = proxy.get().await;
    let mut newest = 0;
    for version in 2..20 {
        newest = controller.publish(&plan(3, version));
    }
    slow.send(Ok(Outcome::default())).unwrap();
    assert_eq!(*proxy.take().await, plan(3, 19));
    controller.acknowledged(newest).await;
    assert_eq!(controller.server.counters().acknowledged, 2, "none of those between was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_plan_is_rejected_is_told_and_the_next_is_taken() {
    let controller = Controller::start().await;
    let first = controller.publish(&plan(3, 1));
    let mut proxy = Proxy::start(controller.options("token"));
    proxy.take().await;
    controller.acknowledged(first).await;
    let second = controller.publish(&plan(3, 2));
    proxy.say(Err("there is no memory left".to_owned())).await;
    let state = controller.until(|state| state.replicas[0].rejected.is_some()).await;
    let rejected = state.replicas[0].rejected.clone().unwrap();
    assert_eq!((rejected.revision, &*rejected.reason), (second, "there is no memory left"));
    assert_eq!(state.replicas[0].acknowledged, first);

    let third = controller.publish(&plan(3, 3));
    assert_eq!(*proxy.take().await, plan(3, 3));
    let state = controller.acknowledged(third).await;
    assert_eq!(state.replicas[0].rejected, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_cannot_be_bound_is_told_and_so_is_that_it_can() {
    let controller = Controller::start().await;
    let revision = controller.publish(&plan(1, 1));
    let mut proxy = Proxy::start(controller.options("token"));
    let port = UnavailablePort {
        address: Some("10.0.0.1".parse().unwrap()),
        port: 80,
        transport: Transport::Tcp,
        reason: "it is in use".to_owned(),
    };
    let outcome = Outcome { unavailable: vec![port], failed: Vec::new() };
    proxy.say(Ok(outcome.clone())).await;
    let state = controller.acknowledged(revision).await;
    assert_eq!(state.replicas[0].outcome, outcome);
    assert_eq!(*state.replicas[0].pod.name, *"one");
    // It is tried again without a new plan.
    proxy.take().await;
    controller.until(|state| state.replicas[0].outcome == Outcome::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_before_its_gateway_waits_for_it() {
    let controller = Controller::start().await;
    let mut proxy = Proxy::start(controller.options("token"));
    controller.tokens.give("other", crate::harness::account(), "two");
    let mut other = Proxy::start(controller.options("other"));
    tokio::task::yield_now().await;
    let revision = controller.publish(&plan(2, 1));
    assert_eq!(*proxy.take().await, plan(2, 1));
    assert_eq!(*other.take().await, plan(2, 1));
    controller.until(|state| state.replicas.iter().filter(|r| r.acknowledged == revision).count() == 2).await;
}
