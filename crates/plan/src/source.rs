use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Names one object: `HTTPRoute store/cart`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The kind, such as `HTTPRoute`.
    pub kind: Arc<str>,
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Where a plan node comes from: an object, and the place in it.
///
/// Displays as `HTTPRoute store/cart spec.rules[2]` or `Gateway infra/shared spec.listeners[0] (https)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The object.
    pub object: Arc<ObjectRef>,
    /// The field path in the object, such as `spec.rules[2].filters[0]`; empty for the object as a whole.
    pub path: Arc<str>,
    /// The name that the user gave to that place (a listener's or rule's `name`), if any.
    pub section: Option<Arc<str>>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        match &self.section {
            Some(section) => write!(f, " ({section})"),
            None => Ok(()),
        }
    }
}
