//! Telling a worker's connections that it drains: idle ones close at once, busy ones after their answer,
//! tunnels at the deadline.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::options::DrainTimes;

/// One worker's drain. Not shared between threads: each worker begins its own.
#[derive(Clone, Default)]
pub struct Drain(Rc<State>);

#[derive(Default)]
struct State {
    announced: Cell<bool>,
    deadline: Cell<Option<Instant>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Drain {
    /// Says that a drain is to come: answers tell clients to close the connection, and no connection is
    /// closed while it waits for a request.
    pub fn announce(&self) {
        self.0.announced.set(true);
    }

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
    /// Whether the worker drains, or is about to: whether connections are closed after an answer.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.drain.0.announced.get() || self.deadline().is_some()
    }

    /// When what is left is cut off; `None` while the worker does not drain.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.drain.deadline()
    }

    /// Ready once the worker drains. Registers the task that polls it first, which has to be the one that
    /// polls it ever after.
    pub fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline().is_some() {
            return Poll::Ready(());
        }
        // A connection polls this several times for each request.
        if self.slot.is_none() {
            self.register(cx);
        }
        Poll::Pending
    }

    /// Waits for the drain.
    pub async fn draining(mut self) {
        poll_fn(|cx| self.poll_draining(cx)).await;
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

/// What a proxy that goes away does, by the time since it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not ready, but everything is still served, with connections that are closed after each answer: those
    /// who send here have to hear of it first.
    Announced,
    /// Nothing is accepted any more; what is under way may end.
    Closing,
    /// Time is up: what is left is cut.
    Over,
}

/// The phase that long after the signal, with that many connections open, and how long it lasts at most.
/// The clock is the caller's.
pub(crate) fn phase(times: DrainTimes, since: Duration, open: usize) -> (Phase, Duration) {
    if since < times.min {
        (Phase::Announced, times.min - since)
    } else if open > 0 && since < times.max {
        (Phase::Closing, times.max - since)
    } else {
        (Phase::Over, Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test(flavor = "current_thread")]
    async fn an_announced_drain_closes_nothing_that_waits() {
        let drain = Drain::default();
        let mut watch = drain.watch();
        drain.announce();
        assert!(watch.is_draining());
        let waits = poll_fn(|cx| Poll::Ready(watch.poll_draining(cx).is_pending())).await;
        assert!(waits);
    }

    #[test]
    fn the_phases_of_going_away() {
        let second = Duration::from_secs;
        let times = DrainTimes { min: second(5), max: second(30) };
        assert_eq!(phase(times, second(0), 0), (Phase::Announced, second(5)), "even with nothing open");
        assert_eq!(phase(times, second(4), 9), (Phase::Announced, second(1)));
        assert_eq!(phase(times, second(5), 9), (Phase::Closing, second(25)));
        assert_eq!(phase(times, second(6), 0), (Phase::Over, second(0)));
        assert_eq!(phase(times, second(30), 9), (Phase::Over, second(0)));
    }
}
