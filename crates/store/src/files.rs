//! Objects from files and folders, as they change.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portway_api::diagnostic::Diagnostic;
use portway_api::yaml;

use crate::Loaded;
use crate::catalog::Catalog;
use crate::read::{self, Content};
use crate::resources::{Changes, Resources};
use crate::scan::{Limits, Root, Scan, Stamp, is_manifest, scan};
use crate::watch::{Concern, Handle, Watch};

/// Below so many files, threads cost more than they save.
const WORTH_THREADS: usize = 16;

/// What is different since the last time.
#[derive(Clone, Debug)]
pub struct Update {
    /// All objects as they are now.
    pub resources: Resources,
    /// Which of them changed; none if only what there is to say changed.
    pub changes: Changes,
    /// All that there is to say about the files, in order of file and line.
    pub diagnostics: Vec<Diagnostic>,
    /// Those of them that were not there the last time.
    pub news: Vec<Diagnostic>,
}

/// Files and folders that are read, and watched.
///
/// ```no_run
/// let (mut source, loaded) = portway_store::FileSource::open(["examples/quickstart".into()]);
/// let handle = source.handle();
/// std::thread::spawn(move || {
///     while let Some(update) = source.next() {
///         println!("{} objects changed", update.changes.len());
///     }
/// });
/// handle.stop();
/// ```
#[derive(Debug)]
pub struct FileSource {
    roots: Vec<Root>,
    limits: Limits,
    catalog: Catalog,
    known: BTreeMap<PathBuf, Known>,
    /// What there is to say about files and folders as such.
    about_files: Vec<Diagnostic>,
    watch: Watch,
    said: HashSet<String>,
}

/// A file as it was read.
#[derive(Clone, Debug)]
struct Known {
    name: Arc<str>,
    stamp: Stamp,
    /// The hash of the contents; `None` if they could not be read, so that it is tried again.
    hash: Option<u64>,
}

impl FileSource {
    /// Reads files and folders (recursively; `*.yaml`, `*.yml` and `*.json`), and watches them from then on.
    ///
    /// Never fails: what cannot be read is said in the diagnostics, and read once it can be.
    pub fn open(paths: impl IntoIterator<Item = PathBuf>) -> (Self, Loaded) {
        Self::open_within(paths, Limits::default())
    }

    /// [`open`](Self::open) with limits of one's own.
    pub fn open_within(paths: impl IntoIterator<Item = PathBuf>, limits: Limits) -> (Self, Loaded) {
        Self::begin(paths, limits, Watch::new())
    }

    /// Reads files and folders once, and watches nothing.
    pub fn load(paths: impl IntoIterator<Item = PathBuf>) -> Loaded {
        Self::begin(paths, Limits::default(), Watch::off()).1
    }

    fn begin(paths: impl IntoIterator<Item = PathBuf>, limits: Limits, watch: Watch) -> (Self, Loaded) {
        let mut source = Self {
            roots: paths.into_iter().map(Root::new).collect(),
            limits,
            catalog: Catalog::default(),
            known: BTreeMap::new(),
            about_files: Vec::new(),
            watch,
            said: HashSet::new(),
        };
        source.look_at_everything(&BTreeSet::new());
        let diagnostics = source.diagnostics();
        source.said = diagnostics.iter().map(Diagnostic::one_line).collect();
        let loaded = Loaded { resources: source.catalog.resources.clone(), diagnostics };
        (source, loaded)
    }

    /// Stops this source, or makes it look again, from another thread.
    pub fn handle(&self) -> Handle {
        self.watch.handle()
    }

    /// Waits until something is different; `None` once stopped.
    #[allow(clippy::should_implement_trait, reason = "an update is no item: it replaces the one before")]
    pub fn next(&mut self) -> Option<Update> {
        loop {
            let Self { watch, known, roots, .. } = self;
            let burst = watch.wait(|watch, path| concern(watch, known, roots, path))?;
            let before = self.catalog.resources.clone();
            let changes = if burst.everything {
                self.look_at_everything(&burst.files)
            } else {
                self.look_at(&burst.files)
            };
            let diagnostics = self.diagnostics();
            let lines: HashSet<String> = diagnostics.iter().map(Diagnostic::one_line).collect();
            if changes.is_empty() && lines == self.said && before.is_same(&self.catalog.resources) {
                continue;
            }
            let news =
                diagnostics.iter().filter(|found| !self.said.contains(&found.one_line())).cloned().collect();
            self.said = lines;
            return Some(Update { resources: self.catalog.resources.clone(), changes, diagnostics, news });
        }
    }

