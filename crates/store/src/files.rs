//! Objects from files and folders, as they change.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
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
use crate::scan::{Inode, Layout, Limits, Root, Scan, Stamp, inode, is_absence, is_manifest, scan};
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
    layout: Layout,
    /// What there is to say about files and folders as such.
    about_files: Vec<Diagnostic>,
    /// Whether something of the layout could not be found out.
    unsure: bool,
    /// Files that could not be read although they are there.
    failed: HashSet<PathBuf>,
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
            layout: Layout::default(),
            about_files: Vec::new(),
            unsure: false,
            failed: HashSet::new(),
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
            let Self { watch, known, layout, roots, .. } = self;
            let again = self.unsure || !self.failed.is_empty();
            let burst = watch.wait(again, |watch, path| concern(watch, known, layout, roots, path))?;
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
        let Scan { files, folders, unreadable, failed, diagnostics, layout } = scan(
            &self.roots,
            &self.limits,
            &|path| known.get(path).map(|known| known.stamp.bytes),
            &mut |folder, inode| watch.add(folder, inode),
        );
        watch.retain(&folders);
        self.about_files = diagnostics;
        self.layout = layout;
        self.unsure = failed;
        self.failed.retain(|path| files.contains_key(path));

        let hidden = |path: &Path| path.ancestors().any(|path| unreadable.contains(path));
        let gone: Vec<PathBuf> =
            self.known.keys().filter(|path| !files.contains_key(*path) && !hidden(path)).cloned().collect();
        let mut batch: Vec<(Arc<str>, Option<Content>)> =
            gone.iter().filter_map(|path| self.known.remove(path)).map(|known| (known.name, None)).collect();

        let due = files.into_iter().filter(|(path, found)| {
            touched.contains(path)
                || !self.watch.is_being_written(path)
                    && self
                        .known
                        .get(path)
                        .is_none_or(|known| known.stamp != found.stamp || known.hash.is_none())
        });
        let due: Vec<(PathBuf, Arc<str>)> = due.map(|(path, found)| (path, found.name)).collect();
        batch.extend(self.read(due));
        self.catalog.apply(batch)
    }

    /// Looks at some files alone, or at everything where that would not do.
    fn look_at(&mut self, files: &BTreeSet<PathBuf>) -> Changes {
        let (mut due, mut gone) = (Vec::new(), Vec::new());
        let mut new_bytes = Vec::new();
        for path in files {
            let known = self.known.get(path).map(|known| (Arc::clone(&known.name), known.stamp.inode));
            match (self.sight(path), known) {
                // Another file may be there now than the one that was read: what led to that one too counts again.
                (Some(Sight::File { name: alone, inode, .. }), Some((name, before)))
                    if alone.is_some() || inode == before =>
                {
                    due.push((path.clone(), name));
                }
                (Some(Sight::File { name: Some(name), bytes, .. }), None) => {
                    due.push((path.clone(), name));
                    new_bytes.push(bytes);
                }
                (Some(Sight::Nothing), known) => gone.extend(known.map(|(name, _)| (path.clone(), name))),
                _ => return self.look_at_everything(files),
            }
        }
        let (many, bytes) =
            (self.known.len() + new_bytes.len(), self.bytes() + new_bytes.iter().sum::<u64>());
        if !new_bytes.is_empty() && (many > self.limits.files || bytes > self.limits.total_bytes) {
            return self.look_at_everything(files);
        }
        let mut batch = Vec::with_capacity(files.len());
        for (path, name) in gone {
            self.known.remove(&path);
            self.failed.remove(&path);
            batch.push((name, None));
        }
        batch.extend(self.read(due));
        let changes = self.catalog.apply(batch);
        // A file that grew may be one too many.
        if self.bytes() > self.limits.total_bytes { self.look_at_everything(files) } else { changes }
    }

    /// What is at a path now; `None` where that may concern other files.
    fn sight(&self, path: &Path) -> Option<Sight> {
        let name = || self.layout.name_alone(self.watch.inode(path.parent()?)?, path);
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() && metadata.nlink() == 1 => {
                Some(Sight::File { name: name(), inode: inode(&metadata), bytes: metadata.size() })
            }
            Err(error) if is_absence(&error) => name().map(|_| Sight::Nothing),
            _ => None,
        }
    }

    /// The bytes of all files together.
    fn bytes(&self) -> u64 {
        self.known.values().map(|known| known.stamp.bytes).sum()
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
                Outcome::Read { failed: true, .. } => self.failed.insert(path.clone()),
                _ => self.failed.remove(&path),
            };
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
                Outcome::Read { stamp, hash, content, .. } => {
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

/// What there is at a path.
enum Sight {
    Nothing,
    /// A file; if it concerns no other, with its name as the user would write it.
    File {
        name: Option<Arc<str>>,
        inode: Inode,
        bytes: u64,
    },
}

/// What an event at a path is about.
fn concern(
    watch: &Watch,
    known: &BTreeMap<PathBuf, Known>,
    layout: &Layout,
    roots: &[Root],
    path: &Path,
) -> Concern {
    if known.contains_key(path) {
        return Concern::File;
    }
    let is_root = |root: &Root| root.path.starts_with(path);
    if watch.covers(path) || roots.iter().any(is_root) {
        return Concern::Everything;
    }
    let Some((folder, name)) = path.parent().and_then(|folder| watch.inode(folder)).zip(path.file_name())
    else {
        return Concern::Nothing;
    };
    // `..data`, by which a mounted ConfigMap changes all its files at once.
    if layout.awaits(folder, name) || name.as_encoded_bytes().starts_with(b"..") {
        return Concern::Everything;
    }
    if !layout.lists(folder) || name.as_encoded_bytes().starts_with(b".") {
        return Concern::Nothing;
    }
    if is_manifest(path) {
        return Concern::File;
    }
    if path.is_dir() { Concern::Everything } else { Concern::Nothing }
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
        /// It could not be read this time, and may be another time although nothing happens to it.
        failed: bool,
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
            Outcome::Read { stamp, hash, content: Box::new(content), failed: false }
        }
        Ok(Bytes::Refused { stamp, why, failed }) => {
            Outcome::Read { stamp, hash: None, content: Box::new(Content::unreadable(*why)), failed }
        }
        Err(_) => Outcome::Gone,
    }
}

