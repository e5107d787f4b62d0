//! YAML and JSON text in, documents out, in which every value and every key knows its place in the text.
//!
//! ```text
//! bytes ─► Source ─► granit-parser events ─► build ─► Document { value, span of every node }
//!                        limits: bytes, depth, nodes, aliases, documents
//! ```
//!
//! Scalars are read as Kubernetes reads them (`sigs.k8s.io/yaml`), but for `yes`, `no`, `on` and `off`, which
//! stay strings, as YAML 1.2 has it; validation warns where Kubernetes would see a boolean.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::diagnostic::Diagnostic;
use crate::path::{FieldPath, Step};

mod build;
mod scalar;
#[cfg(test)]
mod tests;

pub use scalar::legacy_boolean;

/// A range of bytes in a [`Source`], the end excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

/// A place as editors count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

/// The text of one file and its name.
#[derive(Debug)]
pub struct Source {
    name: Arc<str>,
    text: Box<str>,
    line_starts: OnceLock<Vec<u32>>,
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into(), line_starts: OnceLock::new() }
    }

    /// The file, as the user named it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's name, shared.
    pub fn name_arc(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text of a span; empty for a span of another source.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or("")
    }

    /// Where a byte is. Beyond the first 64 KiB of a line, columns count bytes: a line may be a whole file long.
    pub fn position(&self, offset: u32) -> Position {
        let starts = self.line_starts();
        let line = starts.partition_point(|&start| start <= offset).max(1);
        let before = self.text.get(starts[line - 1] as usize..offset as usize).unwrap_or("");
        let before = before.trim_start_matches('\u{feff}');
        let counted = before.floor_char_boundary(COUNTED);
        let column = before[..counted].chars().count() + (before.len() - counted) + 1;
        Position { line: saturate(line), column: saturate(column) }
    }

    /// The line that a byte is in, without its line break, and where in it the byte is.
    pub(crate) fn line_at(&self, offset: u32) -> (&str, usize) {
        let starts = self.line_starts();
        let line = starts.partition_point(|&start| start <= offset).max(1);
        let start = starts[line - 1] as usize;
        let end = starts.get(line).map_or(self.text.len(), |&end| end as usize);
        let whole = self.text.get(start..end).unwrap_or("").trim_end_matches(['\n', '\r']);
        let text = whole.trim_start_matches('\u{feff}');
        let at = (offset as usize).saturating_sub(start + (whole.len() - text.len()));
        (text, text.floor_char_boundary(at))
    }

    fn line_starts(&self) -> &[u32] {
        self.line_starts.get_or_init(|| {
            let bytes = self.text.as_bytes();
            let after_break = bytes.iter().enumerate().filter_map(|(at, byte)| match byte {
                b'\n' => Some(saturate(at + 1)),
                // A lone CR ends a line in YAML; of CRLF, the LF does.
                b'\r' if bytes.get(at + 1) != Some(&b'\n') => Some(saturate(at + 1)),
                _ => None,
            });
            std::iter::once(0).chain(after_break).collect()
        })
    }

    /// Whether the document around `offset` may be a Secret, judged by its text alone, since it could not be
    /// parsed. Errs towards yes. Takes as long as the document.
    fn may_be_secret(&self, offset: u32) -> bool {
        let at = self.text.floor_char_boundary(offset as usize);
        let (before, after) = self.text.split_at(at);
        let start = before.rfind("\n---").unwrap_or(0);
        let end = after.find("\n---").map_or(self.text.len(), |found| at + found);
        self.text[start..end].contains("Secret")
    }
}

/// How far into a line its characters are counted, in bytes.
const COUNTED: usize = 64 << 10;

fn saturate(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// How much one file may ask for. What exceeds a limit is an error that names it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text; larger files are not looked at. At most 4 GiB whatever is set.
    pub bytes: usize,
    /// Lists and maps inside one another. Recursion elsewhere in Portway relies on it being small.
    pub depth: usize,
    /// Values in all documents together, those that aliases repeat included.
    pub nodes: usize,
    /// Values that anchors and aliases copy.
    pub alias_nodes: usize,
    /// Bytes of text that anchors and aliases copy.
    pub alias_bytes: usize,
    /// Documents.
    pub documents: usize,
}

impl Default for Limits {
    /// Fits `kubectl get -o yaml` of some 20,000 routes.
    fn default() -> Self {
        Self {
            bytes: 32 << 20,
            depth: 64,
            nodes: 1_000_000,
            alias_nodes: 100_000,
            alias_bytes: 4 << 20,
            documents: 50_000,
        }
    }
}

/// Where one value is, and its key if it has one.
#[derive(Clone, Copy, Debug)]
struct Node {
    span: Span,
    /// Empty when the value is no map entry.
    key: Span,
    /// This value and all below it.
    size: u32,
}

/// One document, or one item of a `List` document: a value, and where each part of it is.
#[derive(Clone, Debug)]
pub struct Document {
    source: Arc<Source>,
    value: Value,
    /// One for each value in `value`, a parent before its children, children in order: `serde_json` keeps
    /// the order of map entries (feature `preserve_order`).
    nodes: Vec<Node>,
}

/// What [`Document::locate`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The value.
    pub value: Span,
    /// The value's key, when it is a map entry.
    pub key: Option<Span>,
    /// Whether the path leads to this very value. If not, this is the deepest value on the way that exists.
    pub exact: bool,
}

