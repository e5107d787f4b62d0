//! How far backends may be ahead of clients that do not read, over all connections of a worker. Each stream has a
//! window of its own, so what streams may hold grows with their number, which clients decide: a window is
//! small at first, and only that of a stream that is read grows, while there is room for it.

use std::cell::Cell;
use std::rc::Rc;

use super::mux::Mux;

/// Bytes by which the window of a stream grows.
pub(super) const LOAN: u32 = 48 * 1024;

/// Room for windows that grow, shared by a worker's connections to backends.
pub struct Loans(Cell<usize>);

impl Loans {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Rc<Self> {
        Rc::new(Self(Cell::new(bytes / LOAN as usize)))
    }

    fn take(&self) -> bool {
        let left = self.0.get().checked_sub(1);
        left.is_some_and(|left| {
            self.0.set(left);
            true
        })
    }

    fn give_back(&self) {
        self.0.set(self.0.get() + 1);
    }
}

impl Mux {
    /// The window that a stream has when all is read that has come.
    pub(super) fn window_of(&self, key: usize) -> u32 {
        self.config.stream_window + if self.streams[key].lent { LOAN } else { 0 }
    }

    /// Lets the window of a stream that is read grow, once, while there is room; says by how much.
    pub(super) fn lend(&mut self, key: usize) -> u32 {
        let stream = &mut self.streams[key];
        if stream.lent || !self.loans.as_ref().is_some_and(|loans| loans.take()) {
            return 0;
        }
        stream.lent = true;
        LOAN
    }

    /// The stream is gone, and with it what it held.
    pub(super) fn repay(&self, lent: bool) {
        if lent {
            self.loans.iter().for_each(|loans| loans.give_back());
        }
    }
}
