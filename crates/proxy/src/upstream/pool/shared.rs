//! HTTP/2 connections to one endpoint, which requests share.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{Pool, Pools};
use crate::fault::{Fault, FaultKind};
use crate::http::h2;
use crate::upstream::Limits;

impl Pool {
    /// An HTTP/2 connection with room for a stream.
    pub(super) async fn shared_connection(
        self: &Rc<Self>,
        pools: &Pools,
        turn: u64,
    ) -> Result<Rc<h2::client::Client>, Fault> {
        let limits = &pools.limits;
        // Who waits comes first.
        if self.queue.is_empty()
            && let Some(client) = self.with_room()
        {
            self.counts.reused.add(1);
            return Ok(client);
        }
        let begun = Instant::now();
        // The time for waiting is apart from the time for connecting.
        let at_most = limits.wait_timeout + limits.connect_timeout + limits.handshake_timeout;
        let waiting = self.queue.wait(turn, |first| {
            let found = if first { self.look() } else { None };
            if let Some(client) = found {
                return Some(Ok(client));
            }
            // Opening one while this request waited has had no luck. Who tries again is first again: the others must
            // not wait for that.
            if let Some((_, fault)) = self.failed.borrow().as_ref().filter(|(failed, _)| *failed >= begun) {
                return Some(Err(fault.clone()));
            }
            let few = self.shared.borrow().len() < limits.h2_connections_per_endpoint;
            if first && few && !self.opening.replace(true) {
                tokio::task::spawn_local(self.clone().open(limits.clone(), pools.loans.clone()));
            }
            None
        });
        Box::pin(self.wait(limits, at_most, waiting)).await?
    }

    /// Opens an HTTP/2 connection for all who wait. A task of its own, since they may find room elsewhere, or give
    /// up, meanwhile.
    async fn open(self: Rc<Self>, limits: Limits, loans: Rc<h2::Loans>) {
        // Nobody else would be told of a panic: all would wait for what is opened no more.
        let connecting = AssertUnwindSafe(self.connect(&limits, b"h2")).catch_unwind().await;
        match connecting.unwrap_or_else(|_| Err(FaultKind::Internal.into())) {
            Ok(stream) => {
                let (secure, queue) = (self.tls.is_some(), self.queue.clone());
                let room = Rc::new(move || queue.stir());
                let client = Rc::new(h2::client::Client::begin(stream, secure, room, loans));
                self.fresh.replace(Rc::downgrade(&client));
                self.shared.borrow_mut().push(client);
                self.opening.set(false);
                self.queue.stir();
            }
            Err(fault) => {
                self.failed.replace(Some((Instant::now(), fault)));
                self.opening.set(false);
                self.queue.stir_all();
            }
        }
    }

    /// What the first of those who wait finds: a connection with room for a stream, or one that is gone already.
    fn look(&self) -> Option<Rc<h2::client::Client>> {
        let fresh = self.fresh.take().upgrade();
        if let Some(client) = self.with_room() {
            let reused = !fresh.is_some_and(|fresh| Rc::ptr_eq(&fresh, &client));
            self.counts.reused.add(u64::from(reused));
            return Some(client);
        }
        // Gone before anything could be sent on it. It tells why, and that is a try: others would be opened without
        // end.
        fresh.filter(|client| !client.is_usable())
    }

    fn with_room(&self) -> Option<Rc<h2::client::Client>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|client| client.is_usable());
        shared.iter().find(|client| client.has_room()).cloned()
    }
}