    /// Finds out which files there are, and reads those that are new, changed or `touched`.
    fn look_at_everything(&mut self, touched: &BTreeSet<PathBuf>) -> Changes {
        let (watch, known) = (&mut self.watch, &self.known);
        watch.begin();
        let Scan { files, folders, unreadable, diagnostics } = scan(
            &self.roots,
            &self.limits,
            &|path| known.get(path).map(|known| known.stamp.bytes),
            &mut |folder, inode| watch.add(folder, inode),
        );
        watch.retain(&folders);
        self.about_files = diagnostics;

        let hidden = |path: &Path| path.ancestors().any(|path| unreadable.contains(path));
        let gone: Vec<PathBuf> =
            self.known.keys().filter(|path| !files.contains_key(*path) && !hidden(path)).cloned().collect();
        let mut batch: Vec<(Arc<str>, Option<Content>)> =
            gone.iter().filter_map(|path| self.known.remove(path)).map(|known| (known.name, None)).collect();

        let due = files.into_iter().filter(|(path, found)| {
            self.known.get(path).is_none_or(|known| {
                known.stamp != found.stamp || known.hash.is_none() || touched.contains(path)
            })
        });
        let due: Vec<(PathBuf, Arc<str>)> = due.map(|(path, found)| (path, found.name)).collect();
        batch.extend(self.read(due));
        self.catalog.apply(batch)
    }

    /// Reads known files again.
    fn look_at(&mut self, files: &BTreeSet<PathBuf>) -> Changes {
        let due: Vec<(PathBuf, Arc<str>)> = files
            .iter()
            .filter_map(|path| self.known.get(path).map(|known| (path.clone(), Arc::clone(&known.name))))
            .collect();
        // A file that is gone may be somewhere else now, and one that grew may be one too many.
        if due.iter().any(|(path, _)| !path.is_file()) {
            return self.look_at_everything(files);
        }
        let batch = self.read(due);
        let bytes: u64 = self.known.values().map(|known| known.stamp.bytes).sum();
        let changes = self.catalog.apply(batch);
        if bytes > self.limits.total_bytes { self.look_at_everything(files) } else { changes }
    }

    /// Reads files, on several threads if they are many; leaves out those that say what they said before.
    fn read(&mut self, due: Vec<(PathBuf, Arc<str>)>) -> Vec<(Arc<str>, Option<Content>)> {
        let before: Vec<Option<u64>> = due.iter().map(|(path, _)| self.known.get(path)?.hash).collect();
        let (resources, limits) = (&self.catalog.resources, &self.limits);
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                let Some((path, name)) = due.get(nth) else { return done };
                done.push((nth, read_file(path, name, limits, before[nth], resources)));
            }
        };
        let threads = match due.len() {
            0..WORTH_THREADS => 1,
            _ => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let mut done = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut done = work();
            for other in others {
                match other.join() {
                    Ok(more) => done.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            done
        });
        done.sort_by_key(|(nth, _)| *nth);
        let mut batch = Vec::new();
        for ((path, name), (_, outcome)) in due.into_iter().zip(done) {
            match outcome {
                Outcome::Gone => {
                    self.known.remove(&path);
                    batch.push((name, None));
                }
                Outcome::Same(stamp) => {
                    if let Some(known) = self.known.get_mut(&path) {
                        known.stamp = stamp;
                    }
                }
                Outcome::Read { stamp, hash, content } => {
                    self.known.insert(path, Known { name: Arc::clone(&name), stamp, hash });
                    batch.push((name, Some(*content)));
                }
            }
        }
        batch
    }

    fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all = self.about_files.clone();
        if let Some(trouble) = self.watch.trouble() {
            all.push(
                Diagnostic::warning(format!("changes are found by looking every two seconds: {trouble}"))
                    .hint("raise fs.inotify.max_user_watches and fs.inotify.max_user_instances"),
            );
        }
        all.extend(self.catalog.diagnostics());
        all
    }
}

