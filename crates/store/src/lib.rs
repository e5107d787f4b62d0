//! What exists now: objects from files, indexed.
//!
//! ```text
//! files, folders ──► FileSource ──► Resources (immutable, shared)  + Changes (which keys) + Diagnostics
//!    watched          settles        │
//!                                    ├ get::<Service>("store", "cart")     one object
//!                                    ├ all::<HTTPRoute>()                  a kind, in order of namespace and name
//!                                    ├ endpoint_slices("store", "cart")    by Service
//!                                    └ namespace_labels("store")           declared or not
//!
//! within: scan (which files) ─► read (bytes → objects) ─► catalog (which object serves) ─► Resources
//! ```
//!
//! A clone of [`Resources`] is a snapshot: it costs a few pointers, and shares with later ones what did not change.
#![forbid(unsafe_code)]

use std::sync::Arc;

use portway_api::diagnostic::Diagnostic;
use portway_api::yaml;

pub use files::{FileSource, Update};
pub use resources::{AnyObject, Change, Changes, Held, NamespaceLabels, Origin, Resources, Stored, Table};
pub use scan::Limits;
pub use watch::Handle;

mod catalog;
mod files;
mod read;
mod resources;
mod scan;
mod sorted;
mod watch;

/// What there is to begin with.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects that can be used.
    pub resources: Resources,
    /// What there is to say about the input, in order of file and line.
    pub diagnostics: Vec<Diagnostic>,
}

impl Loaded {
    /// Reads the YAML documents of one text; `name` stands for the file in what is said about it.
    pub fn from_documents(name: &str, text: &str) -> Self {
        let mut catalog = catalog::Catalog::default();
        let name: Arc<str> = name.into();
        let content = read::read(&name, text.as_bytes(), &yaml::Limits::default(), &catalog.resources);
        catalog.apply(vec![(name, Some(content))]);
        Self { diagnostics: catalog.diagnostics(), resources: catalog.resources }
    }
}

impl Resources {
    /// Reads the YAML documents of one text.
    ///
    /// # Errors
    /// All that was found, if any of it is an error.
    pub fn from_documents(text: &str) -> Result<Self, Vec<Diagnostic>> {
        let loaded = Loaded::from_documents("documents.yaml", text);
        if loaded.diagnostics.iter().any(Diagnostic::is_error) {
            Err(loaded.diagnostics)
        } else {
            Ok(loaded.resources)
        }
    }
}
