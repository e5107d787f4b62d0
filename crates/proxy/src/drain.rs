//! Telling a worker's connections that it drains: idle ones close at once, busy ones after their answer,
//! tunnels at the deadline.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

/// One worker's drain. Not shared between threads: each worker begins its own.
#[derive(Clone, Default)]
pub struct Drain(Rc<State>);

#[derive(Default)]
struct State {
    deadline: Cell<Option<Instant>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Drain {
    /// Begins to drain: every [`DrainWatch`] is woken. Tunnels end at the deadline. Again: a new deadline.
    pub fn begin(&self, deadline: Instant) {
        self.0.deadline.set(Some(deadline));
        let wakers: Vec<Waker> = self.0.wakers.borrow_mut().iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// When what is left is cut off; `None` while the worker does not drain.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get()
    }

    /// A connection's view of it.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { drain: self.clone(), slot: None }
    }
}

/// One task's view of a [`Drain`].
pub struct DrainWatch {
    drain: Drain,
    slot: Option<usize>,
}

impl DrainWatch {
    /// Whether the worker drains.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.deadline().is_some()
    }

    /// When what is left is cut off; `None` while the worker does not drain.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.drain.deadline()
    }

    /// Ready once the worker drains. Registers the task once, however often it is polled.
    pub fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = self.is_draining();
        self.register(cx);
        if begun { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Has the task woken when the drain begins or its deadline changes.
    pub fn register(&mut self, cx: &mut Context<'_>) {
        let state = &self.drain.0;
        let mut wakers = state.wakers.borrow_mut();
        let slot = *self.slot.get_or_insert_with(|| {
            state.free.borrow_mut().pop().unwrap_or_else(|| {
                wakers.push(None);
                wakers.len() - 1
            })
        });
        match &mut wakers[slot] {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.drain.0.wakers.borrow_mut()[slot] = None;
            self.drain.0.free.borrow_mut().push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn every_watch_is_told_and_slots_are_used_again() {
        let drain = Drain::default();
        let mut gone = drain.watch();
        poll_fn(|cx| Poll::Ready(gone.poll_draining(cx).is_pending())).await;
        drop(gone);
        let mut watch = drain.watch();
        let told = async { poll_fn(|cx| watch.poll_draining(cx)).await };
        let begin = async { drain.begin(Instant::now() + Duration::from_secs(1)) };
        tokio::join!(told, begin);
        assert_eq!(drain.0.wakers.borrow().len(), 1);
        assert!(drain.watch().is_draining());
    }
}
