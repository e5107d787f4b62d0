//! Which files there are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portway_api::diagnostic::Diagnostic;

/// Folders inside one another; more is a loop or a mistake.
const MAX_DEPTH: usize = 32;
/// Links that lead to one another, as Linux has it.
const MAX_LINKS: usize = 40;

/// How much the files may ask for. What goes beyond is an error that says so, and is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Files.
    pub files: usize,
    /// Bytes of all files together.
    pub total_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 16 << 20, files: 100_000, total_bytes: 1 << 30 }
    }
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: Inode,
    modified: (i64, i64),
    /// Changes even where a tool sets the time of modification back.
    changed: (i64, i64),
    pub(crate) bytes: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: inode(metadata),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.size(),
        }
    }
}

/// Device and inode: which file or folder it is, whatever its path.
pub(crate) type Inode = (u64, u64);

pub(crate) fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

/// A file or folder that the user named.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// As the user wrote it.
    pub(crate) name: PathBuf,
    pub(crate) path: PathBuf,
}

impl Root {
    pub(crate) fn new(name: PathBuf) -> Self {
        let path = std::path::absolute(&name).unwrap_or_else(|_| name.clone());
        Self { name, path }
    }
}

/// A file to read.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// As the user would write it.
    pub(crate) name: Arc<str>,
    pub(crate) stamp: Stamp,
}

/// What a walk through the roots finds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The files by absolute path.
    pub(crate) files: BTreeMap<PathBuf, Found>,
    /// Folders whose changes matter, each announced before it was listed.
    pub(crate) folders: BTreeSet<PathBuf>,
    /// Files and folders that are there, but are not read.
    pub(crate) unreadable: HashSet<PathBuf>,
    /// Whether the system has failed to say what is there, or to open it: another time it may not.
    pub(crate) failed: bool,
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) layout: Layout,
}

/// How the files lie, for whoever hears that one of them came or went.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// The folders whose files are read, each by its path, and as the user would write it. All other folders
    /// are watched for what is `awaited` in them.
    listed: HashMap<Inode, (PathBuf, PathBuf)>,
    /// What roots and links lead to, and what roots that are not there begin with: folder and name.
    awaited: HashSet<(Inode, OsString)>,
    /// There are links, files that two paths lead to, or some that are not read: one file that comes or goes
    /// can mean more than itself.
    entangled: bool,
}

impl Layout {
    /// Whether something of that name in a folder decides which files there are.
    pub(crate) fn awaits(&self, folder: Inode, name: &OsStr) -> bool {
        self.awaited.contains(&(folder, name.to_owned()))
    }

    /// Whether the files of a folder are read.
    pub(crate) fn lists(&self, folder: Inode) -> bool {
        self.listed.contains_key(&folder)
    }

    /// The name of a file that came to, or went from, a folder that is read under this very path; `None` where
    /// such a file may concern others.
    pub(crate) fn name_alone(&self, folder: Inode, path: &Path) -> Option<Arc<str>> {
        let (at, name) = self.listed.get(&folder).filter(|_| !self.entangled)?;
        (path.parent() == Some(at)).then_some(())?;
        Some(join(name, path.file_name()?).to_str()?.into())
    }
}

/// Walks through the roots.
///
/// `enter` is called for each folder before it is listed: a watch that begins then misses nothing.
///
/// `known` has the sizes of the files that were read before: a limit that is reached keeps out what is new, and
/// takes nothing back.
pub(crate) fn scan(
    roots: &[Root],
    limits: &Limits,
    known: &dyn Fn(&Path) -> Option<u64>,
    enter: &mut dyn FnMut(&Path, Inode),
) -> Scan {
    let mut walk = Walk {
        scan: Scan::default(),
        limits,
        known,
        enter,
        watched: HashSet::new(),
        seen: HashSet::new(),
        new: Vec::new(),
        bytes: 0,
        refused: 0,
    };
    for root in roots {
        walk.root(root);
    }
    walk.admit_new();
    if walk.refused > 0 {
        let Limits { files, total_bytes, .. } = *limits;
        walk.scan.diagnostics.push(Diagnostic::error(format!(
            "too many files: {} are not read; Portway reads at most {files} files of {} MiB together",
            walk.refused,
            total_bytes >> 20
        )));
    }
    walk.scan.layout.entangled |= !walk.scan.diagnostics.is_empty() || !walk.scan.unreadable.is_empty();
    walk.scan
}

