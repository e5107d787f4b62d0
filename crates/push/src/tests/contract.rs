//! `proto/push.proto` and `src/message.rs` say the same.

use std::collections::BTreeSet;

/// `Message.field = tag`, of both.
fn of_proto(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut message = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix("message ").and_then(|rest| rest.strip_suffix(" {")) {
            message = name.to_owned();
        } else if line.starts_with("enum ") || line.starts_with("service ") {
            message.clear();
        } else if let Some(field) = line.strip_suffix(';').filter(|_| !message.is_empty()) {
            let (left, tag) = field.split_once(" = ").unwrap();
            let words: Vec<_> = left.split(' ').collect();
            let (label, kind, name) = match *words {
                [kind, name] => ("", kind, name),
                [label, kind, name] => (label, kind, name),
                _ => panic!("{line}"),
            };
            let scalar = ["string", "bytes", "bool", "uint32", "uint64", "int64"].contains(&kind);
            let kind = if scalar {
                kind
            } else if kind == "Kind" {
                "enumeration"
            } else {
                "message"
            };
            found.insert(format!("{message}.{name} = {tag} {label} {kind}"));
        }
    }
    found
}

fn of_rust(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut message = String::new();
    let mut attribute = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub(crate) struct ") {
            message = name.trim_end_matches(" {").to_owned();
        } else if line == "pub(crate) enum Message {" {
            message = "FromProxy".to_owned();
        } else if let Some(inner) = line.strip_prefix("#[prost(").and_then(|rest| rest.strip_suffix(")]")) {
            attribute = inner.to_owned();
        } else if attribute.contains("tag = ") {
            let field = line.trim_start_matches("pub(crate) ");
            let name: String = field.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let words: Vec<_> =
                attribute.split(", ").map(|word| word.split(['=', ' ']).next().unwrap()).collect();
            let label = words.iter().find(|word| ["repeated", "optional"].contains(word)).copied();
            // A message is always optional.
            let label =
                label.filter(|label| (*label, words[0]) != ("optional", "message")).unwrap_or_default();
            let tag = attribute.split("tag = \"").nth(1).unwrap().trim_end_matches('"');
            found.insert(format!("{message}.{} = {tag} {label} {}", name.to_lowercase(), words[0]));
            attribute.clear();
        }
    }
    found
}

#[test]
fn the_messages_are_those_of_the_contract() {
    let proto = of_proto(include_str!("../../proto/push.proto"));
    let rust = of_rust(include_str!("../message.rs"));
    assert!(proto.len() > 30, "{proto:?}");
    assert_eq!(proto, rust);
}
