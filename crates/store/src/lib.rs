//! What exists now: objects from files, indexed.
//!
//! ```text
//! files, folders ──► FileSource ──► Resources (immutable, shared)  + Changes (which keys) + Diagnostics
//!    watched          settles        │
//!                                    ├ get::<Service>("store", "cart")     one object
//!                                    ├ all::<HTTPRoute>()                  a kind, in order of namespace and name
//!                                    ├ endpoint_slices("store", "cart")    by Service
//!                                    └ namespace_labels("store")           declared or not
//! ```
//!
//! A clone of [`Resources`] is a snapshot: it costs a few pointers, and shares with later ones what did not change.

pub use resources::{AnyObject, Change, Changes, Held, NamespaceLabels, Origin, Resources, Stored, Table};

mod resources;
mod sorted;
