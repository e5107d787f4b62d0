//! What translation costs: 1,000 routes from scratch, and one change among them.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use portway_api::object::{KindId, ObjectKey, Time};
use portway_store::{AnyObject, Change, Changes, Resources};
use portway_translate::{Options, Translator, translate};
use serde_json::{Value, json};
use time::OffsetDateTime;

const ROUTES: usize = 1_000;

fn options() -> Options {
    Options::new(Time(OffsetDateTime::UNIX_EPOCH))
}

fn put(resources: &mut Resources, kind: KindId, value: Value) {
    resources.insert(AnyObject::read(kind, value, None, |_| {}).expect("an object"));
}

fn namespace(nth: usize) -> String {
    format!("team-{}", nth % 100)
}

fn route(nth: usize, path: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace(nth), "name": format!("r{nth}")},
        "spec": {
            "parentRefs": [{"namespace": "infra", "name": "g"}],
            "hostnames": [format!("h{nth}.example.com")],
            "rules": [{
                "matches": [
                    {"path": {"value": path}},
                    {"path": {"value": path}, "headers": [{"name": "x", "value": "1"}]},
                ],
                "backendRefs": [{"name": format!("s{nth}"), "port": 80}],
            }],
        },
    })
}

fn slice(nth: usize, address: &str) -> Value {
    let name = format!("s{nth}");
    json!({
        "metadata": {"namespace": namespace(nth), "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": [address]}],
    })
}

/// A Gateway, and routes with a host name, a Service and an endpoint each.
fn resources() -> Resources {
    let mut resources = Resources::default();
    let controller = json!({"controllerName": "portway.dev/gateway-controller"});
    put(&mut resources, KindId::GatewayClass, json!({"metadata": {"name": "c"}, "spec": controller}));
    let routes = json!({"namespaces": {"from": "All"}});
    let listener = json!({"name": "l", "port": 80, "protocol": "HTTP", "allowedRoutes": routes});
    let spec = json!({"gatewayClassName": "c", "listeners": [listener]});
    put(
        &mut resources,
        KindId::Gateway,
        json!({"metadata": {"namespace": "infra", "name": "g"}, "spec": spec}),
    );
    for nth in 0..ROUTES {
        let name = json!({"namespace": namespace(nth), "name": format!("s{nth}")});
        put(&mut resources, KindId::HTTPRoute, route(nth, &format!("/p{nth}")));
        put(&mut resources, KindId::Service, json!({"metadata": name, "spec": {"ports": [{"port": 80}]}}));
        put(&mut resources, KindId::EndpointSlice, slice(nth, "10.0.0.1"));
    }
    resources
}

fn scratch(criterion: &mut Criterion) {
    let resources = resources();
    criterion.bench_function("1,000 routes from scratch", |bencher| {
        bencher.iter_with_large_drop(|| translate(black_box(&resources), &options()));
    });
}

/// An object changes to and fro; what is measured is the translation of each change.
fn change(criterion: &mut Criterion, what: &str, kind: KindId, name: &str, versions: [Value; 2]) {
    let mut resources = resources();
    let mut translator = Translator::new();
    translator.update(&resources, &Changes::default(), &options());
    let mut changes = Changes::default();
    changes.record(ObjectKey::new(kind, &namespace(7), name), Change::Changed);
    let mut turn = versions.iter().cycle();
    criterion.bench_function(what, |bencher| {
        bencher.iter_batched(
            || {
                put(&mut resources, kind, turn.next().expect("versions").clone());
                resources.clone()
            },
            |resources| translator.update(&resources, &changes, &options()),
            BatchSize::PerIteration,
        );
    });
}

fn changes(criterion: &mut Criterion) {
    let routes = ["/a", "/b"].map(|path| route(7, path));
    change(criterion, "one route among 1,000", KindId::HTTPRoute, "r7", routes);
    let slices = ["10.0.0.2", "10.0.0.3"].map(|address| slice(7, address));
    change(criterion, "one endpoint among 1,000", KindId::EndpointSlice, "s7", slices);
}

criterion_group!(benches, scratch, changes);
criterion_main!(benches);
