//! What one changed route among 10,000 costs. Measures time, so it is run by hand:
//! `cargo test --release -p portway-translate --test scale -- --ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use portway_api::object::{KindId, ObjectKey};
use portway_store::{AnyObject, Change, Changes, Resources};
use portway_translate::{Translator, translate};
use serde_json::{Value, json};

const ROUTES: usize = 10_000;

fn put(resources: &mut Resources, kind: KindId, value: Value) {
    resources.insert(AnyObject::read(kind, value, None, |_| {}).unwrap());
}

fn route(nth: usize, hostnames: &Value, path: &str) -> Value {
    json!({
        "metadata": {"namespace": format!("team-{}", nth % 100), "name": format!("r{nth}")},
        "spec": {
            "parentRefs": [{"namespace": "infra", "name": "g"}],
            "hostnames": hostnames,
            "rules": [{
                "matches": [{"path": {"value": path}}, {"path": {"value": path}, "headers": [{"name": "x", "value": "1"}]}],
                "backendRefs": [{"name": format!("s{nth}"), "port": 80}],
            }],
        },
    })
}

fn measure(name: &str, hostnames: impl Fn(usize) -> Value) {
    let mut resources = Resources::default();
    put(
        &mut resources,
        KindId::GatewayClass,
        json!({"metadata": {"name": "c"}, "spec": {"controllerName": "portway.dev/gateway-controller"}}),
    );
    put(
        &mut resources,
        KindId::Gateway,
        json!({"metadata": {"namespace": "infra", "name": "g"}, "spec": {
            "gatewayClassName": "c",
            "listeners": [{"name": "l", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}],
        }}),
    );
    for nth in 0..ROUTES {
        let namespace = format!("team-{}", nth % 100);
        put(&mut resources, KindId::HTTPRoute, route(nth, &hostnames(nth), &format!("/p{nth}")));
        put(
            &mut resources,
            KindId::Service,
            json!({"metadata": {"namespace": namespace, "name": format!("s{nth}")}, "spec": {"ports": [{"port": 80}]}}),
        );
        put(
            &mut resources,
            KindId::EndpointSlice,
            json!({
                "metadata": {"namespace": namespace, "name": format!("s{nth}"), "labels": {"kubernetes.io/service-name": format!("s{nth}")}},
                "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}],
            }),
        );
    }
    let mut translator = Translator::new();
    let start = Instant::now();
    let mut last = translator.update(&resources, &Changes::default(), &common::options());
    println!("{name}: everything {:?}", start.elapsed());
    let mut edit = |what: &str, value: &dyn Fn(usize) -> (KindId, ObjectKey, Value)| {
        let mut times: Vec<Duration> = (0..20)
            .map(|nth| {
                let (kind, key, value) = value(nth);
                put(&mut resources, kind, value);
                let mut changes = Changes::default();
                changes.record(key, Change::Changed);
                let start = Instant::now();
                last = translator.update(&resources, &changes, &common::options());
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("{name}: one {what} {:?} median, {:?} worst", times[10], times[19]);
        assert!(times[10] < Duration::from_millis(10), "{name}: {what}");
    };
    edit("route", &|nth| {
        let key = ObjectKey::new(KindId::HTTPRoute, &format!("team-{}", nth % 100), &format!("r{nth}"));
        (KindId::HTTPRoute, key, route(nth, &hostnames(nth), &format!("/changed{nth}")))
    });
    edit("slice", &|nth| {
        let (namespace, name) = (format!("team-{}", nth % 100), format!("s{nth}"));
        let slice = json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.2"]}],
        });
        (KindId::EndpointSlice, ObjectKey::new(KindId::EndpointSlice, &namespace, &name), slice)
    });
    assert_eq!(last, translate(&resources, &common::options()));
}

#[test]
#[ignore = "measures time"]
fn one_route_among_many() {
    measure("a hostname each", |nth| json!([format!("h{nth}.example.com")]));
    measure("one hostname", |_| json!(["www.example.com"]));
    measure("no hostname", |_| json!([]));
}
