//! A watch of all objects of one kind.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use portway_api::object::{KindId, ObjectKey};
use portway_store::AnyObject;
use tokio::sync::mpsc;

use super::Message;
use super::object::{self, Raw};
use crate::outage::{Outages, Pauses, RECOVERED};

/// Sends what happens to the objects of a kind, for ever.
pub(super) async fn follow(
    kind: KindId,
    version: &'static str,
    client: Client,
    outages: Arc<Outages>,
    sender: mpsc::Sender<Message>,
) {
    let api = Api::<Raw>::all_with(client, &object::resource(kind, version));
    let watched = watcher(api, watcher::Config::default());
    let mut events = pin!(without_failures(kind.info().plural, watched, outages));
    let mut listing: Option<BTreeSet<ObjectKey>> = None;
    while let Some(event) = events.next().await {
        let message = match event {
            Event::Init => {
                listing = Some(BTreeSet::new());
                None
            }
            Event::InitApply(raw) => {
                listing.get_or_insert_default().insert(raw.key(kind));
                read(kind, raw).map(Message::Applied)
            }
            Event::InitDone => Some(Message::Listed(kind, listing.take().unwrap_or_default())),
            Event::Apply(raw) => read(kind, raw).map(Message::Applied),
            Event::Delete(raw) => Some(Message::Removed(raw.key(kind))),
        };
        if let Some(message) = message
            && sender.send(message).await.is_err()
        {
            return;
        }
    }
}

/// The events of a watch without its failures: those are told of, and it is tried again.
pub(crate) fn without_failures<K: Send + 'static>(
    what: &'static str,
    watched: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    outages: Arc<Outages>,
) -> impl Stream<Item = Event<K>> {
    let state = (Box::pin(watched), Pauses::default(), outages);
    futures_util::stream::unfold(state, move |(mut watched, mut pauses, outages)| async move {
        loop {
            match tokio::time::timeout(RECOVERED, watched.next()).await {
                Ok(None) => return None,
                Ok(Some(Err(error))) => {
                    outages.watch_failed(what, &error);
                    pauses.wait().await;
                }
                // This one comes before the request is made.
                Ok(Some(Ok(event @ Event::Init))) => return Some((event, (watched, pauses, outages))),
                Ok(Some(Ok(event))) => {
                    outages.works(what);
                    pauses.reset();
                    return Some((event, (watched, pauses, outages)));
                }
                // Nothing happens, and nothing fails either.
                Err(_) => {
                    outages.works(what);
                    pauses.reset();
                }
            }
        }
    })
}

/// An object that cannot be read stays as it was, if it was.
pub(super) fn read(kind: KindId, raw: Raw) -> Option<AnyObject> {
    let key = raw.key(kind);
    match object::read(kind, raw) {
        Ok(object) => Some(object),
        Err(error) if kind == KindId::Secret => {
            // The error may quote what it could not read.
            tracing::warn!(object = %key, line = error.line(), "cannot be read");
            None
        }
        Err(error) => {
            tracing::warn!(object = %key, %error, "cannot be read");
            None
        }
    }
}
