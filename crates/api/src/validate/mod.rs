//! Validation with no API server, in the API server's order.
//!
//! ```text
//! Document ─► served version's schema ─► unknown fields, defaults ─► structure, metadata ─► CEL rules
//!                                                                         └ only if all is well ┘
//! ```
//!
//! The CRDs are those of the Gateway API's experimental channel, a superset of the standard one. Core kinds,
//! which have no CRD, are described in `core.yaml` in the same form and validated by the same walk.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::crds;
use crate::diagnostic::{Diagnostic, Severity};
use crate::object::Kind as _;
use crate::path::{At, FieldPath};
use crate::portway::GatewayParameters;
use crate::yaml::{self, Document};

mod cel;
mod core;
mod findings;
mod metadata;
mod names;
mod schema;
mod structure;
mod suggest;
#[cfg(test)]
mod tests;

use findings::{Finding, Findings, Hint};
use metadata::NameRule;
use schema::{Compiler, Schema};
use suggest::nearest;

/// How the groups of the Gateway API begin.
const GATEWAY_API: &str = "gateway.networking.";

/// What validation makes of one object.
#[derive(Debug)]
pub struct Validated {
    /// The object as the API server would store it: defaults added, unknown fields, `null`s and `status`
    /// removed, and `metadata.namespace` set (`default` if the file names none) or, for cluster-scoped kinds,
    /// removed. Unusable if there are errors.
    pub value: Value,
    /// What was found, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether the object is of a kind and version that Portway reads. If not and there is no error, it is
    /// something else that merely lies in the same folder.
    pub known: bool,
}

