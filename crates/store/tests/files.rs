//! Real folders, a real watcher.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use portway_api::core::ConfigMap;
use portway_store::{FileSource, Handle, Limits, Loaded, Resources, Update};
use tempfile::TempDir;

/// No test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder that is watched.
struct Watched {
    folder: TempDir,
    now: Resources,
    said: Vec<String>,
    updates: Receiver<Update>,
    handle: Handle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

impl Watched {
    /// Watches the folder that `prepare` fills.
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::at(prepare, |folder| vec![folder.to_owned()])
    }

    fn at(prepare: impl FnOnce(&Path), roots: impl FnOnce(&Path) -> Vec<PathBuf>) -> Self {
        let folder = TempDir::new().unwrap();
        prepare(folder.path());
        let (mut source, loaded) = FileSource::open(roots(folder.path()));
        let handle = source.handle();
        let (send, updates) = channel();
        std::thread::spawn(move || {
            while let Some(update) = source.next() {
                if send.send(update).is_err() {
                    return;
                }
            }
        });
        let Loaded { resources: now, diagnostics } = loaded;
        let said = diagnostics.iter().map(|found| found.one_line()).collect();
        Self { folder, now, said, updates, handle }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// `name=value` of each object.
    fn objects(&self) -> Vec<String> {
        objects(&self.now)
    }

    fn errors(&self) -> String {
        let root = format!("{}/", self.folder.path().display());
        self.said
            .iter()
            .filter(|line| line.contains("error: "))
            .map(|line| line.replace(&root, "") + "\n")
            .collect()
    }

    /// Takes updates until the objects are as expected.
    fn becomes(&mut self, expected: &[&str]) {
        self.until(|watched| watched.objects() == expected, &format!("{expected:?}"));
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool, what: &str) {
        let began = Instant::now();
        while !done(self) {
            let Ok(update) = self.updates.recv_timeout(PATIENCE.saturating_sub(began.elapsed())) else {
                panic!("never {what}; last {:?}, {:#?}", self.objects(), self.said);
            };
            assert_eq!(update.resources.changes_since(&self.now), update.changes);
            self.now = update.resources;
            self.said = update.diagnostics.iter().map(|found| found.one_line()).collect();
        }
    }
}

fn objects(resources: &Resources) -> Vec<String> {
    resources.all::<ConfigMap>().map(|map| format!("{}={}", map.key.name, map.spec.data["v"])).collect()
}

fn map(name: &str, value: &str) -> String {
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{v: '{value}'}}\n")
}

#[test]
fn a_file_that_is_written_anew_changes_its_objects() {
    let mut files =
        Watched::new(|root| fs::write(root.join("a.yaml"), map("x", "1") + &map("y", "1")).unwrap());
    assert_eq!(files.objects(), ["x=1", "y=1"]);
    files.write("a.yaml", &(map("x", "2") + &map("y", "1")));
    files.becomes(&["x=2", "y=1"]);
    assert_eq!(files.now.get::<ConfigMap>("default", "x").unwrap().metadata.generation, 2);
    assert_eq!(files.now.get::<ConfigMap>("default", "y").unwrap().metadata.generation, 1);
}

#[test]
fn an_editor_saves_by_renaming_over() {
    let mut files = Watched::new(|root| fs::write(root.join("a.yaml"), map("x", "1")).unwrap());
    for value in ["2", "3", "4"] {
        files.write(".a.yaml.swp", &map("x", value));
        fs::rename(files.path(".a.yaml.swp"), files.path("a.yaml")).unwrap();
        files.becomes(&[&format!("x={value}")]);
    }
}

#[test]
fn a_mounted_config_map_changes_all_its_files_at_once() {
    let files = Watched::new(|root| {
        for (version, value) in [("..1", "1"), ("..2", "2")] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.yaml"), map("x", value)).unwrap();
            fs::write(root.join(version).join("b.yaml"), map("y", value)).unwrap();
        }
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        symlink("..data/b.yaml", root.join("b.yaml")).unwrap();
    });
    assert_eq!(files.objects(), ["x=1", "y=1"], "each once");
    assert_eq!(files.errors(), "");
    symlink("..2", files.path("..data_tmp")).unwrap();
    fs::rename(files.path("..data_tmp"), files.path("..data")).unwrap();
    fs::remove_dir_all(files.path("..1")).unwrap();
    let update = files.updates.recv_timeout(PATIENCE).unwrap();
    assert_eq!(objects(&update.resources), ["x=2", "y=2"], "both in one update");
}

