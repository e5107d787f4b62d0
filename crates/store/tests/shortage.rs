//! The system has no open files left; alone in its process, whose limit it changes.

use std::fs;
use std::io::Write as _;
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use portway_api::core::ConfigMap;
use portway_store::FileSource;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn what_could_not_be_read_is_read_once_it_can_be_although_nothing_happens_to_it() {
    let map = |value: u8| {
        format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: x}}, data: {{value: '{value}'}}}}")
    };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, map(1)).unwrap();
    let (mut source, _) = FileSource::open([folder.path().to_owned()]);
    let (send, updates) = channel();
    let stop = source.handle();
    let watching = std::thread::spawn(move || {
        while let Some(update) = source.next() {
            send.send(update).unwrap();
        }
    });
    let next = || {
        let update = updates.recv_timeout(PATIENCE).expect("an update");
        let maps = update.resources.all::<ConfigMap>();
        let values: Vec<_> = maps.filter_map(|map| map.object.spec.data.get("value").cloned()).collect();
        let news: Vec<_> = update.news.iter().map(|news| news.one_line()).collect();
        (values.concat(), news)
    };

    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 1, hard).unwrap();
    file.write_all(map(2).as_bytes()).unwrap();
    drop(file);
    let (value, news) = next();
    assert_eq!(value, "1", "what served stays");
    assert!(news.iter().any(|line| line.contains("a.yaml: error: cannot be read")), "{news:?}");

    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let (value, news) = next();
    assert_eq!((value.as_str(), news), ("2", Vec::new()));
    stop.stop();
    watching.join().unwrap();
}
