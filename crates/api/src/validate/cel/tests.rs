use std::collections::BTreeMap;

use serde_json::json;

use super::super::tests::{module, official_documents};
use super::*;

/// What both engines make of a rule; they must agree.
fn run(rule: &str, value: &Value) -> Option<bool> {
    let native =
        Programs::default().native(rule).unwrap().unwrap_or_else(|| panic!("{rule} was not lowered"));
    let native = eval::run(&native, value, None).ok();
    let node = json!({"x-kubernetes-preserve-unknown-fields": true});
    let other = interpret(&interpreted(rule, node.as_object().unwrap()).unwrap(), value, None).ok();
    assert_eq!(native, other, "{rule} on {value}");
    native
}

#[test]
fn the_language() {
    let value = json!({
        "a": 1, "b": "x/y", "list": [1, 2, 3], "items": [{"n": "p", "q": 1}, {"n": "r"}], "namespace": "ns", "e": [],
        "map": {"k": "v"}, "t": "1h30m", "d-e": true, "f_g": 2, "host": "10.0.0.1",
    });
    for (rule, expected) in [
        ("self.a == 1", Some(true)),
        ("self.a != 1 || self.a < 2", Some(true)),
        ("self.a >= 1 && self.a <= 1 && !(self.a > 1)", Some(true)),
        ("self.missing == 1", None),
        ("self.missing == 1 || true", Some(true)),
        ("true || self.missing == 1", Some(true)),
        ("self.missing == 1 && false", Some(false)),
        ("self.missing == 1 || false", None),
        ("has(self.a) && !has(self.missing)", Some(true)),
        ("has(self.a) ? self.a == 2 : self.missing", Some(false)),
        ("self.b.split('/')[0] == 'x' && self.b.split('/').size() == 2", Some(true)),
        ("self.b.split('/')[2] == 'x'", None),
        ("self.b.startsWith('x') && self.b.endsWith('y') && self.b.contains('/')", Some(true)),
        ("self.b.substring(2) == 'y' && self.b.substring(0, 1) == 'x'", Some(true)),
        ("self.b.substring(9) == 'y'", None),
        ("self.b.matches('^[a-z]/[a-z]$')", Some(true)),
        (
            "size(self.list) == 3 && self.list.size() == 3 && size(self.b) == 3 && size(self.map) == 1",
            Some(true),
        ),
        ("self.list.all(x, x > 0) && !self.list.all(x, x > 1)", Some(true)),
        ("self.list.exists(x, x == 2) && self.list.exists_one(x, x > 2)", Some(true)),
        ("self.list.exists_one(x, x > 1)", Some(false)),
        ("self.list.filter(x, x > 1) == [2, 3]", Some(true)),
        ("self.list.map(x, x + 1) == [2, 3, 4]", Some(true)),
        ("self.items.all(i, i.q == 1)", None),
        ("self.items.exists(i, i.q == 1)", Some(true)),
        ("self.items.all(i, self.items.exists_one(j, i.n == j.n))", Some(true)),
        ("self.e.all(x, false) && !self.e.exists(x, true)", Some(true)),
        ("self.map.all(k, k == 'k') && 'k' in self.map && self.map['k'] == 'v'", Some(true)),
        ("2 in self.list && !(9 in [1, 2]) && self.b in ['x/y']", Some(true)),
        ("self.__namespace__ == 'ns' && self.d__dash__e && self.f__g == 2", Some(true)),
        ("duration(self.t) == duration('90m') && duration(self.t) > duration('1h')", Some(true)),
        ("duration(self.b) == duration('1s')", None),
        ("isIP(self.host) && !isIP(self.b)", Some(true)),
        ("format.dns1123Subdomain().validate(self.b).hasValue()", Some(true)),
        ("format.dns1123Subdomain().validate(self.host).hasValue()", Some(false)),
        ("format.qualifiedName().validate(self.b).hasValue()", Some(false)),
        ("self == self && self.items[0] != self.items[1]", Some(true)),
        ("(has(self.a) ? 1 : 0) + (has(self.z) ? 1 : 0) == 1", Some(true)),
        ("self.a", None),
        ("self.list[0] == 1 && self.list[2] == 3", Some(true)),
        ("self.list[3] == 1", None),
        ("self.a < 'x'", None),
    ] {
        assert_eq!(run(rule, &value), expected, "{rule}");
    }
}

