//! How many connections each worker holds, so that they can be spread evenly: the kernel spreads by hash,
//! which leaves few long-lived connections very uneven.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The open connections of all workers.
#[derive(Debug)]
pub(crate) struct Loads {
    workers: Box<[Load]>,
    /// Someone waits for connections to end.
    awaited: AtomicBool,
    lock: Mutex<()>,
    ended: Condvar,
}

/// On a cache line of its own: each worker writes its own at every connection.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load {
    connections: AtomicUsize,
    /// Sessions of UDP clients. They are where the kernel puts them, so they do not count in what is spread.
    sessions: AtomicUsize,
}

impl Loads {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Load::default()).collect(),
            awaited: AtomicBool::new(false),
            lock: Mutex::new(()),
            ended: Condvar::new(),
        }
    }

    /// All open connections.
    pub(crate) fn total(&self) -> usize {
        self.workers.iter().map(|load| load.connections.load(Ordering::SeqCst)).sum()
    }

    /// All sessions of UDP clients.
    pub(crate) fn sessions(&self) -> usize {
        self.workers.iter().map(|load| load.sessions.load(Ordering::SeqCst)).sum()
    }

    /// All that is open.
    pub(crate) fn open(&self) -> usize {
        self.total() + self.sessions()
    }

    /// Which worker is to take a connection that worker `own` has accepted: itself, unless it has notably
    /// more than the one with the fewest. A hand-over costs a few microseconds and is not worth it for one
    /// connection more or less among many.
    pub(crate) fn place(&self, own: usize) -> usize {
        let of = |worker: usize| self.workers[worker].connections.load(Ordering::Relaxed);
        let mine = of(own);
        match (0..self.workers.len()).map(|worker| (of(worker), worker)).min() {
            Some((least, worker)) if mine > least + 1 + least / 8 => worker,
            _ => own,
        }
    }

    /// Counts a connection for a worker.
    pub(crate) fn add(&self, worker: usize) {
        self.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session for a worker.
    pub(crate) fn add_session(&self, worker: usize) {
        self.workers[worker].sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// A session of a worker has ended.
    pub(crate) fn remove_session(&self, worker: usize) {
        self.workers[worker].sessions.fetch_sub(1, Ordering::SeqCst);
        self.tell();
    }

    /// A connection of a worker has ended.
    pub(crate) fn remove(&self, worker: usize) {
        self.workers[worker].connections.fetch_sub(1, Ordering::SeqCst);
        self.tell();
    }

    fn tell(&self) {
        if self.awaited.load(Ordering::SeqCst) {
            drop(self.lock.lock());
            self.ended.notify_all();
        }
    }

    /// Waits until the number of all that is open is no longer `seen`, but not longer than that.
    pub(crate) fn wait(&self, seen: usize, at_most: Duration) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.awaited.store(true, Ordering::SeqCst);
        if self.open() == seen {
            // Whatever ended the wait, the caller looks again.
            drop(self.ended.wait_timeout(guard, at_most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_when_the_kernel_gives_all_to_one() {
        let loads = Loads::new(2);
        for _ in 0..64 {
            loads.add(loads.place(0));
        }
        let counts: Vec<usize> =
            loads.workers.iter().map(|l| l.connections.load(Ordering::Relaxed)).collect();
        assert!(counts.iter().all(|n| *n <= 38), "{counts:?}");
        assert_eq!(loads.total(), 64);
    }
}
