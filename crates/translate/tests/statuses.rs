//! What statuses keep: times, and what others wrote.

mod common;

use std::time::Duration;

use portway_api::gateway::{Condition, ConditionStatus};
use portway_api::object::{KindId, ObjectKey};
use portway_store::{AnyObject, Change, Changes, Resources};
use portway_translate::{Options, Status, Translator, translate};
use serde_json::{Value, json};

const OURS: &str = "portway.dev/gateway-controller";

fn put(resources: &mut Resources, kind: KindId, value: Value) {
    resources.insert(AnyObject::read(kind, value, None, |_| {}).unwrap());
}

fn condition(type_: &str, status: &str) -> Value {
    json!({"type": type_, "status": status, "reason": "Old", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn world(gateway_status: Value) -> Resources {
    let mut resources = Resources::default();
    put(
        &mut resources,
        KindId::GatewayClass,
        json!({"metadata": {"name": "c"}, "spec": {"controllerName": OURS}}),
    );
    put(
        &mut resources,
        KindId::Gateway,
        json!({
            "metadata": {"namespace": "infra", "name": "g", "generation": 7},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]},
            "status": gateway_status,
        }),
    );
    resources
}

fn later(options: &Options, seconds: u64) -> Options {
    let mut later = options.clone();
    later.now.0 += Duration::from_secs(seconds);
    later
}

fn types(conditions: &[Condition]) -> Vec<&str> {
    conditions.iter().map(|condition| condition.type_.as_str()).collect()
}

/// Conformance: GatewayPreserveForeignConditions.
#[test]
fn conditions_of_others_stay_and_known_times_are_kept() {
    let resources = world(json!({
        "conditions": [condition("Accepted", "True"), condition("example.com/Seen", "True"), condition("Programmed", "False")],
        "listeners": [{"name": "l", "attachedRoutes": 0, "conditions": [condition("example.com/Seen", "False")]}],
    }));
    let options = common::options();
    let translation = translate(&resources, &options);
    let status = translation.statuses.get(&ObjectKey::new(KindId::Gateway, "infra", "g")).unwrap();
    let conditions = status.conditions();
    assert_eq!(types(conditions), ["Accepted", "Programmed", "ResolvedRefs", "example.com/Seen"]);
    assert_eq!(conditions[0].last_transition_time.to_string(), "2026-01-01T00:00:00Z", "it was True before");
    assert_eq!(conditions[0].observed_generation, Some(7));
    assert_eq!(conditions[1].last_transition_time, options.now, "it was False before");
    assert_eq!(types(&status.listeners()[0].conditions).last(), Some(&"example.com/Seen"));
}

/// Conformance: HTTPRoutePreserveForeignStatus.
#[test]
fn entries_of_others_stay_where_they_are() {
    let mut resources = world(json!(null));
    let entry = |controller: &str, parent: &str| json!({"controllerName": controller, "parentRef": {"name": parent}, "conditions": [condition("Accepted", "False")]});
    put(
        &mut resources,
        KindId::HTTPRoute,
        json!({
            "metadata": {"namespace": "infra", "name": "r"},
            "spec": {"parentRefs": [{"name": "g"}, {"name": "theirs"}]},
            "status": {"parents": [entry(OURS, "gone"), entry("example.com/other", "theirs"), entry(OURS, "g"), entry("example.com/last", "g")]},
        }),
    );
    let translation = translate(&resources, &common::options());
    let key = ObjectKey::new(KindId::HTTPRoute, "infra", "r");
    let status = translation.statuses.get(&key).unwrap().route().unwrap().clone();
    let entries: Vec<_> = status
        .parents
        .iter()
        .map(|entry| (entry.controller_name.as_str(), entry.parent_ref.name.as_str()))
        .collect();
    assert_eq!(entries, [("example.com/other", "theirs"), (OURS, "g"), ("example.com/last", "g")]);
    assert_eq!(status.parents[0].conditions[0].reason, "Old");
    assert_eq!(status.parents[1].conditions[0].status, ConditionStatus::True);
}

#[test]
fn a_condition_that_stays_keeps_its_time_and_one_that_turns_gets_a_new_one() {
    let mut resources = world(json!(null));
    let mut translator = Translator::new();
    let options = common::options();
    let key = ObjectKey::new(KindId::Gateway, "infra", "g");
    let time = |status: &Status, nth: usize| status.conditions()[nth].last_transition_time;
    translator.update(&resources, &Changes::default(), &options);
    put(
        &mut resources,
        KindId::Gateway,
        json!({
            "metadata": {"namespace": "infra", "name": "g", "generation": 8},
            "spec": {"gatewayClassName": "c", "addresses": [{"value": "x"}], "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]},
        }),
    );
    let mut changes = Changes::default();
    changes.record(key.clone(), Change::Changed);
    let now = later(&options, 60);
    let translation = translator.update(&resources, &changes, &now);
    let status = translation.statuses.get(&key).unwrap();
    assert_eq!(time(status, 0), options.now, "still accepted");
    assert_eq!(time(status, 1), now.now, "no longer programmed");
    let again = translator.update(&resources, &Changes::default(), &later(&now, 60));
    assert_eq!(again.statuses, translation.statuses, "nothing changed, so nothing is to be written");
}

/// A certificate expires by itself.
#[test]
fn a_certificate_stops_being_served_when_it_expires() {
    let options = common::options();
    let mut params = rcgen::CertificateParams::new(["a.example.com".to_owned()]).unwrap();
    params.not_after = options.now.0 + Duration::from_secs(60);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let mut resources = Resources::default();
    put(
        &mut resources,
        KindId::GatewayClass,
        json!({"metadata": {"name": "c"}, "spec": {"controllerName": OURS}}),
    );
    put(
        &mut resources,
        KindId::Secret,
        json!({
            "metadata": {"namespace": "infra", "name": "s"}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
        }),
    );
    put(
        &mut resources,
        KindId::Gateway,
        json!({
            "metadata": {"namespace": "infra", "name": "g"},
            "spec": {"gatewayClassName": "c", "listeners": [{
                "name": "l", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "s"}]},
            }]},
        }),
    );
    let mut translator = Translator::new();
    let before = translator.update(&resources, &Changes::default(), &options);
    assert_eq!(before.plan.certificates.len(), 1);
    assert_eq!(before.expires, Some(params.not_after.unix_timestamp()));
    let after = translator.update(&resources, &Changes::default(), &later(&options, 61));
    assert!(after.plan.certificates.is_empty() && after.plan.ports.is_empty());
    assert_eq!(after.expires, None);
}