#[test]
fn a_rule_that_costs_too_much_ends() {
    let expr = Programs::default()
        .native("self.all(a, self.all(b, self.all(c, self.all(d, true))))")
        .unwrap()
        .unwrap();
    let long = json!(vec![1; 200]);
    assert!(eval::run(&expr, &long, None).unwrap_err().contains("too expensive"));
}

#[test]
fn what_is_not_lowered_is_left_to_kube_cel() {
    let rule = |rule: Value| {
        let node = json!({"type": "string"});
        Rule::compile(&mut Programs::default(), &rule, node.as_object().unwrap()).unwrap()
    };
    let lower = rule(json!({"rule": "self.lowerAscii() == 'abc'", "message": "must be abc"}));
    assert!(matches!(lower.engine, Engine::KubeCel(_)));
    assert_eq!(lower.violation(&json!("ABC"), None), None);
    assert_eq!(lower.violation(&json!("x"), None).as_deref(), Some("Invalid value: must be abc"));
    let told = rule(
        json!({"rule": "self == 'a'", "messageExpression": "'not ' + self", "reason": "FieldValueForbidden"}),
    );
    assert_eq!(told.violation(&json!("b"), None).as_deref(), Some("Forbidden: not b"));
}

/// Both engines run every rule of every CRD on the official examples, valid and invalid, and on what is left of
/// them when one field is taken away.
#[test]
fn the_engines_agree_on_the_gateway_api() {
    let mut rules = Rules::default();
    let schemas: BTreeMap<String, Value> = crate::crds::EXPERIMENTAL
        .iter()
        .flat_map(|(name, text)| crate::yaml::parse(name, text.as_bytes()).documents)
        .filter(|document| document.value()["kind"] == "CustomResourceDefinition")
        .map(|document| {
            let spec = &document.value()["spec"];
            let schema = &spec["versions"][0]["schema"]["openAPIV3Schema"];
            (spec["names"]["kind"].as_str().unwrap().to_owned(), schema["properties"]["spec"].clone())
        })
        .collect();
    let module = module();
    let files =
        [module.join("examples"), module.join("hack/invalid-examples")].map(|f| official_documents(&f));
    for document in files.iter().flatten().flat_map(|(_, documents)| documents) {
        let validated = super::super::Validator::shared().validate(document, None).value;
        let (Some(schema), Some(kind)) =
            (validated["kind"].as_str().and_then(|kind| schemas.get(kind)), validated["kind"].as_str())
        else {
            continue;
        };
        rules.compare(schema, &validated["spec"], kind);
    }
    assert!(rules.compared > 8_000, "{}", rules.compared);
}

#[derive(Default)]
struct Rules {
    programs: Programs,
    interpreted: BTreeMap<String, kube_cel::CompiledSchema>,
    compared: usize,
}

impl Rules {
    fn compare(&mut self, schema: &Value, value: &Value, path: &str) {
        for (nth, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
            let text = rule["rule"].as_str().unwrap();
            let native = self.programs.native(text).unwrap().unwrap();
            let node = schema.as_object().unwrap();
            let other = self
                .interpreted
                .entry(format!("{path} {nth}"))
                .or_insert_with(|| interpreted(text, node).unwrap());
            let mut variants = vec![value.clone()];
            if let Value::Object(map) = value {
                variants.extend(map.keys().map(|key| {
                    let mut less = map.clone();
                    less.remove(key);
                    Value::Object(less)
                }));
            }
            for variant in variants {
                let native = eval::run(&native, &variant, None).ok();
                assert_eq!(native, interpret(other, &variant, None).ok(), "{path}: {text} on {variant}");
                self.compared += 1;
            }
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let child = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
            self.compare(child, value, &format!("{path}.{name}"));
        }
        for item in value.as_array().into_iter().flatten() {
            self.compare(&schema["items"], item, &format!("{path}[]"));
        }
    }
}
