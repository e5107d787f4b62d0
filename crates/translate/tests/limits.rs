//! What one route may ask of the translation that it shares with all others.

mod common;

use portway_api::object::{KindId, ObjectKey};
use portway_translate::translate;
use serde_json::{Value, json};

/// The limit on one route's regular expressions.
const EXPRESSIONS: usize = 256;

/// A rule whose one match has these header matches.
fn rule(name: &str, kind: &str, expressions: std::ops::Range<usize>) -> Value {
    let all: Vec<_> = expressions.collect();
    let matches: Vec<_> = all
        .chunks(16)
        .map(|chunk| {
            let headers = chunk
                .iter()
                .map(|n| json!({"name": format!("x-{n}"), "type": kind, "value": format!("v{n}")}));
            json!({"headers": headers.collect::<Vec<_>>()})
        })
        .collect();
    json!({"name": name, "matches": matches})
}

fn served(kind: KindId, rules: &Value) -> (Vec<String>, Vec<String>) {
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gw", "namespace": "store"},
        "spec": {"gatewayClassName": "portway", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    });
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "portway"},
        "spec": {"controllerName": portway_translate::CONTROLLER_NAME},
    });
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind.as_str(),
        "metadata": {"name": "cart", "namespace": "store"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules},
    });
    let resources = common::resources("limits", &format!("{class}\n---\n{gateway}\n---\n{route}"));
    let translation = translate(&resources, &common::options());
    let entries = translation.plan.ports[0].listeners[0].hosts.iter().flat_map(|host| &host.entries);
    let mut names: Vec<_> =
        entries.filter_map(|entry| Some(entry.rule.source.section.as_deref()?.to_owned())).collect();
    names.sort();
    names.dedup();
    let status = translation.statuses.get(&ObjectKey::new(kind, "store", "cart")).unwrap();
    let conditions = &status.route().unwrap().parents[0].conditions;
    let partly = conditions.iter().filter(|condition| condition.type_ == "PartiallyInvalid");
    (names, partly.map(|condition| condition.message.clone()).collect())
}

/// Within the API's limits a route could have more than four thousand, whose compilation takes seconds.
#[test]
fn a_route_has_only_so_many_regular_expressions() {
    for kind in [KindId::HTTPRoute, KindId::GRPCRoute] {
        let full = rule("full", "RegularExpression", 0..EXPRESSIONS);
        let plain = rule("plain", "Exact", 0..EXPRESSIONS);
        assert_eq!(served(kind, &json!([full, plain])), (vec!["full".into(), "plain".into()], vec![]));
        let (names, partly) = served(kind, &json!([full, rule("more", "RegularExpression", 0..1), plain]));
        assert_eq!(names, ["full", "plain"]);
        let said = "Dropped Rule: spec.rules[1].matches: the route has more than 256 regular expressions";
        assert_eq!(partly, [said]);
    }
}