#[test]
fn a_release_is_switched_by_its_link() {
    let mut files = Watched::at(
        |root| {
            for version in ["1", "2"] {
                fs::create_dir_all(root.join("releases").join(version)).unwrap();
                fs::write(root.join("releases").join(version).join("a.yaml"), map("x", version)).unwrap();
            }
            symlink("releases/1", root.join("current")).unwrap();
        },
        |root| vec![root.join("current")],
    );
    assert_eq!(files.objects(), ["x=1"]);
    symlink("releases/2", files.path("next")).unwrap();
    fs::rename(files.path("next"), files.path("current")).unwrap();
    files.becomes(&["x=2"]);
    files.write("releases/2/a.yaml", &map("x", "3"));
    files.becomes(&["x=3"]);
}

#[test]
fn a_half_written_file_takes_nothing_back() {
    let mut files = Watched::new(|root| {
        fs::write(root.join("a.yaml"), map("x", "1") + &map("y", "1") + &map("z", "1")).unwrap()
    });
    let whole = map("x", "2") + &map("y", "2") + &map("z", "2");
    files.write("a.yaml", &whole[..whole.len() - map("z", "2").len() - 8]);
    files.becomes(&["x=2", "y=1", "z=1"]);
    assert!(files.errors().starts_with("a.yaml:"), "{}", files.errors());
    files.write("a.yaml", &whole);
    files.becomes(&["x=2", "y=2", "z=2"]);
    assert_eq!(files.errors(), "");
}

/// As a shell's `>` or a full disk leaves it.
/// What generates a file may rest between two objects: the half of it that is there is valid.
#[test]
fn a_file_that_is_being_written_is_read_when_it_is_closed() {
    let both = |value: &str| (map("x", value), format!("\n---\n{}", map("y", value)));
    let (first, second) = both("1");
    let mut files = Watched::new(|root| fs::write(root.join("a.yaml"), first + &second).unwrap());
    let (first, second) = both("2");
    let mut file = fs::File::create(files.path("a.yaml")).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    files.write("b.yaml", &map("b", "1"));
    files.becomes(&["b=1", "x=1", "y=1"]);
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    files.becomes(&["b=1", "x=2", "y=2"]);

    let mut file = fs::File::create(files.path("new.yaml")).unwrap();
    file.write_all(map("n", "1").as_bytes()).unwrap();
    files.write("b.yaml", &map("b", "2"));
    files.becomes(&["b=2", "x=2", "y=2"]);
    drop(file);
    files.becomes(&["b=2", "n=1", "x=2", "y=2"]);
}

#[test]
fn a_file_that_stays_open_is_read_all_the_same() {
    let mut files = Watched::new(|root| fs::write(root.join("a.yaml"), map("x", "1")).unwrap());
    let mut file = fs::File::create(files.path("a.yaml")).unwrap();
    file.write_all(map("x", "2").as_bytes()).unwrap();
    files.becomes(&["x=2"]);
    file.write_all(b" # more").unwrap();
}

#[test]
fn a_file_that_is_empty_takes_nothing_back() {
    let mut files = Watched::new(|root| {
        fs::write(root.join("a.yaml"), map("x", "1")).unwrap();
        fs::write(root.join("b.yaml"), map("y", "1")).unwrap();
    });
    files.write("a.yaml", "");
    files.until(|files| files.said.iter().any(|line| line.contains("the file is empty")), "a notice");
    assert_eq!((files.objects(), files.errors()), (vec!["x=1".to_owned(), "y=1".to_owned()], String::new()));
    files.write("a.yaml", "# nothing any more\n");
    files.becomes(&["y=1"]);
}

#[test]
fn a_file_that_is_removed_takes_its_objects_along() {
    let mut files = Watched::new(|root| {
        fs::write(root.join("a.yaml"), map("x", "1")).unwrap();
        fs::write(
            root.join("b.json"),
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"y"},"data":{"v":"1"}}"#,
        )
        .unwrap();
    });
    assert_eq!(files.objects(), ["x=1", "y=1"]);
    fs::remove_file(files.path("a.yaml")).unwrap();
    files.becomes(&["y=1"]);
}

