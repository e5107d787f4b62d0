//! Who gets nothing.

use portway_push::{GatewayName, ServiceAccount};

use crate::harness::{Controller, Proxy, account, plan};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_gets_nothing() {
    let controller = Controller::start().await;
    controller.publish(&plan(3, 1));
    let mut proxy = Proxy::start(controller.options("wrong"));
    let state = proxy.until(|state| state.error.is_some()).await;
    assert!(state.error.as_deref().unwrap().contains("nobody knows it"), "{state:?}");
    assert!(!proxy.has_plan());
    let counters = controller.server.counters();
    assert!(counters.unauthenticated >= 1 && counters.shards == 0, "{counters:?}");

    // The token is read from its file each time.
    controller.options("token");
    let folder = controller.folder.path();
    std::fs::copy(folder.join("token of token"), folder.join("token of wrong")).unwrap();
    proxy.take().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_another_gateway_gets_nothing() {
    let controller = Controller::start().await;
    controller.publish(&plan(3, 1));
    let (other, others) = (GatewayName::new("store", "other"), ServiceAccount::new("store", "other-portway"));
    controller.server.publish(&other, &others, &plan(1, 7)).unwrap();
    // The same name in another namespace, and another Gateway of the same namespace.
    for (token, stranger) in
        [("elsewhere", ServiceAccount::new("evil", &*account().name)), ("beside", others)]
    {
        controller.tokens.give(token, stranger, "stranger");
        let mut proxy = Proxy::start(controller.options(token));
        let state = proxy.until(|state| state.error.is_some()).await;
        assert!(state.error.as_deref().unwrap().contains("permission"), "{state:?}");
        assert!(!proxy.has_plan());
    }
    let counters = controller.server.counters();
    assert!(counters.forbidden >= 2 && counters.shards == 0, "{counters:?}");
    let mut options = controller.options("beside");
    options.gateway = other;
    assert_eq!(*Proxy::start(options).take().await, plan(1, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_nobody_vouches_for_is_not_believed() {
    let controller = Controller::start().await;
    controller.publish(&plan(3, 1));
    let stranger = Controller::start().await;
    let mut options = controller.options("token");
    options.ca_file = stranger.ca_file();
    let mut proxy = Proxy::start(options.clone());
    let state = proxy.until(|state| state.error.is_some()).await;
    assert!(state.error.as_deref().unwrap().contains("certificate"), "{state:?}");
    options.ca_file = controller.ca_file();
    options.server_name = "other.example".to_owned();
    let mut proxy = Proxy::start(options);
    let state = proxy.until(|state| state.error.is_some()).await;
    assert!(state.error.as_deref().unwrap().contains("certificate"), "{state:?}");
    assert_eq!(controller.server.counters().accepted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_withdrawn_is_told_of_no_more() {
    let controller = Controller::start().await;
    controller.publish(&plan(3, 1));
    let mut proxy = Proxy::start(controller.options("token"));
    proxy.take().await;
    controller.server.withdraw(&crate::harness::gateway());
    proxy.until(|state| !state.connected && state.error.is_some()).await;
    assert_eq!(controller.server.state(&crate::harness::gateway()), None);
    assert!(!proxy.has_plan(), "it goes on with what it has");
}
