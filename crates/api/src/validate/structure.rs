//! What the API server does before it runs rules: unknown fields, defaults, and the schema's own checks.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::findings::{Findings, Hint};
use super::schema::{Format, Kind, ListType, Schema};
use super::suggest::nearest;
use crate::diagnostic::Severity;
use crate::path::At;
use crate::yaml;

/// Removes unknown fields, which are errors, and `null`s, which mean absent, and adds defaults.
pub(super) fn normalise(schema: &Schema, value: &mut Value, at: At<'_>, out: &mut Findings) {
    match value {
        Value::Object(map) if schema.kind == Kind::Object => {
            for &property in &schema.defaulted {
                let (name, child) = &schema.properties[property];
                let absent = match map.get(&**name) {
                    None => true,
                    Some(value) => value.is_null() && !child.nullable,
                };
                if let (true, Some(default)) = (absent, &child.default) {
                    map.insert(name.to_string(), default.clone());
                }
            }
            map.retain(|name, value| match (schema.property(name), &schema.additional) {
                (Some(child), _) => {
                    let keep = !value.is_null() || child.nullable;
                    if keep {
                        normalise(child, value, at.field(name), out);
                    }
                    keep
                }
                (None, Some(child)) => {
                    let keep = !value.is_null() || child.nullable;
                    if keep {
                        normalise(child, value, at.key(name), out);
                    }
                    keep
                }
                (None, None) => {
                    schema.open || {
                        unknown(schema, name, at, out);
                        false
                    }
                }
            });
        }
        Value::Array(items) if schema.kind == Kind::Array => {
            let Some(child) = &schema.items else { return };
            for (index, item) in items.iter_mut().enumerate() {
                normalise(child, item, at.index(index), out);
            }
        }
        _ => {}
    }
}

fn unknown(schema: &Schema, name: &str, at: At<'_>, out: &mut Findings) {
    let known = || schema.properties.iter().map(|(name, _)| &**name);
    let hint = match nearest(name, known()) {
        Some(near) => format!("did you mean {near:?}?"),
        None if known().count() == 0 => "no fields are known here".to_owned(),
        None => format!("known fields here: {}", known().collect::<Vec<_>>().join(", ")),
    };
    out.key_error(at.field(name), "unknown field".to_owned(), Hint::Text(hint));
}

/// Checks a value, defaults already applied, against everything in the schema but its rules.
pub(super) fn check(schema: &Schema, value: &Value, at: At<'_>, out: &mut Findings) {
    match (schema.kind, value) {
        (_, Value::Null) if schema.nullable => return,
        (Kind::Any, _) | (Kind::IntOrString | Kind::String, Value::String(_)) => {}
        (Kind::Object, Value::Object(_)) | (Kind::Array, Value::Array(_)) => {}
        (Kind::Number, Value::Number(_)) | (Kind::Boolean, Value::Bool(_)) => {}
        (Kind::Integer | Kind::IntOrString, Value::Number(number)) if !number.is_f64() => {}
        _ => return wrong_type(schema, value, at, out),
    }
    if !schema.allowed.is_empty() && !schema.allowed.contains(value) {
        unsupported(schema, value, at, out);
    }
    match value {
        Value::Object(map) => {
            for name in &schema.required {
                if !map.contains_key(&**name) {
                    out.error(at.field(name), "Required value".to_owned(), Hint::None);
                }
            }
            let (length, noun) = (map.len(), "entries");
            too_few_or_many(length, schema.min_properties, schema.max_properties, noun, at, out);
            for (name, value) in map {
                match (schema.property(name), &schema.additional) {
                    (Some(child), _) => check(child, value, at.field(name), out),
                    (None, Some(child)) => check(child, value, at.key(name), out),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if too_few_or_many(items.len(), schema.min_items, schema.max_items, "items", at, out) {
                return;
            }
            if let Some(child) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    check(child, item, at.index(index), out);
                }
            }
            duplicates(&schema.list, schema.items.as_deref(), items, at, out);
        }
        Value::String(text) => string(schema, text, value, at, out),
        Value::Number(number) => bounds(schema, number.as_f64().unwrap_or_default(), value, at, out),
        Value::Bool(_) | Value::Null => {}
    }
    combined(schema, value, at, out);
}