#[test]
fn two_files_that_define_one_object_are_both_named() {
    let mut files = Watched::new(|root| fs::write(root.join("b.yaml"), map("x", "b")).unwrap());
    files.write("a.yaml", &map("x", "a"));
    files.until(|files| !files.errors().is_empty(), "an error");
    assert_eq!(files.objects(), ["x=b"], "what served stays");
    let error = files.errors();
    assert!(
        error.starts_with("a.yaml:2:1: error: ConfigMap default/x: already defined by b.yaml:2:1"),
        "{error}"
    );
    fs::remove_file(files.path("b.yaml")).unwrap();
    files.becomes(&["x=a"]);
    assert_eq!(files.errors(), "");
}

#[test]
fn folders_come_move_and_go() {
    let mut files = Watched::new(|root| fs::write(root.join("a.yaml"), map("a", "1")).unwrap());
    fs::create_dir_all(files.path("new/deep")).unwrap();
    files.write("new/deep/b.yaml", &map("b", "1"));
    files.becomes(&["a=1", "b=1"]);
    files.write("new/deep/b.yaml", &map("b", "2"));
    files.becomes(&["a=1", "b=2"]);
    fs::rename(files.path("new"), files.path("old")).unwrap();
    files.write("old/deep/c.yaml", &map("c", "1"));
    files.becomes(&["a=1", "b=2", "c=1"]);
    files.write("old/deep/c.yaml", &map("c", "2"));
    files.becomes(&["a=1", "b=2", "c=2"]);
    fs::remove_dir_all(files.path("old")).unwrap();
    files.becomes(&["a=1"]);
    fs::create_dir_all(files.path("old/deep")).unwrap();
    files.write("old/deep/c.yaml", &map("c", "3"));
    files.becomes(&["a=1", "c=3"]);
}

#[test]
fn what_is_not_there_yet_is_read_once_it_appears() {
    let mut files = Watched::at(|_| {}, |root| vec![root.join("later/a.yaml"), root.join("other")]);
    assert!(
        files.errors().contains("later/a.yaml: error: there is no such file or folder"),
        "{}",
        files.errors()
    );
    fs::create_dir(files.path("later")).unwrap();
    files.write("later/a.yaml", &map("x", "1"));
    files.write("later/unnamed.yaml", &map("no", "1"));
    files.becomes(&["x=1"]);
    files.write("later/a.yaml", &map("x", "2"));
    files.becomes(&["x=2"]);
    fs::create_dir(files.path("other")).unwrap();
    files.write("other/b.yaml", &map("y", "1"));
    files.becomes(&["x=2", "y=1"]);
    assert_eq!(files.errors(), "");
}

#[test]
fn paths_that_overlap_and_links_are_read_once() {
    let files = Watched::at(
        |root| {
            fs::create_dir(root.join("sub")).unwrap();
            fs::write(root.join("sub/a.yaml"), map("x", "1")).unwrap();
            fs::write(root.join("notes.txt"), "nothing").unwrap();
            fs::write(root.join(".hidden.yaml"), map("h", "1")).unwrap();
            symlink("sub/a.yaml", root.join("link.yaml")).unwrap();
            symlink(".", root.join("sub/loop")).unwrap();
            symlink("..", root.join("sub/up")).unwrap();
        },
        |root| vec![root.to_owned(), root.join("sub"), root.join("sub/a.yaml")],
    );
    assert_eq!(files.objects(), ["x=1"]);
    assert_eq!(files.errors(), "");
}

#[test]
fn large_and_binary_files_are_refused_at_once_and_the_rest_serves() {
    let began = Instant::now();
    let mut files = Watched::new(|root| {
        fs::File::create(root.join("large.yaml")).unwrap().set_len(100 << 20).unwrap();
        fs::write(root.join("binary.yaml"), [0x7f, b'E', b'L', b'F', 0, 0xff, 0x80]).unwrap();
        fs::write(root.join("random.yml"), (0..=255).cycle().take(100_000).collect::<Vec<u8>>()).unwrap();
        symlink("nowhere", root.join("broken.yaml")).unwrap();
        fs::write(root.join("good.yaml"), map("x", "1")).unwrap();
    });
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    assert_eq!(files.objects(), ["x=1"]);
    let errors = files.errors();
    for file in
        ["large.yaml: error: the file is too large", "binary.yaml:1:", "random.yml:1:", "broken.yaml: error"]
    {
        assert!(errors.contains(file), "{file} is not in:\n{errors}");
    }
    files.write("large.yaml", &map("y", "1"));
    files.becomes(&["x=1", "y=1"]);
    fs::OpenOptions::new().write(true).open(files.path("large.yaml")).unwrap().set_len(100 << 20).unwrap();
    files.until(|files| files.errors().contains("too large"), "too large");
    assert_eq!(files.objects(), ["x=1", "y=1"], "what served stays");
}

