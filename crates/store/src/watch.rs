//! What happens to files, as the kernel tells it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::scan::Inode;

/// A burst of changes is over when nothing happened for so long …
const QUIET: Duration = Duration::from_millis(20);
/// … but a stream of changes that does not end is taken in pieces.
const LONGEST: Duration = Duration::from_millis(200);
/// How often to look where the kernel does not tell, and at what could not be read.
const POLL: Duration = Duration::from_secs(2);
/// How long a file that is open for writing may rest before it is read as it is: what generates it may take
/// its time between two objects, and the half of a file can be valid.
const WRITING: Duration = Duration::from_secs(2);
/// … and how long it may be written to.
const WRITTEN: Duration = Duration::from_secs(30);
/// Events that can wait; if there are more, everything is looked at instead.
const WAITING: usize = 8192;

/// What happened.
enum Message {
    Touched(PathBuf, Touch),
    Wake,
}

/// How a file was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touch {
    /// Bytes were written, and there may be more.
    Written,
    /// Its mode, owner or times are others, which says nothing of whether it is whole.
    Marked,
    /// Whoever wrote has closed it; or it came, went or moved.
    Done,
}

/// A file that is open for writing.
#[derive(Clone, Copy, Debug)]
struct Writing {
    began: Instant,
    last: Instant,
}

impl Writing {
    /// When it is read although it is open.
    fn due(self) -> Instant {
        (self.last + WRITING).min(self.began + WRITTEN)
    }
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
    /// The files that are being written.
    writing: HashMap<PathBuf, Writing>,
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
        Self { watcher, messages, handle, trouble, ..Self::off() }
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
            writing: HashMap::new(),
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

    /// Whether a file is being written, so that it is better read later.
    pub(crate) fn is_being_written(&self, path: &Path) -> bool {
        self.writing.contains_key(path)
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

    /// Waits for something to happen, and for its end; `None` when stopped. With `impatience` it looks again
    /// by itself: the kernel does not tell when what failed would work.
    pub(crate) fn wait(
        &mut self,
        impatience: bool,
        concern: impl Fn(&Self, &Path) -> Concern,
    ) -> Option<Burst> {
        let mut burst = Burst::default();
        let mut began: Option<Instant> = None;
        loop {
            let resting = self.writing.values().map(|writing| writing.due()).min();
            let resting = resting.map(|due| due.saturating_duration_since(Instant::now()));
            let patience = match began {
                Some(began) => Some(QUIET.min(LONGEST.saturating_sub(began.elapsed()))),
                None if impatience || self.trouble.is_some() => Some(resting.unwrap_or(POLL).min(POLL)),
                None => resting,
            };
            let message = match patience {
                Some(patience) => self.messages.recv_timeout(patience),
                None => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if self.handle.flags.stop.load(Ordering::Acquire) {
                return None;
            }
            let mut over = false;
            let mut happened = self.handle.flags.everything.swap(false, Ordering::AcqRel);
            burst.everything |= happened;
            match message {
                Ok(Message::Touched(path, touch)) => match concern(self, &path) {
                    Concern::Nothing => {}
                    _ if touch == Touch::Written => self.note_writing(path),
                    _ if touch == Touch::Marked && self.is_being_written(&path) => {}
                    about => {
                        self.writing.remove(&path);
                        happened = true;
                        self.take(path, about, &mut burst);
                    }
                },
                Ok(Message::Wake) => {}
                Err(RecvTimeoutError::Timeout) => {
                    burst.everything |= began.is_none() && resting.is_none();
                    for path in self.rested() {
                        let about = concern(self, &path);
                        self.take(path, about, &mut burst);
                    }
                    over = true;
                }
                // The watcher holds a sender as well as we do.
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if happened {
                began.get_or_insert_with(Instant::now);
            }
            if over || began.is_some_and(|began| began.elapsed() >= LONGEST) {
                // What came and is written to now is read once that is over.
                burst.files.retain(|path| !self.is_being_written(path));
                if burst.everything || !burst.files.is_empty() {
                    return Some(burst);
                }
                began = None;
            }
        }
    }

    /// Something has happened at a path, and is over.
    fn take(&mut self, path: PathBuf, about: Concern, burst: &mut Burst) {
        burst.everything |= about == Concern::Everything;
        self.forget_all_in(&path);
        burst.files.insert(path);
    }

    fn note_writing(&mut self, path: PathBuf) {
        let now = Instant::now();
        self.writing.entry(path).or_insert(Writing { began: now, last: now }).last = now;
    }

    /// The files that have been open for writing for long enough; they are no longer waited for.
    fn rested(&mut self) -> Vec<PathBuf> {
        let now = Instant::now();
        self.writing.extract_if(|_, writing| writing.due() <= now).map(|(path, _)| path).collect()
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
        let touch = match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => Touch::Written,
            EventKind::Modify(ModifyKind::Metadata(_)) => Touch::Marked,
            _ => Touch::Done,
        };
        for path in event.paths {
            if self.wake.try_send(Message::Touched(path, touch)).is_err() {
                self.flags.everything.store(true, Ordering::Release);
            }
        }
    }
}
