//! Where in the files a part of an object is.

use std::collections::HashMap;
use std::sync::Arc;

use portway_api::diagnostic::Diagnostic;
use portway_api::object::{KindId, ObjectKey};
use portway_api::path::FieldPath;
use portway_api::yaml::{self, Parsed};
use portway_plan::ObjectRef;
use portway_store::{Origin, Resources};

/// Finds places; each file is read once.
pub(crate) struct Places<'a> {
    resources: &'a Resources,
    files: HashMap<Arc<str>, Parsed>,
}

/// The key of the object that a plan node names.
pub(crate) fn key_of(object: &ObjectRef) -> Option<ObjectKey> {
    let kind = KindId::ALL.iter().copied().find(|kind| kind.as_str() == &*object.kind)?;
    Some(ObjectKey::new(kind, &object.namespace, &object.name))
}

impl<'a> Places<'a> {
    /// For objects of these resources.
    pub(crate) fn new(resources: &'a Resources) -> Self {
        Self { resources, files: HashMap::new() }
    }

    /// `file:line:column` of a field of an object; of the object where the field is not in the file.
    pub(crate) fn of(&mut self, object: &ObjectRef, path: &str) -> Option<String> {
        let origin = self.resources.any(&key_of(object)?)?.origin()?.clone();
        let Some(document) = self.document(&origin) else { return Some(origin.to_string()) };
        let location = document.locate(&FieldPath::parse(path));
        let position = document.source().position(location.key.unwrap_or(location.value).start);
        Some(format!("{}:{}:{}", origin.file, position.line, position.column))
    }

    /// A diagnostic at a field of an object, with its source line.
    pub(crate) fn at(&mut self, diagnostic: Diagnostic, key: &ObjectKey, path: &str) -> Diagnostic {
        let mut diagnostic = diagnostic.about(key.to_string());
        diagnostic.path = path.to_owned();
        let Some(origin) = self.resources.any(key).and_then(|object| object.origin().cloned()) else {
            return diagnostic;
        };
        let show_line = key.kind != KindId::Secret;
        match self.document(&origin) {
            Some(document) => {
                let location = document.locate(&FieldPath::parse(path));
                let span = location.key.filter(|_| path.is_empty()).unwrap_or(location.value);
                diagnostic.at(document.source(), span, show_line)
            }
            None => diagnostic.in_file(&origin.file),
        }
    }

    fn document(&mut self, origin: &Origin) -> Option<&yaml::Document> {
        let parsed = self.files.entry(Arc::clone(&origin.file)).or_insert_with(|| {
            // The file may have changed or gone since it was loaded; then the place of the object has to do.
            let bytes = std::fs::read(&*origin.file).unwrap_or_default();
            yaml::parse(&origin.file, &bytes)
        });
        let document = parsed.documents.get(origin.document as usize)?;
        (document.position().line == origin.line).then_some(document)
    }
}
