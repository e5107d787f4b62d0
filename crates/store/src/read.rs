//! One file's bytes to its objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::core::NAMESPACE_NAME_LABEL;
use portway_api::diagnostic::{Diagnostic, Severity};
use portway_api::object::{KindId, Metadata, ObjectKey, ResourceVersion};
use portway_api::path::FieldPath;
use portway_api::validate::{Validated, Validator};
use portway_api::yaml::{self, Document};
use serde_json::Value;

use crate::resources::{AnyObject, Origin, Resources};

/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";
/// What `kubectl apply` notes for itself: a copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// The objects that can be used.
    pub(crate) objects: Vec<AnyObject>,
    /// The objects that are there but cannot be used.
    pub(crate) refused: Vec<ObjectKey>,
    /// Whether there is something whose name cannot be told, or the file could not be read at all.
    pub(crate) unreadable: bool,
    /// What was found.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Documents of kinds that Portway does not use, by kind and API version: the first place, and how many.
    pub(crate) ignored: BTreeMap<(String, String), (Origin, usize)>,
}

impl Content {
    /// A file that could not be read.
    pub(crate) fn unreadable(why: Diagnostic) -> Self {
        Self { unreadable: true, diagnostics: vec![why], ..Self::default() }
    }
}

/// Reads a file's objects; `name` is the file as the user named it, `bytes` its contents.
///
/// `served` is what exists now, for rules that compare an object with what it was before.
pub(crate) fn read(name: &Arc<str>, bytes: &[u8], limits: &yaml::Limits, served: &Resources) -> Content {
    if bytes.is_empty() {
        let hint = "a file that is being written begins like that, so what was read from it before stays in use; \
                    to remove its objects, remove the file";
        let notice = Diagnostic::new(Severity::Notice, "the file is empty").in_file(name).hint(hint);
        return Content::unreadable(notice);
    }
    let parsed = yaml::parse_within(name, bytes, limits);
    let mut content = Content {
        unreadable: parsed.diagnostics.iter().any(Diagnostic::is_error),
        diagnostics: parsed.diagnostics,
        ..Content::default()
    };
    for (nth, document) in parsed.documents.iter().enumerate() {
        let position = document.position();
        let origin = Origin {
            file: Arc::clone(name),
            document: u32::try_from(nth).unwrap_or(u32::MAX),
            line: position.line,
            column: position.column,
        };
        content.add(document, origin, served);
    }
    content
}

impl Content {
    fn add(&mut self, document: &Document, origin: Origin, served: &Resources) {
        let key = key_of(document.value());
        // Some rules compare an object with what it was.
        let old = key.as_ref().and_then(|key| served.any(key)).and_then(|object| object.to_value());
        let Validated { mut value, diagnostics, known } =
            Validator::shared().validate(document, old.as_ref());
        let refused = diagnostics.iter().any(Diagnostic::is_error);
        if !known && !refused {
            let text = |field: &str| document.value()[field].as_str().unwrap_or_default().to_owned();
            self.ignored.entry((text("kind"), text("apiVersion"))).or_insert((origin, 0)).1 += 1;
            return;
        }
        self.diagnostics.extend(diagnostics);
        let Some(key) = key else {
            self.unreadable = true;
            return;
        };
        if refused {
            self.refused.push(key);
            return;
        }
        // A pod's is where it is, as an EndpointSlice's endpoints are.
        if let Some(fields) = value.as_object_mut().filter(|_| key.kind != KindId::Pod) {
            // Statuses are the controllers' to write: this one is the CRD's default.
            fields.shift_remove("status");
        }
        match AnyObject::read(key.kind, value, Some(origin), |metadata| complete(metadata, &key)) {
            Ok(object) => self.objects.push(object),
            Err(error) => {
                let span = document.locate(&FieldPath::default()).value;
                let secret = key.kind == KindId::Secret;
                // The error may quote what it could not read.
                let message =
                    if secret { "cannot be read as a Secret".to_owned() } else { error.to_string() };
                let why = Diagnostic::error(message).about(key.to_string());
                self.diagnostics.push(why.at(document.source(), span, !secret));
                self.refused.push(key);
            }
        }
    }
}

/// The key of an object, if it can be told.
fn key_of(value: &Value) -> Option<ObjectKey> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let api_version = text("/apiVersion")?;
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let kind = KindId::find(group, text("/kind")?)?;
    let namespace = match kind.info().namespaced {
        true => text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE),
        false => "",
    };
    Some(ObjectKey::new(kind, namespace, text("/metadata/name")?))
}

/// Sets what the API server would set, and drops what it would not take from a user.
fn complete(metadata: &mut Metadata, key: &ObjectKey) {
    (*key.namespace).clone_into(&mut metadata.namespace);
    metadata.generation = 1;
    metadata.uid = None;
    metadata.deletion_timestamp = None;
    metadata.resource_version = ResourceVersion::default();
    metadata.annotations.remove(LAST_APPLIED);
    if key.kind == KindId::Namespace {
        metadata.labels.insert(NAMESPACE_NAME_LABEL.to_owned(), metadata.name.clone());
    }
}

/// The notice about objects that Portway has no use for.
pub(crate) fn ignored(kind: &str, api_version: &str, first: &Origin, count: usize) -> Diagnostic {
    let others = match count {
        1 => String::new(),
        n => format!(" ({n} objects; this is the first)"),
    };
    let mut notice = Diagnostic::new(
        Severity::Notice,
        format!("{kind} {api_version}: not used by Portway, ignored{others}"),
    );
    place(&mut notice, first);
    notice
}

/// Puts a finding where an object was read.
pub(crate) fn place(diagnostic: &mut Diagnostic, origin: &Origin) {
    diagnostic.file = Some(Arc::clone(&origin.file));
    diagnostic.line = origin.line;
    diagnostic.column = origin.column;
    diagnostic.length = 1;
}
