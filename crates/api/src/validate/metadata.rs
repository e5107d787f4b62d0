//! The API server's checks of `metadata`, for which CRDs have no schema.

use serde_json::Value;

use super::findings::{Findings, Hint};
use super::names::{
    is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, is_label_value, is_qualified_name,
};
use crate::diagnostic::Severity;
use crate::path::At;

/// Which names a kind's objects may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label.
    Rfc1035Label,
    /// RFC 1123 subdomains with `:` between.
    Signed,
}

/// All annotations of one object together, keys included.
const ANNOTATIONS_BYTES: usize = 256 << 10;

/// Checks the metadata of an object that is to be stored under its name, and settles its namespace.
pub(super) fn check(metadata: &mut Value, names: NameRule, namespaced: bool, at: At<'_>, out: &mut Findings) {
    let Value::Object(map) = metadata else { return };
    match map.get("name") {
        None | Some(Value::Null) => {
            let hint = match map.get("generateName") {
                Some(_) => {
                    Hint::Text("generateName needs an API server: in a file, give the name".to_owned())
                }
                None => Hint::None,
            };
            out.error(at.field("name"), "Required value".to_owned(), hint);
        }
        Some(Value::String(name)) => check_name(name, names, at.field("name"), out),
        Some(_) => {}
    }
    match map.get("namespace") {
        Some(Value::String(namespace)) if !namespaced => {
            let message = format!("{namespace:?} is ignored: objects of this kind belong to no namespace");
            out.push(Severity::Warning, at.field("namespace").to_path(), message, Hint::None);
            map.remove("namespace");
        }
        Some(Value::String(namespace)) if !is_dns1123_label(namespace) => {
            let message = format!("Invalid value: {namespace:?}: must be an RFC 1123 label");
            let hint =
                "lowercase letters, digits and '-', starting and ending with a letter or digit, at most 63";
            out.error(at.field("namespace"), message, Hint::Text(hint.to_owned()));
        }
        None if namespaced => {
            map.insert("namespace".to_owned(), Value::String("default".to_owned()));
        }
        _ => {}
    }
    let labels = at.field("labels");
    for (key, value) in map.get("labels").and_then(Value::as_object).into_iter().flatten() {
        check_key(key, labels, out);
        if let Some(value) = value.as_str().filter(|value| !is_label_value(value)) {
            let message = format!(
                "Invalid value: {value:?}: a label's value is at most 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit"
            );
            out.error(labels.key(key), message, Hint::None);
        }
    }
    let annotations = at.field("annotations");
    let mut bytes = 0;
    for (key, value) in map.get("annotations").and_then(Value::as_object).into_iter().flatten() {
        // The case of an annotation's key does not matter to the API server.
        check_key(&key.to_lowercase(), annotations, out);
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES {
        let message = format!("Too long: {bytes} bytes: may not be more than {ANNOTATIONS_BYTES} bytes");
        out.error(annotations, message, Hint::None);
    }
}

fn check_name(name: &str, rule: NameRule, at: At<'_>, out: &mut Findings) {
    let (valid, what, most) = match rule {
        NameRule::Subdomain => {
            (is_dns1123_subdomain(name), "RFC 1123 subdomain", "253, with '.' between labels")
        }
        NameRule::Label => (is_dns1123_label(name), "RFC 1123 label", "63"),
        NameRule::Rfc1035Label => (is_dns1035_label(name), "RFC 1035 label", "63, the first being a letter"),
        NameRule::Signed => (
            name.split(':').all(is_dns1123_subdomain),
            "RFC 1123 subdomain",
            "253, behind SIGNER:PATH: or not",
        ),
    };
    if !valid {
        let message = format!("Invalid value: {name:?}: must be an {what}");
        let hint = format!(
            "lowercase letters, digits and '-', starting and ending with a letter or digit, at most {most}"
        );
        out.error(at, message, Hint::Text(hint));
    }
}

fn check_key(key: &str, at: At<'_>, out: &mut Findings) {
    if !is_qualified_name(key) {
        let message =
            format!("Invalid value: {key:?}: must be a name such as \"app\" or \"example.com/app\"");
        out.key_error(at.key(key), message, Hint::None);
    }
}
