//! What Portway tells a user about an input: one finding, the place in the file, and what to do about it.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::Serialize;

use crate::yaml::{Source, Span};

/// How much a [`Diagnostic`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object cannot be used as it is.
    Error,
    /// The object is used, but probably not as its author meant.
    Warning,
    /// Worth knowing; nothing is wrong.
    Notice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        })
    }
}

/// The part of one source line that a [`Diagnostic`] shows. Control characters are replaced already, so
/// that a hostile file cannot drive the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// The line, trimmed around the caret.
    pub text: String,
    /// Where the caret starts in `text`, in characters.
    pub caret: usize,
    /// How many characters the caret line underlines; at least 1.
    pub length: usize,
}

/// One finding about an input file or object.
///
/// It holds the source line that it shows, so it stays printable after the file is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// The file, as the user named it; absent for objects that came from no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// The line, from 1; 0 when no place is known.
    pub line: u32,
    /// The column in characters, from 1; 0 when no place is known.
    pub column: u32,
    /// How many characters of that line are meant.
    pub length: u32,
    /// The object, such as `HTTPRoute store/cart`; empty when the file could not be read that far.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// The field path, such as `spec.rules[0].matches[1].path.value`; empty for the object as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What is wrong, in the API server's wording where it has one.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The source line. Never present for Secrets.
    #[serde(skip)]
    pub snippet: Option<Snippet>,
}

impl Diagnostic {
    /// A finding with no place yet.
    pub fn new(severity: Severity, message: impl Into<String>) -> Self {
        Self {
            severity,
            file: None,
            line: 0,
            column: 0,
            length: 0,
            object: String::new(),
            path: String::new(),
            message: message.into(),
            hint: None,
            snippet: None,
        }
    }

    /// An error with no place yet.
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message)
    }

    /// A warning with no place yet.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message)
    }

    /// The same finding with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same finding about `object`, such as `HTTPRoute store/cart`.
    #[must_use]
    pub fn about(mut self, object: impl Into<String>) -> Self {
        self.object = object.into();
        self
    }

    /// The same finding in a file of which no more is known, such as one that cannot be read.
    #[must_use]
    pub fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.into());
        self
    }

    /// The same finding at a place in a file, with the source line when `show_line`.
    ///
    /// A span over several lines is cut at the end of its first.
    #[must_use]
    pub fn at(mut self, source: &Source, span: Span, show_line: bool) -> Self {
        let position = source.position(span.start);
        let (line, start) = source.line_at(span.start);
        // Never counted to the end of a line, which may be a whole file long.
        let meant = source.slice(span).lines().next().unwrap_or("").trim_end();
        let room = line[start..].chars().take(LENGTH).count();
        let length = meant.chars().take(LENGTH).count().min(room).max(1);
        self.file = Some(source.name_arc());
        self.line = position.line;
        self.column = position.column;
        self.length = u32::try_from(length).unwrap_or(u32::MAX);
        self.snippet = show_line.then(|| Snippet::cut(line, start, length));
        self
    }

    /// Whether this makes the object unusable.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// One line for logs: `examples/x.yaml:12:13: error: HTTPRoute store/cart: spec.rules: …`.
    pub fn one_line(&self) -> String {
        let mut out = self.place().map(|p| p + ": ").unwrap_or_default();
        let _ = write!(out, "{}: {}", self.severity, self.headline());
        if let Some(hint) = &self.hint {
            let _ = write!(out, " ({})", printable(hint));
        }
        out
    }

    /// The form for people, several lines long, without a final line break. Colours only when `colour`:
    /// the caller knows whether it writes to a terminal.
    pub fn render(&self, colour: bool) -> String {
        let paint = |code: &'static str| if colour { code } else { "" };
        let (reset, bold, blue) = (paint("\x1b[0m"), paint("\x1b[1m"), paint("\x1b[1;34m"));
        let tone = paint(match self.severity {
            Severity::Error => "\x1b[1;31m",
            Severity::Warning => "\x1b[1;33m",
            Severity::Notice => "\x1b[1;36m",
        });
        let mut out = format!("{tone}{}{reset}{bold}: {}{reset}", self.severity, self.headline());
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        if let Some(place) = self.place() {
            let _ = write!(out, "\n{gutter}{blue}-->{reset} {place}");
        }
        if let Some(snippet) = &self.snippet {
            let (indent, carets) = (" ".repeat(snippet.caret), "^".repeat(snippet.length));
            let _ = write!(
                out,
                "\n{gutter} {blue}|{reset}\n{blue}{number} |{reset} {}\n{gutter} {blue}|{reset} {indent}{tone}{carets}{reset}",
                snippet.text
            );
        }
        if let Some(hint) = &self.hint {
            let _ = write!(out, "\n{gutter} {blue}={reset} {bold}help:{reset} {}", printable(hint));
        }
        out
    }

    fn place(&self) -> Option<String> {
        let file = printable(self.file.as_deref()?);
        Some(if self.line == 0 { file } else { format!("{file}:{}:{}", self.line, self.column) })
    }

    fn headline(&self) -> String {
        let parts = [self.object.as_str(), self.path.as_str(), self.message.as_str()];
        let mut out = String::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            if !out.is_empty() {
                out.push_str(": ");
            }
            out.push_str(&printable(part));
        }
        out
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The longest underlining.
const LENGTH: usize = 1000;

/// How much of a line is shown on each side of the caret's start, in characters.
const BEFORE: usize = 60;
const AFTER: usize = 80;

impl Snippet {
    /// Cuts the surroundings of the byte `start` out of a line.
    fn cut(line: &str, start: usize, length: usize) -> Self {
        let (before, after) = line.split_at(start);
        let from = before.char_indices().rev().take(BEFORE).last().map_or(start, |(at, _)| at);
        let to = after.char_indices().nth(AFTER).map_or(line.len(), |(at, _)| start + at);
        let lead = if from > 0 { "…" } else { "" };
        let trail = if to < line.len() { "…" } else { "" };
        let caret = lead.chars().count() + line[from..start].chars().count();
        let room = line[start..to].chars().count().max(1);
        let text: String = line[from..to].chars().map(visible).collect();
        Self { text: format!("{lead}{}{trail}", text.trim_end()), caret, length: length.min(room) }
    }
}

/// A tab would put the caret under the wrong column; any other control character could drive the terminal,
/// and the bidirectional ones could make a line read as what it is not.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { ' ' } else { visible(c) }).collect()
}