#[test]
fn an_unreadable_file_or_folder_takes_nothing_back() {
    let mut files = Watched::new(|root| {
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/a.yaml"), map("x", "1")).unwrap();
        fs::write(root.join("b.yaml"), map("y", "1")).unwrap();
    });
    let allow = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    allow(files.path("b.yaml"), 0o000);
    if fs::read(files.path("b.yaml")).is_ok() {
        eprintln!("runs as root, whom no permission stops: see the test below");
        return;
    }
    files.until(|files| files.errors().contains("b.yaml: error: cannot be read"), "said to be unreadable");
    allow(files.path("sub"), 0o000);
    files.until(|files| files.errors().contains("sub: error: cannot be read"), "said to be unreadable");
    assert_eq!(files.objects(), ["x=1", "y=1"]);
    allow(files.path("sub"), 0o755);
    allow(files.path("b.yaml"), 0o644);
    files.until(|files| files.errors().is_empty(), "readable again");
    assert_eq!(files.objects(), ["x=1", "y=1"]);
}

#[test]
fn a_file_that_fails_while_it_is_read_takes_nothing_back() {
    let mut files = Watched::new(|root| fs::write(root.join("a.yaml"), map("x", "1")).unwrap());
    // Opens as a file like any other, and cannot be read where it begins.
    symlink("/proc/self/mem", files.path("next")).unwrap();
    fs::rename(files.path("next"), files.path("a.yaml")).unwrap();
    files.until(|files| files.errors().contains("a.yaml: error: cannot be read"), "said to be unreadable");
    assert_eq!(files.objects(), ["x=1"]);
    files.write("next", &map("x", "2"));
    fs::rename(files.path("next"), files.path("a.yaml")).unwrap();
    files.becomes(&["x=2"]);
    assert_eq!(files.errors(), "");
}

#[test]
fn a_limit_keeps_out_what_is_new_and_takes_nothing_back() {
    let folder = TempDir::new().unwrap();
    for name in ["b", "c", "d"] {
        fs::write(folder.path().join(format!("{name}.yaml")), map(name, "1")).unwrap();
    }
    let limits = Limits { files: 2, ..Limits::default() };
    let (mut source, loaded) = FileSource::open_within([folder.path().to_owned()], limits);
    assert_eq!(objects(&loaded.resources), ["b=1", "c=1"]);
    assert!(loaded.diagnostics[0].one_line().contains("too many files: 1 are not read"));
    fs::write(folder.path().join("a.yaml"), map("a", "1")).unwrap();
    let update = source.next().unwrap();
    assert!(update.news[0].one_line().contains("too many files: 2 are not read"), "{:?}", update.news);
    assert_eq!(objects(&update.resources), ["b=1", "c=1"]);
    fs::remove_file(folder.path().join("b.yaml")).unwrap();
    assert_eq!(objects(&source.next().unwrap().resources), ["a=1", "c=1"]);
}

#[test]
fn one_of_many_files_changes_alone() {
    let files = Watched::new(|root| {
        for nth in 0..500 {
            fs::write(root.join(format!("{nth:03}.yaml")), map(&format!("m{nth:03}"), "1")).unwrap();
        }
    });
    assert_eq!(files.objects().len(), 500);
    files.write("123.yaml", &map("m123", "2"));
    let update = files.updates.recv_timeout(PATIENCE).unwrap();
    let changed: Vec<_> = update.changes.iter().map(|(key, change)| format!("{change:?} {key}")).collect();
    assert_eq!(changed, ["Changed ConfigMap default/m123"]);
}

#[test]
fn reading_is_no_change_and_stop_ends_the_waiting() {
    let files = Watched::new(|root| fs::write(root.join("a.yaml"), map("x", "1")).unwrap());
    fs::read(files.path("a.yaml")).unwrap();
    files.handle.reload();
    files.handle.stop();
    assert!(files.updates.recv_timeout(PATIENCE).is_err(), "nothing changed, and the channel is closed");
}
