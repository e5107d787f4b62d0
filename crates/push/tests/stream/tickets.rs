//! The keys of session tickets.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use portway_plan::{Plan, TicketKey};
use portway_push::{ClientOptions, GatewayName, ServiceAccount, TicketRoot};

use tracing_subscriber::fmt::MakeWriter;

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

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_log_of_either_side_has_a_byte_of_them() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let controller = Controller::start().await;
    controller.publish(&Plan::default());
    controller.server.set_ticket_root(TicketRoot::derive(b"secret"));
    let mut proxy = Proxy::start(controller.options("token"));
    let given = keys(&mut proxy).await;
    proxy.take().await;
    controller.acknowledged(1).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("TRACE"), "everything is logged");
    for key in &given {
        let some = &key.key.0[..8];
        let decimal = format!("{some:?}");
        let hexadecimal = some.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let escaped = bytes::Bytes::copy_from_slice(some);
        let (decimal, escaped) = (decimal.trim_matches(['[', ']']), format!("{escaped:?}"));
        let escaped = escaped.trim_start_matches("b\"").trim_end_matches('"');
        for written in [decimal, &hexadecimal, escaped] {
            assert!(!log.contains(written), "{written}");
        }
    }
}
