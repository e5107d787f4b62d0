//! Who waits for room on a shared connection: the oldest request comes first, however often it was tried.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Those who wait, by their turn. A backend that takes a few requests from each connection and leaves the others
/// behind would otherwise leave some behind without end, while newer ones overtake them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

/// A place in the queue, until it is dropped.
struct Place<'a> {
    queue: &'a Queue,
    turn: u64,
}

impl Queue {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Has the first look again.
    pub(super) fn stir(&self) {
        let waiting = self.waiting.borrow();
        waiting.first_key_value().into_iter().for_each(|(_, first)| first.wake_by_ref());
    }

    /// Has all of them look again.
    pub(super) fn stir_all(&self) {
        self.waiting.borrow().values().for_each(Waker::wake_by_ref);
    }

    /// Waits, by this turn, which nobody else has, until `look` finds something. It is told whether it is the
    /// first's, and asked whenever [`stir`](Self::stir) is called and that is so, or [`stir_all`](Self::stir_all).
    pub(super) async fn wait<T>(&self, turn: u64, mut look: impl FnMut(bool) -> Option<T>) -> T {
        let place = Place { queue: self, turn };
        poll_fn(|cx| {
            let is_first = {
                let mut waiting = place.queue.waiting.borrow_mut();
                waiting.insert(turn, cx.waker().clone());
                waiting.first_key_value().is_some_and(|(first, _)| *first == turn)
            };
            look(is_first).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Dropped out of the borrow: it may own a task.
        let gone = self.queue.waiting.borrow_mut().remove(&self.turn);
        drop(gone);
        // There may be room for the next as well, or he was told of it who gives up.
        self.queue.stir();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn the_oldest_comes_first_and_who_gives_up_passes_it_on() {
        let queue = Queue::default();
        let room = Cell::new(0usize);
        let look = |first: bool| room.get().checked_sub(1).filter(|_| first).map(|left| room.set(left));
        let mut second = Box::pin(queue.wait(2, look));
        let mut third = pin!(queue.wait(3, look));
        let mut first = Box::pin(queue.wait(1, look));
        poll_fn(|cx| {
            assert!(second.as_mut().poll(cx).is_pending() && third.as_mut().poll(cx).is_pending());
            assert!(first.as_mut().poll(cx).is_pending());
            room.set(2);
            assert!(second.as_mut().poll(cx).is_pending(), "an older one waits");
            Poll::Ready(())
        })
        .await;
        queue.stir();
        first.await;
        drop(second);
        third.await;
        assert!(queue.is_empty());
    }
}