/// What an event at a path is about.
fn concern(watch: &Watch, known: &BTreeMap<PathBuf, Known>, roots: &[Root], path: &Path) -> Concern {
    if known.contains_key(path) {
        return Concern::File;
    }
    let is_root = |root: &Root| root.path.starts_with(path);
    if watch.covers(path) || roots.iter().any(is_root) {
        return Concern::Everything;
    }
    if !path.parent().is_some_and(|folder| watch.covers(folder)) {
        return Concern::Nothing;
    }
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    // `..data`, by which a mounted ConfigMap changes all its files at once.
    if name.starts_with(b"..") || (is_manifest(path) && !name.starts_with(b".")) {
        return Concern::Everything;
    }
    let inside = roots.iter().any(|root| path.starts_with(&root.path));
    if inside && !name.starts_with(b".") && path.is_dir() { Concern::Everything } else { Concern::Nothing }
}

/// What became of reading a file.
enum Outcome {
    Gone,
    /// It says what it said before.
    Same(Stamp),
    Read {
        stamp: Stamp,
        hash: Option<u64>,
        content: Box<Content>,
    },
}

/// Reads one file, no more of it than the limit allows.
fn read_file(
    path: &Path,
    name: &Arc<str>,
    limits: &Limits,
    before: Option<u64>,
    served: &Resources,
) -> Outcome {
    match bytes_of(path, name, limits) {
        Ok(Bytes::Read(stamp, bytes)) => {
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes);
            let hash = Some(hasher.finish());
            if hash == before {
                return Outcome::Same(stamp);
            }
            let most = usize::try_from(limits.file_bytes).unwrap_or(usize::MAX);
            let limits = yaml::Limits { bytes: most, ..yaml::Limits::default() };
            // Whatever is wrong with one file, or with how it is read, the others go on.
            let content = catch_unwind(AssertUnwindSafe(|| read::read(name, &bytes, &limits, served)));
            let content = content.unwrap_or_else(|_| {
                let why = Diagnostic::error("a defect of Portway: reading this file panicked").in_file(name);
                Content::unreadable(why.hint("please report it, with the file if you can"))
            });
            Outcome::Read { stamp, hash, content: Box::new(content) }
        }
        Ok(Bytes::Refused(stamp, refused)) => {
            Outcome::Read { stamp, hash: None, content: Box::new(Content::unreadable(*refused)) }
        }
        Err(_) => Outcome::Gone,
    }
}

/// A file's contents, or why they are not read.
enum Bytes {
    Read(Stamp, Vec<u8>),
    Refused(Stamp, Box<Diagnostic>),
}

/// Reads a file's contents; an error if there is no such file.
fn bytes_of(path: &Path, name: &Arc<str>, limits: &Limits) -> io::Result<Bytes> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        // Opening a named pipe would wait for its writer.
        return Err(io::ErrorKind::NotFound.into());
    }
    let most = usize::try_from(limits.file_bytes).unwrap_or(usize::MAX);
    let too_large = |bytes| Box::new(yaml::too_large(name, bytes, most));
    let cannot = |error: &io::Error| {
        let why = Diagnostic::error(format!("cannot be read: {error}")).in_file(name);
        Box::new(why.hint("what was read from it before stays in use"))
    };
    let mut stamp = Stamp::of(&metadata);
    if stamp.bytes > limits.file_bytes {
        return Ok(Bytes::Refused(stamp, too_large(stamp.bytes)));
    }
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        Err(error) => return Ok(Bytes::Refused(stamp, cannot(&error))),
    };
    // What is open may be another file than what was looked at; taken before reading, so that what is written
    // meanwhile shows.
    stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.bytes).unwrap_or(0).min(most) + 1);
    Ok(match file.by_ref().take(limits.file_bytes + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() > most => Bytes::Refused(stamp, too_large(file.metadata()?.len())),
        Ok(_) => Bytes::Read(stamp, bytes),
        Err(error) => Bytes::Refused(stamp, cannot(&error)),
    })
}