/// A certificate of many names is served like any other; one that is too large for TLS (64 KiB, as rustls has
/// it) is refused at once, and only on its own listener.
#[test]
fn a_certificate_may_have_many_names_but_not_16_000() {
    let served = |count: usize| {
        let names: Vec<_> = (0..count).map(|nth| format!("h{nth}.example.com")).collect();
        let generated = rcgen::generate_simple_self_signed(names).unwrap();
        let mut resources = world(json!(null));
        put(
            &mut resources,
            KindId::Secret,
            json!({
                "metadata": {"namespace": "infra", "name": "s"}, "type": "kubernetes.io/tls",
                "stringData": {"tls.crt": generated.cert.pem(), "tls.key": generated.signing_key.serialize_pem()},
            }),
        );
        put(
            &mut resources,
            KindId::Gateway,
            json!({
                "metadata": {"namespace": "infra", "name": "tls"},
                "spec": {"gatewayClassName": "c", "listeners": [{
                    "name": "l", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "s"}]},
                }]},
            }),
        );
        let translation = translate(&resources, &common::options());
        let status = translation.statuses.get(&ObjectKey::new(KindId::Gateway, "infra", "tls")).unwrap();
        let resolved = &status.listeners()[0].conditions[2];
        let names =
            translation.plan.certificates.values().map(|certificate| certificate.names.len()).sum::<usize>();
        (names, resolved.reason.clone(), translation.plan.ports.len())
    };
    assert_eq!(served(1000), (1000, "ResolvedRefs".to_owned(), 2));
    assert_eq!(served(16_000), (0, "InvalidCertificateRef".to_owned(), 1));
}
