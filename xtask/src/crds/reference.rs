//! `docs/reference/parameters.md`: the fields of a CRD, as a table.

use std::fmt::Write as _;

use serde_json::Value;

/// How deep fields are told one by one; what is below is as in a pod's spec.
const DEPTH: usize = 3;

/// The page of one kind.
pub(super) fn page(crd: &Value) -> String {
    let spec = &crd["spec"];
    let version = &spec["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut out = format!(
        "# {}\n\n`apiVersion: {}/{}`, `kind: {}`. {}\n\n{}\n\n| field of `spec` | type | |\n|-|-|-|\n",
        text(&spec["names"]["kind"]),
        text(&spec["group"]),
        text(&version["name"]),
        text(&spec["names"]["kind"]),
        one_line(&schema["description"]),
        one_line(&schema["properties"]["spec"]["description"]),
    );
    rows(&mut out, &schema["properties"]["spec"], "", 1);
    let _ = writeln!(
        out,
        "\nMade from the CRD by `cargo xtask crds`. How to use it: [Kubernetes](../guide/kubernetes.md)."
    );
    out
}

fn rows(out: &mut String, schema: &Value, above: &str, depth: usize) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{above}{name}");
        let _ = writeln!(out, "| `{path}` | {} | {} |", type_of(field), one_line(&field["description"]));
        if depth < DEPTH && field["properties"]["nodeAffinity"].is_null() {
            rows(out, field, &format!("{path}."), depth + 1);
        }
        for rule in field["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let _ = writeln!(out, "| | | ({}) |", text(&rule["message"]));
        }
    }
}

fn type_of(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        return values.iter().map(|value| format!("`{}`", text(value))).collect::<Vec<_>>().join(", ");
    }
    if field["x-kubernetes-int-or-string"] == true {
        return "number or text".to_owned();
    }
    match text(&field["type"]) {
        "array" => format!("list of {}", type_of(&field["items"])),
        "object" if field["additionalProperties"].is_object() => "map".to_owned(),
        "integer" => match (&field["minimum"], &field["maximum"]) {
            (Value::Number(least), Value::Number(most)) => format!("{least} to {most}"),
            _ => "integer".to_owned(),
        },
        other => other.to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn one_line(description: &Value) -> String {
    text(description).split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