fn wrong_type(schema: &Schema, value: &Value, at: At<'_>, out: &mut Findings) {
    let given = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let hint = match (schema.kind, value) {
        (Kind::String, Value::Number(_) | Value::Bool(_)) => Hint::Quote,
        (Kind::Integer | Kind::Number, Value::String(text)) if text.parse::<f64>().is_ok() => {
            Hint::Text("write the number without quotes".to_owned())
        }
        (Kind::Boolean, Value::String(text))
            if yaml::legacy_boolean(text) || text == "true" || text == "false" =>
        {
            Hint::Text("write true or false, without quotes".to_owned())
        }
        (Kind::Array, Value::Object(_)) => {
            Hint::Text("this is a list: start each item with \"- \"".to_owned())
        }
        (Kind::Object, Value::Array(_)) => Hint::Text("this is a single map: remove the \"- \"".to_owned()),
        _ => Hint::None,
    };
    let shown = match value {
        // A whole map or list in a message would bury it.
        Value::Array(_) | Value::Object(_) => format!("{given:?}"),
        _ => out.show(value),
    };
    let wanted = schema.kind.name();
    out.error(at, format!("Invalid value: {shown}: must be of type {wanted}, not {given}"), hint);
}

fn unsupported(schema: &Schema, value: &Value, at: At<'_>, out: &mut Findings) {
    let supported: Vec<_> = schema.allowed.iter().map(ToString::to_string).collect();
    let near = value.as_str().and_then(|text| nearest(text, schema.allowed.iter().filter_map(Value::as_str)));
    let hint = near.map_or(Hint::None, |near| Hint::Text(format!("did you mean {near:?}?")));
    let shown = out.show(value);
    out.error(at, format!("Unsupported value: {shown}: supported values: {}", supported.join(", ")), hint);
}

/// Whether there are too many, in which case the items are better not looked at one by one.
fn too_few_or_many(
    length: usize,
    least: Option<usize>,
    most: Option<usize>,
    noun: &str,
    at: At<'_>,
    out: &mut Findings,
) -> bool {
    if let Some(least) = least.filter(|least| length < *least) {
        out.error(at, format!("Invalid value: {length}: should have at least {least} {noun}"), Hint::None);
    }
    let too_many = most.filter(|most| length > *most);
    if let Some(most) = too_many {
        out.error(at, format!("Too many: {length}: must have at most {most} {noun}"), Hint::None);
    }
    too_many.is_some()
}

fn duplicates(
    list: &ListType,
    items_schema: Option<&Schema>,
    items: &[Value],
    at: At<'_>,
    out: &mut Findings,
) {
    if items.len() < 2 {
        return;
    }
    match list {
        ListType::Atomic => {}
        ListType::Set => {
            let mut seen = HashSet::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                if !seen.insert(item) {
                    let shown = out.show(item);
                    out.error(at.index(index), format!("Duplicate value: {shown}"), Hint::None);
                }
            }
        }
        ListType::Map(keys) => {
            // A key that is optional and absent counts with its default, which is applied by now.
            let mut seen = HashSet::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                let key: Vec<_> = keys.iter().map(|key| item.get(&**key)).collect();
                let complete = items_schema.is_none_or(|schema| {
                    keys.iter()
                        .zip(&key)
                        .all(|(name, value)| value.is_some() || !schema.required.contains(name))
                });
                // One without its key has an error already.
                if complete && !seen.insert(key) {
                    let shown =
                        keys.iter().filter_map(|k| Some((k.to_string(), item.get(&**k)?.clone()))).collect();
                    let shown = out.show(&Value::Object(shown));
                    out.error(at.index(index), format!("Duplicate value: {shown}"), Hint::None);
                }
            }
        }
    }
}

fn string(schema: &Schema, text: &str, value: &Value, at: At<'_>, out: &mut Findings) {
    if schema.min_length.is_some() || schema.max_length.is_some() {
        let length = text.chars().count();
        if let Some(least) = schema.min_length.filter(|least| length < *least) {
            let shown = out.show(value);
            let message = format!("Invalid value: {shown}: should be at least {least} characters long");
            out.error(at, message, Hint::None);
        }
        if let Some(most) = schema.max_length.filter(|most| length > *most) {
            let message = format!("Too long: {length} characters: may not be more than {most} characters");
            return out.error(at, message, Hint::None);
        }
    }
    if let Some(pattern) = &schema.pattern
        && !pattern.is_match(text)
    {
        let hint = meaning(pattern.as_str()).map_or(Hint::None, |hint| Hint::Text(hint.to_owned()));
        out.error(
            at,
            format!("Invalid value: {}: should match '{}'", out.show(value), pattern.as_str()),
            hint,
        );
    }
    let wanted = match schema.format {
        Format::DateTime if OffsetDateTime::parse(text, &Rfc3339).is_err() => {
            "a date and time such as 2026-01-31T12:00:00Z"
        }
        Format::Ipv4 if text.parse::<Ipv4Addr>().is_err() => "an IPv4 address",
        Format::Ipv6 if text.parse::<Ipv6Addr>().is_err() => "an IPv6 address",
        Format::Byte if !is_base64(text) => "base64",
        _ => "",
    };
    if !wanted.is_empty() {
        let shown = out.show(value);
        let hint = match schema.format {
            Format::Byte if out.secret => {
                Hint::Text("plain text goes under stringData instead of data".to_owned())
            }
            _ => Hint::None,
        };
        out.error(at, format!("Invalid value: {shown}: must be {wanted}"), hint);
    }
    if schema.kind == Kind::String && yaml::legacy_boolean(text) {
        let message = format!("Kubernetes reads an unquoted {text} as a boolean");
        out.push(Severity::Warning, at.to_path(), message, Hint::UnquotedBoolean);
    }
}

