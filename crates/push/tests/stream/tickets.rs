//! The keys of session tickets.

use std::time::SystemTime;

use portway_plan::{Plan, TicketKey};
use portway_push::{ClientOptions, GatewayName, ServiceAccount, TicketRoot};

use crate::harness::{Controller, Proxy, gateway, soon};

async fn keys(proxy: &mut Proxy) -> Vec<TicketKey> {
    soon(proxy.ticket_keys.wait_for(|keys| !keys.is_empty())).await.unwrap().clone()
}

#[tokio::test]
async fn the_proxies_of_a_gateway_have_the_same_and_others_have_others() {
    let controller = Controller::start().await;
    controller.publish(&Plan::default());
    controller.server.set_ticket_root(TicketRoot::derive(b"secret"));
    controller.tokens.give("other", ServiceAccount::new("store", "other-portway"), "two");
    let other = GatewayName::new("store", "other");
    let account = ServiceAccount::new("store", "other-portway");
    controller.server.publish(&other, &account, &Plan::default()).unwrap();

    let mut one = Proxy::start(controller.options("token"));
    let mut two = Proxy::start(controller.options("token"));
    let mut three = Proxy::start(ClientOptions { gateway: other, ..controller.options("other") });
    let now = TicketKey::epoch(SystemTime::now());
    let first = keys(&mut one).await;
    assert!(first.iter().any(|key| key.epoch == now) && first.len() == 3);
    assert_eq!(first, keys(&mut two).await);
    let others = keys(&mut three).await;
    assert!(first.iter().all(|key| others.iter().all(|other| other.key != key.key)));
    // Plans come all the same.
    one.take().await;
    three.take().await;
}

#[tokio::test]
async fn keys_come_to_proxies_that_are_there_and_never_to_their_disk() {
    let controller = Controller::start().await;
    controller.publish(&Plan::default());
    let state_dir = tempfile::tempdir().unwrap();
    let options = controller.options("token");
    let mut proxy = Proxy::start(ClientOptions { state_dir: Some(state_dir.path().to_owned()), ..options });
    proxy.take().await;
    controller.acknowledged(1).await;
    assert!(proxy.ticket_keys.borrow().is_empty(), "there is nothing to make keys of");
    let root = TicketRoot::derive(b"secret");
    controller.server.set_ticket_root(root.clone());
    let given = keys(&mut proxy).await;
    assert_eq!(given, root.keys(&gateway(), given[1].epoch));

    // The authority has changed.
    controller.server.set_ticket_root(TicketRoot::derive(b"another secret"));
    soon(proxy.ticket_keys.wait_for(|keys| *keys != given)).await.unwrap();
    // The end of the stream has the plan kept on disk.
    let mut controller = controller;
    controller.end().await;
    let kept = state_dir.path().join("plan");
    soon(async {
        while !kept.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let kept = std::fs::read(kept).unwrap();
    for key in given.iter().chain(&*proxy.ticket_keys.borrow()) {
        assert!(!kept.windows(key.key.0.len()).any(|bytes| bytes == key.key.0));
    }
}