impl Validated {
    /// Whether the object can be used.
    pub fn is_usable(&self) -> bool {
        self.known && !self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Knows the kinds and their schemas. Each schema is compiled when its first object comes.
#[derive(Debug)]
pub struct Validator {
    kinds: Vec<KindEntry>,
}

#[derive(Debug)]
struct KindEntry {
    group: String,
    kind: String,
    /// The whole CRD.
    text: &'static str,
    definition: OnceLock<Result<Definition, String>>,
}

#[derive(Debug)]
struct Definition {
    namespaced: bool,
    names: NameRule,
    core: bool,
    versions: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    name: String,
    served: bool,
    has_status: bool,
    /// What to tell those who still use it.
    deprecation: Option<String>,
    schema: Arc<Schema>,
}

impl Default for Validator {
    fn default() -> Self {
        Self::new()
    }
}

impl Validator {
    /// Knows the embedded CRDs and the core kinds.
    pub fn new() -> Self {
        let core = include_str!("core.yaml").split("\n---\n");
        let crds = crds::EXPERIMENTAL.iter().chain(crds::PORTWAY).map(|(_, text)| *text);
        let kinds = crds.chain(core).filter_map(KindEntry::peek);
        Self { kinds: kinds.collect() }
    }

    /// The one validator of the process; schemas are compiled once for all its users.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Validator> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    /// Validates one object. `old` is what validation made of the object's previous version, if there is one:
    /// some rules compare the two.
    pub fn validate(&self, document: &Document, old: Option<&Value>) -> Validated {
        let mut findings = Findings { secret: may_be_secret(document.value()), ..Findings::default() };
        let mut value = document.value().clone();
        let known = self.run(&mut value, old, &mut findings);
        let object = name(document.value(), &value);
        let secret = findings.secret;
        let mut diagnostics: Vec<_> = findings
            .list
            .into_iter()
            .filter(|finding| !is_refuted(finding, document))
            .map(|finding| place(finding, document, &object, secret))
            .collect();
        diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        Validated { value, diagnostics, known }
    }

    fn run(&self, value: &mut Value, old: Option<&Value>, out: &mut Findings) -> bool {
        let root = At::ROOT;
        if !value.is_object() {
            let message = "a Kubernetes object is a map with apiVersion, kind and metadata".to_owned();
            out.error(root, message, Hint::None);
            return false;
        }
        let mut identity = [String::new(), String::new()];
        for (field, text) in ["apiVersion", "kind"].into_iter().zip(&mut identity) {
            match value.get(field) {
                Some(Value::String(given)) => *text = given.clone(),
                None | Some(Value::Null) => {
                    out.error(root.field(field), "Required value".to_owned(), Hint::None);
                }
                Some(_) => {
                    let message = "Invalid value: must be of type string".to_owned();
                    out.error(root.field(field), message, Hint::Quote);
                }
            }
        }
        if out.has_errors() {
            return false;
        }
        let [api_version, kind] = identity;
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let Some(entry) = self.kinds.iter().find(|entry| entry.group == group && entry.kind == kind) else {
            self.unknown_kind(group, version, &kind, out);
            return false;
        };
        let definition = match entry.definition() {
            Ok(definition) => definition,
            Err(error) => {
                out.error(root, format!("the schema of {kind} cannot be used: {error}"), Hint::None);
                return false;
            }
        };
        let served = || definition.versions.iter().filter(|version| version.served);
        let Some(version) = served().find(|served| served.name == version) else {
            let known: Vec<_> = served().map(|served| join(group, &served.name)).collect();
            let by = match group {
                "" => "Kubernetes".to_owned(),
                _ if group.starts_with(GATEWAY_API) => format!("Gateway API {}", crds::VERSION),
                _ => "Portway".to_owned(),
            };
            let message =
                format!("{kind} is not served as {api_version} by {by}: use {}", known.join(" or "));
            out.error(root.field("apiVersion"), message, Hint::None);
            return false;
        };
        if let Some(warning) = &version.deprecation {
            let newest = served().next().map(|newest| format!("use {}", join(group, &newest.name)));
            let hint = newest.map_or(Hint::None, Hint::Text);
            out.push(Severity::Warning, root.field("apiVersion").to_path(), warning.clone(), hint);
        }
        if let (true, Value::Object(map)) = (version.has_status, &mut *value) {
            // As the API server does for whoever writes the object itself.
            map.shift_remove("status");
        }
        structure::normalise(&version.schema, value, root, out);
        structure::check(&version.schema, value, root, out);
        if let (true, Value::Object(map)) = (version.has_status, &mut *value) {
            // Its defaults, such as GatewayClass's conditions, are for controllers to write.
            map.shift_remove("status");
        }
        match value.get_mut("metadata") {
            Some(found) => {
                metadata::check(found, definition.names, definition.namespaced, root.field("metadata"), out)
            }
            None => out.error(root.field("metadata"), "Required value".to_owned(), Hint::None),
        }
        if !out.has_errors() {
            cel::check(&version.schema, value, old, root, out);
            if definition.core {
                core::check(&kind, value, out);
            }
        }
        true
    }

    fn unknown_kind(&self, group: &str, version: &str, kind: &str, out: &mut Findings) {
        let root = At::ROOT;
        let of_group =
            || self.kinds.iter().filter(|entry| entry.group == group).map(|entry| entry.kind.as_str());
        let is_gateway_api = group.starts_with(GATEWAY_API);
        if (is_gateway_api || group == GatewayParameters::INFO.group) && of_group().next().is_some() {
            let version = if is_gateway_api { crds::VERSION } else { "it" };
            let hint = match nearest(kind, of_group()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("{version} has {}", of_group().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("{group} has no kind {kind:?}");
            return out.error(root.field("kind"), message, Hint::Text(hint));
        }
        let groups = self.kinds.iter().filter(|entry| entry.kind == kind).map(|entry| entry.group.as_str());
        // Short groups are near one another by chance.
        if let Some(near) = nearest(group, groups.filter(|group| !group.is_empty())) {
            let message = format!("there is no API group {group:?} with kind {kind}");
            let hint = Hint::Text(format!("did you mean {}?", join(near, version)));
            return out.error(root.field("apiVersion"), message, hint);
        }
        let message = format!("{kind} ({}) is not a kind that Portway reads: ignored", join(group, version));
        out.push(Severity::Notice, root.field("kind").to_path(), message, Hint::None);
    }
}

/// More findings about one file would help nobody.
const MOST_PER_FILE: usize = 1000;

/// Validates a file's text, each object by itself; what `portway check` prints before it looks at how the
/// objects fit together.
pub fn check(validator: &Validator, name: &str, bytes: &[u8]) -> Vec<Diagnostic> {
    let yaml::Parsed { documents, mut diagnostics } = yaml::parse(name, bytes);
    for (nth, document) in documents.iter().enumerate() {
        diagnostics.extend(validator.validate(document, None).diagnostics);
        if diagnostics.len() >= MOST_PER_FILE {
            let left = documents.len() - nth - 1;
            let stopped = format!("too many findings: the file's last {left} objects were not checked");
            diagnostics.truncate(MOST_PER_FILE);
            diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
            diagnostics.push(Diagnostic::error(stopped).in_file(name));
            return diagnostics;
        }
    }
    diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    diagnostics
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

impl KindEntry {
    /// Reads just enough of a CRD to find it again; the rest is large. `None` for other files among the CRDs.
    fn peek(text: &'static str) -> Option<Self> {
        let field = |prefix: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(prefix))?;
            Some(value.trim().trim_matches('"').to_owned())
        };
        text.lines().any(|line| line == "kind: CustomResourceDefinition").then_some(())?;
        let (group, kind) = (field("  group: ")?, field("    kind: ")?);
        Some(Self { group, kind, text, definition: OnceLock::new() })
    }

    fn definition(&self) -> Result<&Definition, &str> {
        self.definition.get_or_init(|| Definition::compile(self.text)).as_ref().map_err(String::as_str)
    }
}

impl Definition {
    fn compile(text: &str) -> Result<Self, String> {
        let root = single(text)?;
        let spec = &root["spec"];
        let (group, kind) = (&spec["group"], &spec["names"]["kind"]);
        let core = ["", "discovery.k8s.io", "certificates.k8s.io"].iter().any(|core| group == core);
        let names = match kind.as_str() {
            Some("Namespace") if core => NameRule::Label,
            Some("Service") if core => NameRule::Rfc1035Label,
            Some("ClusterTrustBundle") if core => NameRule::Signed,
            _ => NameRule::Subdomain,
        };
        let mut compiler = Compiler::default();
        let mut compiled: Vec<(&Value, Arc<Schema>)> = Vec::new();
        let mut versions = Vec::new();
        for version in spec["versions"].as_array().into_iter().flatten() {
            let source = &version["schema"]["openAPIV3Schema"];
            // v1 and v1beta1 of a kind are mostly the same.
            let known =
                compiled.iter().find(|(other, _)| *other == source).map(|(_, schema)| Arc::clone(schema));
            let schema = match known {
                Some(schema) => schema,
                None => Arc::new(root_schema(&mut compiler, source)?),
            };
            compiled.push((source, Arc::clone(&schema)));
            versions.push(Version {
                name: version["name"].as_str().unwrap_or_default().to_owned(),
                served: version["served"] == true,
                has_status: version["subresources"].get("status").is_some(),
                deprecation: (version["deprecated"] == true).then(|| {
                    version["deprecationWarning"].as_str().unwrap_or("this version is deprecated").to_owned()
                }),
                schema,
            });
        }
        Ok(Self { namespaced: spec["scope"] == "Namespaced", names, core, versions })
    }
}

/// An object's schema: the CRD's, with what all objects have in common put into it.
fn root_schema(compiler: &mut Compiler, source: &Value) -> Result<Schema, String> {
    let mut source = source.clone();
    let Some(properties) = source.get_mut("properties").and_then(Value::as_object_mut) else {
        return Err("the root has no properties".to_owned());
    };
    properties.insert("metadata".to_owned(), single(include_str!("metadata.yaml"))?);
    for field in ["apiVersion", "kind"] {
        properties.insert(field.to_owned(), serde_json::json!({ "type": "string" }));
    }
    compiler.compile(&source)
}

fn single(text: &str) -> Result<Value, String> {
    let mut parsed = yaml::parse("embedded", text.as_bytes());
    match (parsed.documents.pop(), parsed.diagnostics.first()) {
        (Some(document), None) if parsed.documents.is_empty() => Ok(document.into_value()),
        (_, Some(error)) => Err(error.one_line()),
        _ => Err("not a single YAML document".to_owned()),
    }
}

/// `HTTPRoute store/cart`, as far as the object says.
fn name(given: &Value, validated: &Value) -> String {
    let kind = given["kind"].as_str().unwrap_or("object");
    let metadata =
        if validated["metadata"].is_object() { &validated["metadata"] } else { &given["metadata"] };
    let name = match &metadata["name"] {
        Value::String(name) => name.clone(),
        Value::Number(number) => number.to_string(),
        _ => return kind.to_owned(),
    };
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// Whether the object is, or may be meant to be, a Secret.
fn may_be_secret(object: &Value) -> bool {
    match object.get("kind").and_then(Value::as_str) {
        Some(kind) => kind.to_lowercase().contains("secret"),
        None => object.get("data").is_some() || object.get("stringData").is_some(),
    }
}

/// Whether what looked like an unquoted boolean stands in quotes.
fn is_refuted(finding: &Finding, document: &Document) -> bool {
    let location = document.locate(&finding.path);
    matches!(finding.hint, Hint::UnquotedBoolean)
        && !(location.exact && yaml::legacy_boolean(document.source().slice(location.value)))
}

/// Gives a finding its place in the file.
fn place(finding: Finding, document: &Document, object: &str, secret: bool) -> Diagnostic {
    let location = document.locate(&finding.path);
    let source = document.source();
    let text = source.slice(location.value);
    let hint = match finding.hint {
        Hint::None => None,
        Hint::Text(hint) => Some(hint),
        Hint::Quote | Hint::UnquotedBoolean if secret => Some("quote it".to_owned()),
        Hint::Quote | Hint::UnquotedBoolean => Some(format!("quote it: \"{}\"", text.trim())),
    };
    let is_container = !location.exact || text.contains('\n') || text.starts_with(['{', '[']);
    let span = match location.key {
        Some(key) if finding.at_key || is_container => key,
        _ => location.value,
    };
    let mut diagnostic = Diagnostic::new(finding.severity, finding.message).about(object);
    diagnostic.path = finding.path.to_string();
    diagnostic.hint = hint;
    diagnostic.at(source, span, !secret)
}

/// Places a finding of another check, such as a reference that leads nowhere, at a field of a document.
pub fn diagnose(
    document: &Document,
    severity: Severity,
    path: &FieldPath,
    message: impl Into<String>,
    hint: Option<String>,
) -> Diagnostic {
    let secret = may_be_secret(document.value());
    let object = name(document.value(), document.value());
    let hint = hint.map_or(Hint::None, Hint::Text);
    let finding = Finding { severity, path: path.clone(), message: message.into(), hint, at_key: false };
    place(finding, document, &object, secret)
}