struct Walk<'a> {
    scan: Scan,
    limits: &'a Limits,
    known: &'a dyn Fn(&Path) -> Option<u64>,
    enter: &'a mut dyn FnMut(&Path, Inode),
    /// Watched folders by inode.
    watched: HashSet<Inode>,
    /// Files and folders by inode: what can be reached by two paths is read once.
    seen: HashSet<Inode>,
    /// Files that were not read before.
    new: Vec<(PathBuf, Found)>,
    bytes: u64,
    refused: usize,
}

impl Walk<'_> {
    fn root(&mut self, root: &Root) {
        self.watch_around(&root.path);
        match fs::metadata(&root.path) {
            Ok(metadata) if metadata.is_dir() => self.folder(&root.path, &root.name, &metadata, 0),
            Ok(metadata) if metadata.is_file() => self.file(&root.path, &root.name, &metadata),
            Ok(_) => self.complain(&root.name, "is neither a file nor a folder", None),
            Err(error) if is_absence(&error) => {
                self.complain(
                    &root.name,
                    "there is no such file or folder",
                    Some("it is read once it appears"),
                );
            }
            Err(error) => self.cannot_read(&root.path, &root.name, &error),
        }
    }

    fn folder(&mut self, path: &Path, name: &Path, metadata: &Metadata, depth: usize) {
        if depth > MAX_DEPTH {
            return self.complain(name, &format!("more than {MAX_DEPTH} folders inside one another"), None);
        }
        if !self.seen.insert(inode(metadata)) {
            return;
        }
        self.watch(path, metadata);
        self.scan.layout.listed.insert(inode(metadata), (path.to_owned(), name.to_owned()));
        let entries = match fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return self.cannot_read(path, name, &error),
        };
        let mut names: Vec<_> = entries.into_iter().map(|entry| entry.file_name()).collect();
        names.sort();
        for entry in names {
            // Among them `..data` and the folders that it points to: the files of a mounted ConfigMap are
            // links through it, and are found under their own names.
            if entry.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let (path, name) = (path.join(&entry), join(name, &entry));
            self.entry(&path, &name, depth);
        }
    }

    fn entry(&mut self, path: &Path, name: &Path, depth: usize) {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if is_absence(&error) => return,
            Err(error) => return self.cannot_read(path, name, &error),
        };
        let metadata = if metadata.is_symlink() {
            self.scan.layout.entangled = true;
            match fs::metadata(path) {
                Ok(target) => {
                    if is_manifest(path) || target.is_dir() {
                        self.watch_target(path);
                    }
                    target
                }
                Err(error) if is_manifest(path) => {
                    self.watch_target(path);
                    if !is_absence(&error) {
                        return self.cannot_read(path, name, &error);
                    }
                    return self.complain(name, &format!("broken link: {error}"), None);
                }
                Err(_) => return,
            }
        } else {
            metadata
        };
        if metadata.is_dir() {
            self.folder(path, name, &metadata, depth + 1);
        } else if metadata.is_file() && is_manifest(path) {
            self.file(path, name, &metadata);
        }
    }

    fn file(&mut self, path: &Path, name: &Path, metadata: &Metadata) {
        let Some(text) = name.to_str() else {
            return self.complain(name, "the file's name is not UTF-8", Some("rename it"));
        };
        if !self.seen.insert(inode(metadata)) {
            self.scan.layout.entangled = true;
            return;
        }
        let found = Found { name: text.into(), stamp: Stamp::of(metadata) };
        match (self.known)(path) {
            // Counted first, and however many they are: what serves stays.
            Some(before) if self.counted(&found) <= before || self.bytes < self.limits.total_bytes => {
                self.admit(path.to_owned(), found);
            }
            Some(_) => self.refuse(path.to_owned()),
            None if self.new.len() < self.limits.files => self.new.push((path.to_owned(), found)),
            None => self.refused += 1,
        }
    }

    /// Admits new files, in order, as far as the limits go.
    fn admit_new(&mut self) {
        for (path, found) in std::mem::take(&mut self.new) {
            let bytes = self.bytes + self.counted(&found);
            if self.scan.files.len() < self.limits.files && bytes <= self.limits.total_bytes {
                self.admit(path, found);
            } else {
                self.refuse(path);
            }
        }
    }

    fn admit(&mut self, path: PathBuf, found: Found) {
        self.bytes += self.counted(&found);
        self.scan.files.insert(path, found);
    }

    fn refuse(&mut self, path: PathBuf) {
        self.refused += 1;
        self.scan.unreadable.insert(path);
    }

    /// The bytes that count: files that are too large are not read.
    fn counted(&self, found: &Found) -> u64 {
        if found.stamp.bytes > self.limits.file_bytes { 0 } else { found.stamp.bytes }
    }

    /// Watches the folder that holds a root, or the nearest that exists: the root may be replaced, or appear.
    fn watch_around(&mut self, root: &Path) {
        for below in root.ancestors() {
            let Some((folder, name)) = below.parent().zip(below.file_name()) else { continue };
            if let Ok(metadata) = fs::metadata(folder)
                && metadata.is_dir()
            {
                self.watch(folder, &metadata);
                self.scan.layout.awaited.insert((inode(&metadata), name.to_owned()));
                break;
            }
        }
        self.watch_target(root);
    }

    /// Watches the folder that holds what a link leads to, there or not, and those of the links on the way.
    fn watch_target(&mut self, path: &Path) {
        let mut at = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (Ok(link), Some(folder)) = (fs::read_link(&at), at.parent()) else { return };
            let target = folder.join(link);
            let Some((folder, name)) = target.parent().zip(target.file_name()) else { return };
            let Ok(folder) = fs::canonicalize(folder) else { return };
            let Ok(metadata) = fs::metadata(&folder) else { return };
            self.watch(&folder, &metadata);
            self.scan.layout.awaited.insert((inode(&metadata), name.to_owned()));
            at = folder.join(name);
        }
    }

    fn watch(&mut self, folder: &Path, metadata: &Metadata) {
        let inode = inode(metadata);
        if self.watched.insert(inode) {
            self.scan.folders.insert(folder.to_owned());
            (self.enter)(folder, inode);
        }
    }

    fn cannot_read(&mut self, path: &Path, name: &Path, error: &io::Error) {
        self.scan.unreadable.insert(path.to_owned());
        self.scan.failed = true;
        self.complain(
            name,
            &format!("cannot be read: {error}"),
            Some("what was read from it before stays in use"),
        );
    }

    fn complain(&mut self, name: &Path, message: &str, hint: Option<&str>) {
        let error = Diagnostic::error(message).in_file(&name.to_string_lossy());
        self.scan.diagnostics.push(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        });
    }
}

/// Whether there is nothing at the path, or nothing that could be a file or folder: also links that lead in a
/// circle.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    const ELOOP: i32 = 40;
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(ELOOP)
}

/// Whether a file in a folder is read, by its name.
pub(crate) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// `./a.yaml` is `a.yaml` to whoever reads about it.
fn join(folder: &Path, entry: &OsStr) -> PathBuf {
    if folder == Path::new(".") { entry.into() } else { folder.join(entry) }
}