/// Go's decoder, and so the API server, passes over line breaks.
fn is_base64(text: &str) -> bool {
    if text.contains(['\n', '\r']) {
        STANDARD.decode(text.replace(['\n', '\r'], "")).is_ok()
    } else {
        STANDARD.decode(text).is_ok()
    }
}

fn bounds(schema: &Schema, number: f64, value: &Value, at: At<'_>, out: &mut Findings) {
    let (least, most) = match schema.format {
        Format::Int32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => (f64::MIN, f64::MAX),
    };
    let (least, most) = (schema.minimum.unwrap_or(least), schema.maximum.unwrap_or(most));
    if number < least {
        let message =
            format!("Invalid value: {}: should be greater than or equal to {least}", out.show(value));
        out.error(at, message, Hint::None);
    } else if number > most {
        let message = format!("Invalid value: {}: should be less than or equal to {most}", out.show(value));
        out.error(at, message, Hint::None);
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combined(schema: &Schema, value: &Value, at: At<'_>, out: &mut Findings) {
    for branch in &schema.all_of {
        check(branch, value, at, out);
    }
    let trial = |branch: &Schema| {
        let mut findings = Findings { secret: out.secret, ..Findings::default() };
        check(branch, value, at, &mut findings);
        findings
    };
    let valid = |branches: &[Schema]| branches.iter().filter(|branch| !trial(branch).has_errors()).count();
    let why = |branches: &[Schema]| {
        let first = branches.iter().flat_map(|branch| trial(branch).list).next();
        first.map_or(Hint::None, |first| match first.hint {
            // The innermost reason is the one that helps.
            Hint::Text(why) => Hint::Text(why),
            _ => Hint::Text(format!("for example, {}: {}", first.path, first.message)),
        })
    };
    let any = (!schema.any_of.is_empty() && valid(&schema.any_of) == 0).then(|| why(&schema.any_of));
    let one = (!schema.one_of.is_empty()).then(|| valid(&schema.one_of)).filter(|count| *count != 1);
    let one = one.map(|count| if count == 0 { why(&schema.one_of) } else { Hint::None });
    let not = schema.not.as_ref().is_some_and(|not| !trial(not).has_errors());
    if let Some(hint) = any {
        out.error(
            at,
            format!("Invalid value: {}: must validate at least one schema (anyOf)", out.show(value)),
            hint,
        );
    }
    if let Some(hint) = one {
        let shown = out.show(value);
        out.error(at, format!("Invalid value: {shown}: must validate one and only one schema (oneOf)"), hint);
    }
    if not {
        out.error(
            at,
            format!("Invalid value: {}: must not validate the schema (not)", out.show(value)),
            Hint::None,
        );
    }
}

/// The commonest patterns of the Gateway API in words.
fn meaning(pattern: &str) -> Option<&'static str> {
    Some(match pattern {
        r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" => {
            "a hostname is lowercase letters, digits, '-' and '.', and may start with \"*.\"; it has no port and is no IP address"
        }
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" => {
            "lowercase letters, digits, '-' and '.', starting and ending with a letter or digit"
        }
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" => {
            "lowercase letters, digits and '-', starting and ending with a letter or digit"
        }
        r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" => {
            "an API group is a DNS name such as gateway.networking.k8s.io, without the version; \"\" is the core group"
        }
        r"^([0-9]{1,5}(h|m|s|ms)){1,4}$" => {
            "a duration is a whole number with a unit, such as 10s, 500ms or 1h30m"
        }
        r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$" => {
            "a header name has no spaces, colons or other separators (RFC 9110)"
        }
        r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$" => "a kind is letters, digits and '-', such as Service",
        _ => return None,
    })
}
