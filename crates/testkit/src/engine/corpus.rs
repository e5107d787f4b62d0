//! The stored corpus of HTTP/1.1: one attack per file, with its verdict.
//!
//! A file begins with `#` and why; then come lines `key: value`, and after `---` the payload: `\r`, `\n`,
//! `\t`, `\xNN` and `\\` are escapes, `{text*N}` repeats, and the file's own line ends mean nothing.

use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};

/// A file of the corpus.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name without `.txt`.
    pub name: String,
    /// Its first line.
    pub why: String,
    keys: Vec<(String, String)>,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl Case {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// What becomes of it.
    pub fn verdict(&self) -> &str {
        self.get("verdict").unwrap_or_default()
    }
}

/// All files of a folder, by name.
///
/// # Errors
/// When a file cannot be read or is not in the form above.
pub fn cases(folder: &Path) -> anyhow::Result<Vec<Case>> {
    let mut files = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    files.sort();
    files.iter().map(|path| case(path).with_context(|| path.display().to_string())).collect()
}

fn case(path: &Path) -> anyhow::Result<Case> {
    let text = std::fs::read_to_string(path)?;
    let (head, payload) = text.split_once("---\n").context("no ---")?;
    let (why, keys) = head.split_once('\n').context("no first line")?;
    let keys = keys
        .lines()
        .map(|line| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned())))
        .collect::<Option<Vec<_>>>()
        .context("a line without a colon")?;
    let case = Case {
        name: path.file_stem().context("no name")?.to_string_lossy().into_owned(),
        why: why.strip_prefix("# ").context("the first line is no comment")?.to_owned(),
        keys,
        payload: unescape(&payload.replace('\n', ""))?,
    };
    ensure!(case.get("verdict").is_some(), "no verdict");
    Ok(case)
}

fn unescape(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '{']) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        if rest.as_bytes()[at] == b'{' {
            let (repeat, behind) = rest[at + 1..].split_once('}').context("no }")?;
            let (what, times) = repeat.rsplit_once('*').context("no *")?;
            out.extend(unescape(what)?.repeat(times.parse()?));
            rest = behind;
            continue;
        }
        let (byte, len) = match rest.as_bytes().get(at + 1) {
            Some(b'r') => (b'\r', 2),
            Some(b'n') => (b'\n', 2),
            Some(b't') => (b'\t', 2),
            Some(b'\\') => (b'\\', 2),
            Some(b'x') => {
                let digits = rest.get(at + 2..at + 4).context("\\x without digits")?;
                (u8::from_str_radix(digits, 16)?, 4)
            }
            other => return Err(anyhow!("an unknown escape: {other:?}")),
        };
        out.push(byte);
        rest = &rest[at + len..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}
