//! Where the access log's lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::options::{AccessLog, AccessLogTarget};

/// How often to look whether the file has been moved away.
const LOOK: Duration = Duration::from_secs(1);

/// Writes lines.
pub(super) struct AccessLogWriter(Target);

enum Target {
    Stdout,
    File { path: PathBuf, file: File, looked: Instant },
}

impl AccessLogWriter {
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(log: &AccessLog) -> io::Result<Self> {
        let target = match &log.target {
            AccessLogTarget::Stdout => Target::Stdout,
            AccessLogTarget::File(path) => {
                Target::File { file: append(path)?, path: path.clone(), looked: Instant::now() }
            }
        };
        Ok(Self(target))
    }

    /// Writes lines.
    ///
    /// # Errors
    /// When they cannot be written; they are lost.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Target::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines).and_then(|()| out.flush())
            }
            Target::File { path, file, looked } => {
                if looked.elapsed() >= LOOK {
                    *looked = Instant::now();
                    if moved(path, file) {
                        *file = append(path)?;
                    }
                }
                file.write_all(lines)
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether the path is no longer that file.
fn moved(path: &Path, file: &File) -> bool {
    match (path.metadata(), file.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) != (b.dev(), b.ino()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::AccessLogFormat;

    #[test]
    fn a_file_that_was_moved_is_opened_again() {
        let path = std::env::temp_dir().join(format!("portway-access-{}.log", std::process::id()));
        let aside = path.with_extension("1");
        let log = AccessLog { format: AccessLogFormat::Common, target: AccessLogTarget::File(path.clone()) };
        let mut writer = AccessLogWriter::open(&log).unwrap();
        std::fs::rename(&path, &aside).unwrap();
        if let Target::File { looked, .. } = &mut writer.0 {
            *looked = looked.checked_sub(LOOK).unwrap();
        }
        writer.write(b"a line\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a line\n");
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(aside).unwrap();
    }
}
