//! One file's bytes to its objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use portway_api::core::NAMESPACE_NAME_LABEL;
use portway_api::diagnostic::{Diagnostic, Severity};
use portway_api::object::{KindId, Metadata, ObjectKey};
use portway_api::path::FieldPath;
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
    let parsed = yaml::parse_within(name, bytes, limits);
    let mut content = Content {
        unreadable: parsed.diagnostics.iter().any(Diagnostic::is_error),
        diagnostics: parsed.diagnostics,
        ..Content::default()
    };
    for (nth, document) in parsed.documents.into_iter().enumerate() {
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
    fn add(&mut self, document: Document, origin: Origin, served: &Resources) {
        let (kind, name) = match identify(&document) {
            Identity::Used(kind, name) => (kind, name),
            Identity::Ignored { kind, api_version } => {
                self.ignored.entry((kind, api_version)).or_insert((origin, 0)).1 += 1;
                return;
            }
            Identity::Wrong(why) => {
                self.unreadable = true;
                self.diagnostics.push(*why);
                return;
            }
        };
        let key = name.key(kind);
        match validate(document, &key, origin, served) {
            Ok((object, findings)) => {
                self.diagnostics.extend(findings);
                self.objects.push(object);
            }
            Err(findings) => {
                self.diagnostics.extend(findings);
                self.refused.push(key);
            }
        }
    }
}

/// What a document is.
enum Identity {
    /// An object that Portway reads.
    Used(KindId, Name),
    /// An object of a kind that Portway has no use for.
    Ignored { kind: String, api_version: String },
    /// Nothing that can be told.
    Wrong(Box<Diagnostic>),
}

struct Name {
    namespace: String,
    name: String,
}

impl Name {
    fn key(&self, kind: KindId) -> ObjectKey {
        let namespace = match (kind.info().namespaced, self.namespace.as_str()) {
            (false, _) => "",
            (true, "") => DEFAULT_NAMESPACE,
            (true, namespace) => namespace,
        };
        ObjectKey::new(kind, namespace, &self.name)
    }
}

fn identify(document: &Document) -> Identity {
    let wrong = |path: &str, message: String, hint: &str| {
        let secret = document.value()["kind"] == "Secret";
        let span = document.locate(&FieldPath::parse(path)).value;
        let mut why = Diagnostic::error(message).at(document.source(), span, !secret).hint(hint);
        path.clone_into(&mut why.path);
        Identity::Wrong(Box::new(why))
    };
    let value = document.value();
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (Some(api_version), Some(kind)) = (text("/apiVersion"), text("/kind")) else {
        let missing = if text("/apiVersion").is_none() { "apiVersion" } else { "kind" };
        let hint = "every object begins with apiVersion and kind; keep other YAML out of this folder";
        return wrong("", format!("this is no Kubernetes object: {missing} is missing"), hint);
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let Some(id) = KindId::find(group, kind) else {
        if is_ours(group) {
            let hint = KindId::from_word(kind).map_or_else(
                || "see the kinds of the Gateway API".to_owned(),
                |known| format!("{known} is of {}", known.info().api_version()),
            );
            return wrong("kind", format!("{group} has no kind {kind}"), &hint);
        }
        return Identity::Ignored { kind: kind.to_owned(), api_version: api_version.to_owned() };
    };
    if !id.info().versions.contains(&version) {
        let served = id.info().versions.join(" and ");
        let hint = format!("write apiVersion: {}", id.info().api_version());
        return wrong("apiVersion", format!("{kind} is not served as {version}, only as {served}"), &hint);
    }
    let Some(name) = text("/metadata/name") else {
        return wrong("metadata", format!("{kind} has no metadata.name"), "give it a name");
    };
    let namespace = text("/metadata/namespace").unwrap_or_default().to_owned();
    Identity::Used(id, Name { namespace, name: name.to_owned() })
}

/// Whether all kinds of a group are known to Portway.
fn is_ours(group: &str) -> bool {
    matches!(group, "gateway.networking.k8s.io" | "gateway.networking.x-k8s.io" | "portway.dev")
}

/// The object of a document, and what is worth saying about it; or why it cannot be used.
fn validate(
    document: Document,
    key: &ObjectKey,
    origin: Origin,
    served: &Resources,
) -> Result<(AnyObject, Vec<Diagnostic>), Vec<Diagnostic>> {
    let _ = served;
    let findings = Vec::new();
    let source = Arc::clone(document.source());
    let span = document.locate(&FieldPath::default()).value;
    let mut value = document.into_value();
    if let Some(object) = value.as_object_mut() {
        // Statuses are the controllers' to write: what a file says of them was copied from a cluster.
        object.shift_remove("status");
    }
    match AnyObject::read(key.kind, value, Some(origin), |metadata| complete(metadata, key)) {
        Ok(object) => Ok((object, findings)),
        Err(error) => {
            let secret = key.kind == KindId::Secret;
            let why = Diagnostic::error(error.to_string()).about(key.to_string()).at(&source, span, !secret);
            Err(findings.into_iter().chain([why]).collect())
        }
    }
}

/// Sets what the API server would set, and drops what it would not take from a user.
fn complete(metadata: &mut Metadata, key: &ObjectKey) {
    (*key.namespace).clone_into(&mut metadata.namespace);
    metadata.generation = 1;
    metadata.uid = None;
    metadata.deletion_timestamp = None;
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