/// A file's contents, or why they are not read.
enum Bytes {
    Read(Stamp, Vec<u8>),
    Refused {
        stamp: Stamp,
        why: Box<Diagnostic>,
        /// Whether the system failed, rather than that it is too large.
        failed: bool,
    },
}

/// Reads a file's contents; an error if there is no such file.
fn bytes_of(path: &Path, name: &Arc<str>, limits: &Limits) -> io::Result<Bytes> {
    let mut stamp = Stamp::default();
    contents(path, name, limits, &mut stamp).or_else(|error| {
        if is_absence(&error) {
            return Err(error);
        }
        let why = Diagnostic::error(format!("cannot be read: {error}")).in_file(name);
        let why = Box::new(why.hint("what was read from it before stays in use"));
        Ok(Bytes::Refused { stamp, why, failed: true })
    })
}

/// Reads a file's contents, and notes which file it was as far as it got.
fn contents(path: &Path, name: &Arc<str>, limits: &Limits, stamp: &mut Stamp) -> io::Result<Bytes> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        // Opening a named pipe would wait for its writer.
        return Err(io::ErrorKind::NotFound.into());
    }
    let most = usize::try_from(limits.file_bytes).unwrap_or(usize::MAX);
    let too_large = |stamp, bytes| {
        let why = Box::new(yaml::too_large(name, bytes, most));
        Ok(Bytes::Refused { stamp, why, failed: false })
    };
    *stamp = Stamp::of(&metadata);
    if stamp.bytes > limits.file_bytes {
        return too_large(*stamp, stamp.bytes);
    }
    let mut file = File::open(path)?;
    // What is open may be another file than what was looked at; taken before reading, so that what is written
    // meanwhile shows.
    *stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.bytes).unwrap_or(0).min(most) + 1);
    file.by_ref().take(limits.file_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        too_large(*stamp, file.metadata()?.len())
    } else {
        Ok(Bytes::Read(*stamp, bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use portway_api::core::ConfigMap;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn about(source: &FileSource, path: &Path) -> Concern {
        concern(&source.watch, &source.known, &source.layout, &source.roots, path)
    }

    /// Has the source take in that something happened at these paths.
    fn happened(source: &mut FileSource, paths: &[PathBuf]) {
        let about: Vec<_> = paths.iter().map(|path| about(source, path)).collect();
        let touched = paths.iter().zip(&about).filter(|(_, about)| **about != Concern::Nothing);
        let files = touched.map(|(path, _)| path.clone()).collect();
        if about.contains(&Concern::Everything) {
            source.look_at_everything(&files);
        } else {
            source.look_at(&files);
        }
    }

    /// The objects, with the files that they are from.
    fn objects(resources: &Resources) -> Vec<String> {
        let show = |map: &Arc<crate::Stored<ConfigMap>>| format!("{} {:?}", map.key, map.origin);
        resources.all::<ConfigMap>().map(show).collect()
    }

    #[test]
    fn one_file_concerns_itself_and_one_beside_the_root_nobody() {
        let outside = TempDir::new().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("folder")).unwrap();
        let (source, _) = FileSource::open([root.clone()]);
        let about = |path: &str| about(&source, &outside.path().join(path));
        assert_eq!(about("new.yaml"), Concern::Nothing);
        assert_eq!(about("root/new.yaml"), Concern::File);
        assert_eq!(about("root/folder/new.yaml"), Concern::File);
        assert_eq!(about("root/new.txt"), Concern::Nothing);
        assert_eq!(about("root/.new.yaml"), Concern::Nothing);
        for path in ["root", "root/folder", "root/..data"] {
            assert_eq!(about(path), Concern::Everything, "{path}");
        }
    }

    /// One of two names of a file is given to another file: what the other name leads to is read under it.
    #[test]
    fn a_file_that_is_replaced_leaves_its_other_name() {
        let outside = TempDir::new().unwrap();
        let root = outside.path().join("root");
        fs::create_dir(&root).unwrap();
        let [b, c, d] = ["b.yaml", "c.yaml", "d.txt"].map(|name| root.join(name));
        let text = |name| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}");
        fs::write(&b, text("one")).unwrap();
        fs::hard_link(&b, &c).unwrap();
        let (mut source, _) = FileSource::open([root.clone()]);
        fs::write(&d, text("two")).unwrap();
        fs::rename(&d, &b).unwrap();
        happened(&mut source, &[d, b]);
        let names: Vec<_> =
            source.catalog.resources.all::<ConfigMap>().map(|map| map.key.name.to_string()).collect();
        assert_eq!(names, ["one", "two"]);
    }

    #[test]
    fn links_that_lead_in_a_circle_lead_nowhere() {
        let root = TempDir::new().unwrap();
        let [a, b] = ["a.yaml", "b.txt"].map(|name| root.path().join(name));
        fs::write(&b, "{apiVersion: v1, kind: ConfigMap, metadata: {name: one}}").unwrap();
        symlink(&b, &a).unwrap();
        let (mut source, loaded) = FileSource::open([root.path().to_owned()]);
        assert_eq!(objects(&loaded.resources).len(), 1);
        fs::remove_file(&b).unwrap();
        symlink(&a, &b).unwrap();
        happened(&mut source, &[b]);
        assert_eq!(objects(&source.catalog.resources), [""; 0]);
        assert!(source.diagnostics()[0].one_line().contains("broken link"), "{:?}", source.diagnostics());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// After anything that can happen to files, what serves is what would be read from scratch.
        #[test]
        fn one_by_one_is_the_same_as_from_scratch(
            steps in prop::collection::vec((0u8..7, 0usize..8, 0usize..8), 1..24)
        ) {
            let outside = TempDir::new().unwrap();
            let root = outside.path().join("root");
            fs::create_dir_all(root.join("sub")).unwrap();
            let paths: Vec<PathBuf> =
                ["a.yaml", "b.yaml", "c.yaml", "d.txt", "sub/a.yaml", "sub/e.yaml", "../a.yaml", "../f.yaml"]
                    .map(|name| outside.path().join(format!("root/{name}").replace("root/../", "")))
                    .into();
            let (mut source, _) = FileSource::open([root.clone()]);
            for (nth, (what, from, to)) in steps.into_iter().enumerate() {
                let (from, to) = (&paths[from], &paths[to]);
                let text = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: m{nth}}}}}");
                // The kernel does not tell what happens to a file under a name that is not watched.
                let watched = |path: &Path| path.starts_with(&root) && is_manifest(path);
                let links = fs::symlink_metadata(from).map_or(0, |metadata| metadata.nlink());
                // What cannot be done is not done, and nothing has happened.
                let done = match what {
                    0 | 1 => fs::write(from, text),
                    2 => fs::remove_file(from),
                    3 | 4 if links == 1 || watched(to) => fs::rename(from, to),
                    5 if watched(from) && watched(to) => fs::hard_link(from, to),
                    6 => symlink(from, to),
                    _ => continue,
                };
                if done.is_err() {
                    continue;
                }
                // What is written through a link happens where the link leads to.
                let written = fs::canonicalize(from).unwrap_or_else(|_| from.clone());
                happened(&mut source, &[from.clone(), to.clone(), written]);
                let scratch = FileSource::load([root.clone()]);
                prop_assert_eq!(objects(&source.catalog.resources), objects(&scratch.resources));
                let lines = |all: &[Diagnostic]| all.iter().map(Diagnostic::one_line).collect::<Vec<_>>();
                prop_assert_eq!(lines(&source.diagnostics()), lines(&scratch.diagnostics));
            }
        }
    }
}
