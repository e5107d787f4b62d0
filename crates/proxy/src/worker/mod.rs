//! A worker: one thread, one current-thread runtime, its own sockets, pools and timers.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::observe::Recorder;
use crate::options::Options;
use crate::snapshot::Snapshot;

/// What the tasks of a worker share. Never leaves its thread.
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// How the proxy is set up.
    pub options: Arc<Options>,
    /// Its part of the observation.
    pub recorder: Rc<Recorder>,
    current: RefCell<Rc<Current>>,
    draining: Cell<bool>,
}

/// A worker's own handle of the snapshot. Behind an `Rc`, so that workers, which take one for each request,
/// do not count references in one place.
pub struct Current(Arc<Snapshot>);

impl Deref for Current {
    type Target = Arc<Snapshot>;

    fn deref(&self) -> &Arc<Snapshot> {
        &self.0
    }
}

impl Worker {
    /// A worker that serves nothing yet.
    pub fn new(index: usize, options: Arc<Options>, recorder: Recorder) -> Rc<Self> {
        Rc::new(Self {
            index,
            options,
            recorder: Rc::new(recorder),
            current: RefCell::new(Rc::new(Current(Arc::new(Snapshot::empty())))),
            draining: Cell::new(false),
        })
    }

    /// The current snapshot. Loaded once at the head of a request and passed down.
    pub fn snapshot(&self) -> Rc<Current> {
        self.current.borrow().clone()
    }

    /// From now on requests are served with this one.
    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.current.replace(Rc::new(Current(snapshot)));
    }

    /// Whether the proxy is going away: connections are closed after the response that is under way.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }
}
