//! What the checks of one object found, before it is placed in the file.

use serde_json::Value;

use crate::diagnostic::Severity;
use crate::path::{At, FieldPath};

#[derive(Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) path: FieldPath,
    pub(super) message: String,
    pub(super) hint: Hint,
    /// The key is what is wrong, not its value.
    pub(super) at_key: bool,
}

/// Advice, some of which needs the source text.
#[derive(Debug)]
pub(super) enum Hint {
    None,
    Text(String),
    /// The value was meant as a string.
    Quote,
    /// Not a finding at all if the source has the value in quotes.
    UnquotedBoolean,
}

/// Collects findings about one object.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
    /// The object is a Secret: no value of it may be shown.
    pub(super) secret: bool,
}

/// More findings about one object would help nobody.
const MOST: usize = 50;

/// How much of an offending value is shown, in characters.
const SHOWN: usize = 120;

impl Findings {
    pub(super) fn push(&mut self, severity: Severity, path: FieldPath, message: String, hint: Hint) {
        if self.list.len() < MOST {
            self.list.push(Finding { severity, path, message, hint, at_key: false });
        }
    }

    pub(super) fn error(&mut self, at: At<'_>, message: String, hint: Hint) {
        if self.list.len() < MOST {
            self.push(Severity::Error, at.to_path(), message, hint);
        }
    }

    pub(super) fn key_error(&mut self, at: At<'_>, message: String, hint: Hint) {
        if self.list.len() < MOST {
            let path = at.to_path();
            self.list.push(Finding { severity: Severity::Error, path, message, hint, at_key: true });
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.list.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// A value as messages show it.
    pub(super) fn show(&self, value: &Value) -> String {
        if self.secret {
            return "(not shown)".to_owned();
        }
        let text = value.to_string();
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}
