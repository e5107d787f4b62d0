//! How many connections to an endpoint may be in use at once, on one worker.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Permits of one worker: no atomics, and a lock only for who has to wait.
#[derive(Debug)]
pub(super) struct Permits {
    free: Cell<usize>,
    waiting: Cell<usize>,
    freed: Notify,
}

/// A permit; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Rc<Permits>);

/// Counts one who waits until it is dropped.
pub(super) struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    pub(super) fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Permits {
    pub(super) fn new(count: usize) -> Rc<Self> {
        Rc::new(Self { free: Cell::new(count), waiting: Cell::default(), freed: Notify::new() })
    }

    /// A permit, if one is free that nobody waits for.
    #[inline]
    pub(super) fn try_take(self: &Rc<Self>) -> Option<Permit> {
        if self.waiting.get() > 0 { None } else { self.take() }
    }

    /// Waits for a permit, behind those that wait already.
    pub(super) async fn wait(self: &Rc<Self>) -> Permit {
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            // One who gives up passes the news on to the next.
            self.freed.notified().await;
            if let Some(permit) = self.take() {
                // Of several that were freed at once, the news may have reached this one alone.
                if self.free.get() > 0 {
                    self.freed.notify_one();
                }
                return permit;
            }
        }
    }

    fn take(self: &Rc<Self>) -> Option<Permit> {
        let left = self.free.get().checked_sub(1)?;
        self.free.set(left);
        Some(Permit(self.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let permits = &self.0;
        permits.free.set(permits.free.get() + 1);
        if permits.waiting.get() > 0 {
            permits.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn who_waits_comes_first_and_who_gives_up_passes_it_on() {
        let permits = Permits::new(1);
        let first = permits.try_take().unwrap();
        let mut second = Box::pin(permits.wait());
        let mut third = pin!(permits.wait());
        poll_fn(|cx| {
            assert!(second.as_mut().poll(cx).is_pending() && third.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(first);
        assert!(permits.try_take().is_none(), "it is for those who wait");
        drop(second);
        drop(third.await);
        assert!(permits.try_take().is_some());
    }

    #[tokio::test]
    async fn what_is_freed_at_once_reaches_all_who_wait() {
        let permits = Permits::new(3);
        let taken = [(); 3].map(|()| permits.try_take().unwrap());
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(permits.wait())).collect();
        let mut held = Vec::new();
        poll_fn(|cx| {
            assert!(waiting[0].as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(taken);
        poll_fn(|cx| {
            // Two more come before the one that waits has seen the news, and all are polled once again.
            for _ in 0..2 {
                for index in (0..waiting.len()).rev() {
                    if let Poll::Ready(permit) = waiting[index].as_mut().poll(cx) {
                        held.push(permit);
                        drop(waiting.remove(index));
                    }
                }
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(held.len(), 3, "permits are free, and nobody is told");
    }
}
