//! What happens to files, as the kernel tells it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::scan::Inode;

/// A burst of changes is over when nothing happened for so long …
const QUIET: Duration = Duration::from_millis(20);
/// … but a stream of changes that does not end is taken in pieces.
const LONGEST: Duration = Duration::from_millis(200);
/// How often to look where the kernel does not tell.
const POLL: Duration = Duration::from_secs(2);
/// Events that can wait; if there are more, everything is looked at instead.
const WAITING: usize = 8192;

/// What happened.
enum Message {
    Touched(PathBuf),
    Wake,
}

/// Flags that do not get lost when the queue of events is full.
#[derive(Debug, Default)]
struct Flags {
    stop: AtomicBool,
    /// Events were lost, or the user asks: look at everything.
    everything: AtomicBool,
}

/// What an event is about, as far as the files are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// Nothing that matters.
    Nothing,
    /// A file that is read, or would be.
    File,
    /// Which files there are.
    Everything,
}

/// What happened in one burst.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    /// Files that may have changed, come or gone.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Whether others may have come or gone.
    pub(crate) everything: bool,
}

/// Stops a [`FileSource`](crate::FileSource) that waits, or makes it look again; from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    wake: SyncSender<Message>,
    flags: Arc<Flags>,
}

impl Handle {
    /// Ends the waiting: `next` returns `None` from now on.
    pub fn stop(&self) {
        self.flags.stop.store(true, Ordering::Release);
        // A full queue wakes the source as well.
        let _ = self.wake.try_send(Message::Wake);
    }

    /// Looks at all files again, as if all of them had been touched.
    pub fn reload(&self) {
        self.flags.everything.store(true, Ordering::Release);
        let _ = self.wake.try_send(Message::Wake);
    }
}

/// Watches folders.
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// The watched folders by path, and by inode: the kernel has one watch for each folder, by whatever path.
    folders: HashMap<PathBuf, Inode>,
    paths: HashMap<Inode, PathBuf>,
    messages: Receiver<Message>,
    handle: Handle,
    /// Why some folder is not watched; it is polled then.
    trouble: Option<String>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let (wake, messages) = sync_channel(WAITING);
        let handle = Handle { wake, flags: Arc::default() };
        let events = handle.clone();
        let mut trouble = None;
        let watcher = notify::recommended_watcher(move |event| events.take(event))
            .map_err(|error| trouble = Some(error.to_string()))
            .ok();
        Self { watcher, folders: HashMap::new(), paths: HashMap::new(), messages, handle, trouble }
    }

    /// Watches nothing.
    pub(crate) fn off() -> Self {
        let (wake, messages) = sync_channel(1);
        let handle = Handle { wake, flags: Arc::default() };
        Self {
            watcher: None,
            folders: HashMap::new(),
            paths: HashMap::new(),
            messages,
            handle,
            trouble: None,
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Why files are polled; `None` when the kernel tells.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether a folder is watched.
    pub(crate) fn covers(&self, folder: &Path) -> bool {
        self.folders.contains_key(folder)
    }

    /// Which folder it is that is watched at a path.
    pub(crate) fn inode(&self, folder: &Path) -> Option<Inode> {
        self.folders.get(folder).copied()
    }

    /// Begins another round of [`add`](Self::add): what could not be watched may be now.
    pub(crate) fn begin(&mut self) {
        if self.watcher.is_some() {
            self.trouble = None;
        }
    }

    /// Watches a folder, if it is not watched yet.
    pub(crate) fn add(&mut self, folder: &Path, inode: Inode) {
        if self.folders.get(folder) == Some(&inode) {
            return;
        }
        // The path led to another folder before, or this folder had another path.
        self.forget(folder);
        if let Some(path) = self.paths.get(&inode).cloned() {
            self.forget(&path);
        }
        let Some(watcher) = &mut self.watcher else { return };
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.folders.insert(folder.to_owned(), inode);
                self.paths.insert(inode, folder.to_owned());
            }
            // Gone again; the folder that it was in tells if it returns.
            Err(_) if !folder.exists() => {}
            Err(error) => self.trouble = Some(format!("{}: {error}", folder.display())),
        }
    }

    /// Forgets the folders that matter no more.
    pub(crate) fn retain(&mut self, folders: &BTreeSet<PathBuf>) {
        let stale: Vec<PathBuf> =
            self.folders.keys().filter(|path| !folders.contains(*path)).cloned().collect();
        for folder in stale {
            self.forget(&folder);
        }
    }

    fn forget(&mut self, folder: &Path) {
        if let Some(inode) = self.folders.remove(folder) {
            self.paths.remove(&inode);
            if let Some(watcher) = &mut self.watcher {
                // Fails where the folder is gone, and its watch with it.
                let _ = watcher.unwatch(folder);
            }
        }
    }

    /// Forgets a folder that something happened to, and all in it: what is there now may be others, even under
    /// the same inodes.
    fn forget_all_in(&mut self, folder: &Path) {
        if self.covers(folder) {
            let inside: Vec<PathBuf> =
                self.folders.keys().filter(|path| path.starts_with(folder)).cloned().collect();
            for path in inside {
                self.forget(&path);
            }
        }
    }

    /// Waits for something to happen, and for its end; `None` when stopped.
    pub(crate) fn wait(&mut self, concern: impl Fn(&Self, &Path) -> Concern) -> Option<Burst> {
        let mut burst = Burst::default();
        let mut began: Option<Instant> = None;
        loop {
            let patience = match began {
                Some(began) => Some(QUIET.min(LONGEST.saturating_sub(began.elapsed()))),
                None if self.trouble.is_some() => Some(POLL),
                None => None,
            };
            let message = match patience {
                Some(patience) => self.messages.recv_timeout(patience),
                None => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if self.handle.flags.stop.load(Ordering::Acquire) {
                return None;
            }
            let mut happened = self.handle.flags.everything.swap(false, Ordering::AcqRel);
            burst.everything |= happened;
            match message {
                Ok(Message::Touched(path)) => match concern(self, &path) {
                    Concern::Nothing => {}
                    about => {
                        happened = true;
                        burst.everything |= about == Concern::Everything;
                        self.forget_all_in(&path);
                        burst.files.insert(path);
                    }
                },
                Ok(Message::Wake) => {}
                Err(RecvTimeoutError::Timeout) => {
                    burst.everything |= began.is_none();
                    return Some(burst);
                }
                // The watcher holds a sender as well as we do.
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if happened {
                began.get_or_insert_with(Instant::now);
            }
            if began.is_some_and(|began| began.elapsed() >= LONGEST) {
                return Some(burst);
            }
        }
    }
}

impl Handle {
    /// Takes an event from the kernel.
    fn take(&self, event: notify::Result<notify::Event>) {
        let Ok(event) = event else { return self.reload() };
        if event.need_rescan() {
            return self.reload();
        }
        // Reading is no change; were it one, our own reading would wake us.
        if let EventKind::Access(kind) = event.kind
            && kind != AccessKind::Close(AccessMode::Write)
        {
            return;
        }
        for path in event.paths {
            if self.wake.try_send(Message::Touched(path)).is_err() {
                self.flags.everything.store(true, Ordering::Release);
            }
        }
    }
}
