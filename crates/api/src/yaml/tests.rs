use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

fn one(text: &str) -> Document {
    let mut parsed = parse("t.yaml", text.as_bytes());
    assert_eq!(parsed.diagnostics, [], "{text}");
    assert_eq!(parsed.documents.len(), 1, "{text}");
    parsed.documents.remove(0)
}

fn errors(text: impl AsRef<[u8]>) -> Vec<String> {
    parse("t.yaml", text.as_ref()).diagnostics.iter().map(Diagnostic::one_line).collect()
}

fn text_at<'a>(document: &'a Document, path: &str) -> &'a str {
    let location = document.locate(&FieldPath::parse(path));
    assert!(location.exact, "{path}");
    document.source().slice(location.value)
}

/// Every value of the document is found at its path, and its place in the text holds it.
fn check_places(document: &Document) {
    fn walk(document: &Document, value: &Value, path: &FieldPath) {
        let location = document.locate(path);
        assert!(location.exact, "{path}");
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| walk(document, value, &path.field(key)));
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(nth, value)| walk(document, value, &path.index(nth)));
            }
            Value::String(text) => {
                assert!(document.source().slice(location.value).contains(text.as_str()), "{path}: {text}");
            }
            other => assert_eq!(document.source().slice(location.value), other.to_string(), "{path}"),
        }
    }
    walk(document, document.value(), &FieldPath::default());
}

const ROUTE: &str = "\
# a comment
kind: HTTPRoute
metadata:
  name: cart