impl Document {
    /// The value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value, given up by the document.
    pub fn into_value(self) -> Value {
        self.value
    }

    /// The file.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Where the document's content starts.
    pub fn position(&self) -> Position {
        self.source.position(self.nodes.first().map_or(0, |node| node.span.start))
    }

    /// Where a field is. A path that leads nowhere yields the deepest value on the way that exists.
    pub fn locate(&self, path: &FieldPath) -> Location {
        let (mut value, mut at) = (&self.value, 0);
        for step in &path.0 {
            let next = match (step, value) {
                (Step::Field(name) | Step::Key(name), Value::Object(map)) => {
                    map.iter().position(|(key, _)| key == name).and_then(|nth| Some((nth, map.get(name)?)))
                }
                (Step::Index(index), Value::Array(items)) => items.get(*index).map(|value| (*index, value)),
                _ => None,
            };
            let Some((nth, child)) = next else { return self.location(at, false) };
            (value, at) = (child, nth_child(&self.nodes, at, nth));
        }
        self.location(at, true)
    }

    fn location(&self, at: usize, exact: bool) -> Location {
        let node = self.nodes.get(at).copied().unwrap_or(Node {
            span: Span::default(),
            key: Span::default(),
            size: 1,
        });
        Location { value: node.span, key: (node.key != Span::default()).then_some(node.key), exact }
    }

    /// The documents in this one: the items if it is a `List`, as `kubectl get -o yaml` writes it, or itself.
    fn split_list(self, out: &mut Vec<Document>) {
        let is_list =
            self.value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
                && self.value.get("items").is_some_and(Value::is_array);
        let Document { source, value: Value::Object(mut map), nodes } = self else { return out.push(self) };
        if !is_list {
            return out.push(Document { source, value: Value::Object(map), nodes });
        }
        let items_at = map.keys().position(|key| key == "items").map_or(0, |nth| nth_child(&nodes, 0, nth));
        let Some(Value::Array(items)) = map.get_mut("items").map(Value::take) else { return };
        let mut at = items_at + 1;
        for value in items {
            let size = nodes.get(at).map_or(0, |node| node.size as usize);
            let slice = nodes.get(at..at + size).unwrap_or_default().to_vec();
            out.push(Document { source: Arc::clone(&source), value, nodes: slice });
            at += size;
        }
    }
}

/// The index of a node's `nth` child.
fn nth_child(nodes: &[Node], parent: usize, nth: usize) -> usize {
    let mut at = parent + 1;
    for _ in 0..nth {
        at += nodes.get(at).map_or(1, |node| node.size as usize);
    }
    at
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The documents that could be read, in order; empty ones left out, `List`s replaced by their items.
    pub documents: Vec<Document>,
    /// What was wrong with the others, or with the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads YAML or JSON (which is YAML) within the default [`Limits`].
///
/// A document that cannot be read does not cost the file's other documents, as far as the text still shows
/// where those begin.
pub fn parse(name: &str, bytes: &[u8]) -> Parsed {
    parse_within(name, bytes, &Limits::default())
}

/// Reads YAML or JSON within the given limits; see [`parse`].
pub fn parse_within(name: &str, bytes: &[u8], limits: &Limits) -> Parsed {
    let refuse = |diagnostic: Diagnostic| Parsed { documents: Vec::new(), diagnostics: vec![diagnostic] };
    let most = limits.bytes.min(u32::MAX as usize);
    if bytes.len() > most {
        return refuse(too_large(name, bytes.len() as u64, most));
    }
    let text = match text(name, bytes) {
        Ok(text) => text,
        Err(diagnostic) => return refuse(*diagnostic),
    };
    let source = Arc::new(Source::new(name, text));
    let (roots, mut diagnostics) = build::build(&source, limits);
    let mut documents = Vec::with_capacity(roots.len());
    for root in roots {
        root.split_list(&mut documents);
    }
    diagnostics.truncate(MAX_DIAGNOSTICS);
    Parsed { documents, diagnostics }
}

/// More findings about the syntax of one file would help nobody.
const MAX_DIAGNOSTICS: usize = 100;

/// The error for a file that is larger than `limit` bytes; for callers that see the size before they read.
pub fn too_large(name: &str, bytes: u64, limit: usize) -> Diagnostic {
    Diagnostic::error(format!(
        "the file is too large: {bytes} bytes; Portway reads files of at most {limit} bytes ({} MiB)",
        limit >> 20
    ))
    .in_file(name)
    .hint("split it into several files")
}

fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Box<Diagnostic>> {
    let refuse = |valid: usize, message: &str, hint: &str| {
        let source = Source::new(name, &String::from_utf8_lossy(&bytes[..valid]));
        let end = saturate(source.text().len());
        Err(Box::new(Diagnostic::error(message).at(&source, Span { start: end, end }, false).hint(hint)))
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return refuse(0, "the file is UTF-16; YAML for Kubernetes is UTF-8", "save it as UTF-8");
    }
    let nul = bytes.iter().position(|&byte| byte == 0);
    match (std::str::from_utf8(bytes), nul) {
        (_, Some(at)) => {
            refuse(at, "NUL byte: this is a binary file, not YAML", "keep other files out of this folder")
        }
        (Err(error), None) => {
            let at = error.valid_up_to();
            refuse(at, &format!("byte 0x{:02x} is not valid UTF-8", bytes[at]), "save the file as UTF-8")
        }
        (Ok(text), None) => Ok(text),
    }
}
