//! Files that the Gateway API publishes as Go modules, for tests that hold Portway against them. Tests of
//! other crates include this file by its path.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The folder of a Go module (`path@version`), which `go` fetches if need be.
pub(crate) fn folder(name: &str) -> PathBuf {
    // Outside of any Go module, lest that one's go.mod have a say.
    let scratch = tempfile::tempdir().unwrap();
    let go = |args: &[&str]| {
        let output = Command::new("go").args(args).current_dir(&scratch).output();
        let output = output.expect("these tests need Go, which fetches what the Gateway API publishes");
        String::from_utf8(output.stdout).unwrap()
    };
    let download = go(&["mod", "download", "-json", name]);
    let download: Value = serde_json::from_str(&download).expect("`go mod download` says what it did");
    // A Go older than the module asks for unpacks it all the same, but does not say where.
    let folder = match download["Dir"].as_str() {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(go(&["env", "GOMODCACHE"]).trim()).join(name),
    };
    assert!(folder.is_dir(), "{download}");
    folder
}