spec:
  hostnames: [a.example, \"b.example\"]
  rules:
  - matches:
    - path: {type: Exact, value: /x}
    backendRefs:
    - name: one
      port: 80
    - name: two
      port: 81
  - name: zwei
";

#[test]
fn every_value_and_key_has_its_place() {
    let route = one(ROUTE);
    check_places(&route);
    assert_eq!(text_at(&route, "spec.rules[0].backendRefs[1].port"), "81");
    let location = route.locate(&FieldPath::parse("spec.rules[1].name"));
    assert_eq!(route.source().position(location.value.start), Position { line: 15, column: 11 });
    assert_eq!(location.key.map(|key| route.source().slice(key)), Some("name"));
    let absent = route.locate(&FieldPath::parse("spec.rules[1].filters[0]"));
    assert!(!absent.exact);
    assert_eq!(route.source().position(absent.value.start).line, 15);
}

#[test]
fn json_is_read_as_well() {
    let text =
        "{\n\t\"kind\": \"HTTPRoute\",\n\t\"a\": [1, 2.5, true, null, \"\\u00e4\\/\\ud83d\\ude00\"]\n}\n";
    let document = one(text);
    assert_eq!(document.value(), &json!({"kind": "HTTPRoute", "a": [1, 2.5, true, null, "ä/😀"]}));
    assert_eq!(text_at(&document, "a[2]"), "true");
    let one_line = json!({"a": "x".repeat(5000), "b": {"c": [1]}, "k".repeat(900): 1}).to_string();
    assert_eq!(one(&one_line).value().to_string(), one_line);
}

#[test]
fn documents_are_told_apart_and_empty_ones_skipped() {
    let parsed = parse("t.yaml", b"---\n# nothing\n---\na: 1\n---\n---\nb: 2\n...\n");
    assert_eq!(parsed.diagnostics, []);
    let values: Vec<_> = parsed.documents.iter().map(Document::value).collect();
    assert_eq!(values, [&json!({"a": 1}), &json!({"b": 2})]);
    assert_eq!(parsed.documents[1].position(), Position { line: 7, column: 1 });
}

#[test]
fn lists_become_their_items_with_their_places() {
    let text =
        "apiVersion: v1\nkind: List\nmetadata: {}\nitems:\n- kind: A\n  x: [1, 2]\n- kind: B\n  y: {z: q}\n";
    let parsed = parse("t.yaml", text.as_bytes());
    let values: Vec<_> = parsed.documents.iter().map(Document::value).collect();
    assert_eq!(values, [&json!({"kind": "A", "x": [1, 2]}), &json!({"kind": "B", "y": {"z": "q"}})]);
    parsed.documents.iter().for_each(check_places);
    assert_eq!(text_at(&parsed.documents[1], "y.z"), "q");
}

#[test]
fn a_broken_document_does_not_cost_the_others() {
    let parsed = parse("t.yaml", b"a: 1\n---\nb: [1, 2\nc: }\n---\nd: 4\n---\ne: 1\ne: 2\n---\nf: 6\n");
    let values: Vec<_> = parsed.documents.iter().map(|d| d.value().to_string()).collect();
    assert_eq!(values, [r#"{"a":1}"#, r#"{"d":4}"#, r#"{"f":6}"#]);
    assert_eq!(parsed.diagnostics.len(), 2, "{:?}", parsed.diagnostics);
}

#[test]
fn duplicate_keys_name_both_places() {
    assert_eq!(
        errors("kind: A\nspec:\n  port: 80\n  name: x\n  port: 81\n"),
        ["t.yaml:5:3: error: duplicate key \"port\": the first is at 3:3 (keep one of the two)"]
    );
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    let text =
        "base: &b {x: 1, y: [2, 3]}\nuse:\n  <<: *b\n  x: 9\nagain: *b\nlist: {<<: [*b, {z: 5, x: 7}]}\n";
    let document = one(text);
    assert_eq!(
        document.value(),
        &json!({
            "base": {"x": 1, "y": [2, 3]},
            "use": {"x": 9, "y": [2, 3]},
            "again": {"x": 1, "y": [2, 3]},
            "list": {"x": 1, "y": [2, 3], "z": 5},
        })
    );
    check_places_of_scalars_only(&document);
    assert_eq!(text_at(&document, "use.x"), "9");
    assert_eq!(text_at(&document, "use.y[1]"), "3");
    assert_eq!(errors("a: &a [*a]\n").len(), 1);
    assert_eq!(errors("a: *nowhere\n").len(), 1);
    assert_eq!(errors("<<: 3\n").len(), 1);
}

/// Aliased lists and maps are placed where they are used, so only scalars can be compared with the text.
fn check_places_of_scalars_only(document: &Document) {
    for path in ["use.y[0]", "again.y[1]", "again.x", "list.z", "list.y[0]"] {
        let value = document.value().pointer(&format!("/{}", path.replace(['.', '['], "/").replace(']', "")));
        assert_eq!(Some(text_at(document, path)), value.map(ToString::to_string).as_deref(), "{path}");
    }
}

#[test]
fn tags_say_what_a_scalar_is() {
    assert_eq!(
        one("a: !!str 80\nb: !!int 8\nc: !!float 1.5\nd: ! 80\n").value(),
        &json!({"a": "80", "b": 8, "c": 1.5, "d": "80"})
    );
    assert_eq!(
        errors("a: !!binary aGk=\n"),
        ["t.yaml:1:13: error: tag !!binary has no meaning in Kubernetes YAML"]
    );
    assert_eq!(errors("a: !!int x\n").len(), 1);
    assert_eq!(errors("a: !custom {}\n").len(), 1);
    assert_eq!(errors("a: .inf\n").len(), 1);
}

#[test]
fn what_is_not_yaml_gets_a_clear_error() {
    assert_eq!(
        errors(b"a: 1\nb: \xff\xfe\n"),
        ["t.yaml:2:4: error: byte 0xff is not valid UTF-8 (save the file as UTF-8)"]
    );
    // Truncated in the middle of a character.
    assert_eq!(
        errors(b"a: \xc3"),
        ["t.yaml:1:4: error: byte 0xc3 is not valid UTF-8 (save the file as UTF-8)"]
    );
    assert_eq!(
        errors(b"\x7fELF\x02\x01\x00\x00"),
        [
            "t.yaml:1:7: error: NUL byte: this is a binary file, not YAML (keep other files out of this folder)"
        ]
    );
    assert_eq!(
        errors(b"\xff\xfea\x00"),
        ["t.yaml:1:1: error: the file is UTF-16; YAML for Kubernetes is UTF-8 (save it as UTF-8)"]
    );
    assert!(errors("a:\n\tb: 1\n")[0].contains("indent with spaces"), "{:?}", errors("a:\n\tb: 1\n"));
    assert!(errors("{\"a\": 1}\n{\"b\": 2}\n")[0].contains("a line of ---"));
    assert_eq!(errors("? [a]\n: 1\n"), ["t.yaml:1:3: error: a key must be a string, not a list or map"]);
    assert_eq!(one("\u{feff}a: 1\n").value(), &json!({"a": 1}));
}

#[test]
fn a_secret_that_cannot_be_parsed_is_not_printed() {
    let text = "kind: Namespace\nmetadata: {name: [}\n---\nkind: Secret\nstringData:\n  key: {hunter2\n";
    let parsed = parse("t.yaml", text.as_bytes());
    assert_eq!(parsed.diagnostics.len(), 2);
    assert!(parsed.diagnostics[0].render(false).contains("{name: [}"));
    assert!(!parsed.diagnostics[1].render(false).contains("hunter2"));
}

/// Hostile inputs must end in an error soon. The bound is for debug builds on busy machines; what it is there to
/// catch would take hours.
fn refused(what: &str, bytes: &[u8], message: &str) {
    let start = Instant::now();
    let parsed = parse("t.yaml", bytes);
    assert!(start.elapsed() < Duration::from_secs(60), "{what}: {:?}", start.elapsed());
    let error = parsed.diagnostics.first().map(Diagnostic::one_line).unwrap_or_default();
    assert!(error.contains(message), "{what}: {error:?}");
    assert!(error.len() < 1000, "{what}");
}

#[test]
fn hostile_files_end_in_a_clear_error() {
    let mut bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..30 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
    }
    refused("billion laughs", bomb.as_bytes(), "anchors and aliases expand to more than 100000 values");
    let huge = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(1000));
    refused("quadratic blow-up", huge.as_bytes(), "or 4194304 bytes");

    let message = "more than 64 lists and maps inside one another";
    refused("flow nesting", "[".repeat(1_000_000).as_bytes(), message);
    refused("map nesting", "{a: ".repeat(1_000_000).as_bytes(), message);
    let mut block = String::new();
    (0..2000).for_each(|level| block.push_str(&format!("{}a:\n", " ".repeat(level))));
    refused("block nesting", block.as_bytes(), message);
    refused("dashes", "- ".repeat(1_000_000).as_bytes(), message);
    let long_alias =
        format!("a: &a {}1{}\nb: {}*a{}\n", "[".repeat(40), "]".repeat(40), "[".repeat(40), "]".repeat(40));
    refused("nesting by alias", long_alias.as_bytes(), message);

    refused("many values", format!("[{}]", "1,".repeat(1_000_001)).as_bytes(), "more than 1000000 values");
    refused("many documents", "--- 1\n".repeat(60_000).as_bytes(), "more than 50000 documents");
    refused("many broken documents", "--- ]\n".repeat(100_000).as_bytes(), "not valid YAML");
    refused("100 MB", &vec![b'a'; 100_000_000], "the file is too large: 100000000 bytes");
    refused("32 MB of NUL", &vec![0; 32 << 20], "binary file");
    let noise: Vec<u8> = (0..8u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    refused("noise", &noise, "UTF-8");
    refused("colons", ":".repeat(1 << 20).as_bytes(), "");
    refused("quotes", "\"".repeat(1 << 20 | 1).as_bytes(), "");
    refused("percent", "%".repeat(1 << 20).as_bytes(), "");
    refused("question marks", "? ".repeat(1 << 20).as_bytes(), "");
    refused("ampersands", "&a ".repeat(1 << 20).as_bytes(), "");
}

#[test]
fn many_findings_on_one_endless_line_are_placed_soon() {
    let start = Instant::now();
    let text = format!("{{\"a\": [{}], {}}}", "1,".repeat(400_000), "\"b\": 1, ".repeat(200));
    let found = parse("t.json", text.as_bytes()).diagnostics;
    assert_eq!(found.len(), 100);
    assert!(found[99].column > 800_000 && found[99].render(false).len() < 500, "{}", found[99]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn a_huge_scalar_is_just_long() {
    let text = format!("a: {}\n", "x".repeat(8 << 20));
    assert_eq!(one(&text).value()["a"].as_str().map(str::len), Some(8 << 20));
}

mod never_panics {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn on_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for diagnostic in parse("t.yaml", &bytes).diagnostics {
                let _ = (diagnostic.render(true), diagnostic.one_line());
            }
        }

        /// Text made of what YAML gives a meaning, which gets further than noise does.
        #[test]
        fn on_yaml_like_text(parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "a", "b", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "<<", "? ", "| \n", "> \n", "\"",
                "'", "#", "!!str ", "!", "---\n", "...\n", "%", "\t", "é", "\u{feff}", "\r", "1", "~", "kind: List\n", "items:\n",
            ]), 0..60))
        {
            let parsed = parse("t.yaml", parts.concat().as_bytes());
            for document in &parsed.documents {
                prop_assert_eq!(document.nodes.first().map(|node| node.size as usize), Some(document.nodes.len()));
                prop_assert_eq!(document.nodes.len(), count(document.value()));
            }
            for diagnostic in parsed.diagnostics {
                let _ = (diagnostic.render(true), diagnostic.one_line());
            }
        }
    }

    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(items) => items.iter().map(count).sum(),
            Value::Object(map) => map.values().map(count).sum(),
            _ => 0,
        }
    }
}
